"""`cargo-registry downloads …`: counts of what somebody else served."""

from pathlib import Path
from typing import Annotated

import typer

from cargo_registry import download
from cargo_registry.cli.session import HERE, AsJson, ConfigFile, DataDir, run, show
from cargo_registry.download import Imported
from cargo_registry.registry import Site

app = typer.Typer(help="Download counts.", no_args_is_help=True)


@app.command("import-log")
def import_log(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="nginx's log, rotated so that nobody writes it any more; also .gz."
        ),
    ],
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Count the downloads that nginx served from crates_storage/; see docs/nginx.md. Each file once."""

    async def work(site: Site) -> Imported:
        return await download.import_log(site, file)

    found = run(config, data_dir, work)
    if as_json:
        show({"downloads": found.downloads, "unknown": found.unknown})
    else:
        print(f"{found.downloads} downloads counted; {found.unknown} of versions that are not here")
