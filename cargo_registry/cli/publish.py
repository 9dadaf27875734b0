"""`cargo-registry publish`: an operator's direct publish, through the same checks, without HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from cargo_registry import publish as publishing
from cargo_registry import tokens
from cargo_registry.cli.progress import Progress
from cargo_registry.cli.session import HERE, AsJson, ConfigFile, DataDir, RegistryName, pick, run, say, show
from cargo_registry.db import users
from cargo_registry.errors import RegistryError
from cargo_registry.registry import Registry, Site
from cargo_registry.tokens import Caller


def publish(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE.crate...", help="As `cargo package` makes them.")
    ],
    login: Annotated[str, typer.Option("--as", metavar="LOGIN", help="Who publishes, and owns new names.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what publishing would answer, and store nothing.")
    ] = False,
    registry: RegistryName = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Publish crates from files. A refused one is reported and the rest go on; exit 1 if any was refused."""

    async def work(site: Site) -> list[dict[str, object]]:
        chosen = pick(site, registry)
        caller = tokens.acting_for(await site.db.read(users.get, login))
        results = []
        with Progress(f"publishing to {chosen.name}", total=len(files)) as progress:
            for file in files:
                results.append(await _publish_one(chosen, caller, file, dry_run=dry_run))
                if not as_json:
                    _tell(results[-1], dry_run=dry_run)
                progress.step(file.name)
        return results

    results = run(config, data_dir, work)
    refused = sum(1 for result in results if result["error"])
    if as_json:
        show(results)
    else:
        say(f"{len(results) - refused} {'would be published' if dry_run else 'published'}, {refused} refused")
    if refused:
        raise typer.Exit(1)


async def _publish_one(registry: Registry, caller: Caller, file: Path, *, dry_run: bool) -> dict[str, object]:
    work = publishing.check if dry_run else publishing.publish
    try:
        async with publishing.taken_from(registry, file) as upload:
            published = await work(registry, caller, None, upload)
    except RegistryError as error:
        return {"file": str(file), "crate": None, "vers": None, "warnings": [], "error": str(error)}
    return {
        "file": str(file),
        "crate": published.entry.name.text,
        "vers": published.entry.vers,
        "warnings": list(published.warnings),
        "error": None,
    }


def _tell(result: dict[str, object], *, dry_run: bool) -> None:
    if result["error"]:
        say(f"refused {result['file']}: {result['error']}")
        return
    print(f"{'would publish' if dry_run else 'published'} {result['crate']}@{result['vers']}")
    for warning in result["warnings"]:  # type: ignore[attr-defined]
        say(f"warning: {result['crate']}@{result['vers']}: {warning}")
