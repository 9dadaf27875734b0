"""`cargo-registry index …`: whether the index files are what the rows say."""

import typer

from cargo_registry import index
from cargo_registry.cli.progress import Progress
from cargo_registry.cli.session import (
    HERE,
    AsJson,
    ConfigFile,
    DataDir,
    RegistryOrAll,
    pick_or_all,
    run,
    say,
    show,
)
from cargo_registry.registry import Site

app = typer.Typer(help="Index files: renderings of the database's rows.", no_args_is_help=True)


@app.command()
def verify(
    registry: RegistryOrAll = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Name each crate whose index file is not what its rows say; exit 1 if there is one."""

    async def work(site: Site) -> list[dict[str, str]]:
        return [
            {"registry": chosen.name, "crate": name}
            for chosen in pick_or_all(site, registry)
            async for name in index.differences(chosen)
        ]

    wrong = run(config, data_dir, work)
    if as_json:
        show({"wrong": wrong})
    for found in wrong if not as_json else ():
        print(f"{found['registry']}: the index file of `{found['crate']}` is not what its rows say")
    if wrong:
        say(f"{len(wrong)} index files are wrong; `cargo-registry index rebuild` writes them anew")
        raise typer.Exit(1)


@app.command()
def rebuild(
    registry: RegistryOrAll = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Write anew each index file that is missing or not what its rows say, byte for byte as it was."""

    async def work(site: Site) -> dict[str, int]:
        changed = {}
        for chosen in pick_or_all(site, registry):
            with Progress(f"index of {chosen.name}") as progress:
                changed[chosen.name] = await index.rebuild(chosen, progress=progress.step)
        return changed

    changed = run(config, data_dir, work)
    if as_json:
        show({"changed": changed})
    else:
        for name, count in changed.items():
            say(f"{name}: {count} index files written anew")
