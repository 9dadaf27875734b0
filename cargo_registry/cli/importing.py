"""`cargo-registry import`: fill a registry from crates that exist elsewhere."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cargo_registry import importing, tokens
from cargo_registry.cli.progress import Progress
from cargo_registry.cli.session import HERE, AsJson, ConfigFile, DataDir, RegistryName, pick, run, say, show
from cargo_registry.db import users
from cargo_registry.importing import Candidate, Remote, Report
from cargo_registry.registry import Site

TOKEN_VARIABLE = "CRG_IMPORT_TOKEN"  # noqa: S105 the name of a variable


def import_(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="`.crate` files, folders of them, what `cargo vendor` or `cargo local-registry` made, "
            "or another registry as sparse+https://…/",
        ),
    ],
    login: Annotated[str, typer.Option("--as", metavar="LOGIN", help="Who publishes, and owns new names.")],
    crate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="From another registry, only this crate; repeat for several. Default: all it lists.",
            show_default=False,
        ),
    ] = None,
    registry: RegistryName = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Import crates through the same gate as a publish, keeping what is yanked and when it was published.

    What is there is left out, so run it again to go on after a stop. Exit 1 if any was refused. A token for another
    registry is taken from the environment variable CRG_IMPORT_TOKEN. A crate from `cargo vendor` gets a new tarball
    with another checksum: lock files that name the old one do not fit it.
    """

    async def work(site: Site) -> Report:
        chosen = pick(site, registry)
        caller = tokens.acting_for(await site.db.read(users.get, login))
        remotes = [
            Remote(source, os.environ.get(TOKEN_VARIABLE))
            for source in sources
            if source.startswith("sparse+")
        ]
        try:
            candidates: list[Candidate] = []
            for source in sources:
                if not source.startswith("sparse+"):
                    candidates += importing.from_path(Path(source))
            for remote in remotes:
                candidates += await remote.candidates(crate or ())
            with Progress(f"importing to {chosen.name}", total=len(candidates)) as progress:
                return await importing.run(chosen, caller, candidates, progress=progress.step)
        finally:
            for remote in remotes:
                await remote.close()

    try:
        report = run(config, data_dir, work)
    except KeyboardInterrupt:
        say("interrupted; what was imported stays, run the same command again to go on")
        raise typer.Exit(130) from None
    if as_json:
        show(report)
    else:
        _tell(report.warnings, "warning: ")
        _tell(report.refused, "refused ")
        say(f"{len(report.imported)} imported, {len(report.had)} were there, {len(report.refused)} refused")
    if report.refused:
        raise typer.Exit(1)


def _tell(lines: Sequence[tuple[str, str]], prefix: str) -> None:
    for label, sentence in lines:
        say(f"{prefix}{label}: {sentence}")
