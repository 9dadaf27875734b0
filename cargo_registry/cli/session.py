"""What every command takes, and how it gets at the data."""

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from cargo_registry import config, index
from cargo_registry.config import Config
from cargo_registry.errors import ConfigError
from cargo_registry.registry import Registry, Site, close_site, open_site

T = TypeVar("T")

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        envvar="CRG_CONFIG",
        help="Settings. Default: config.toml in the current folder, if it is there.",
        show_default=False,
    ),
]
DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        envvar="CRG_DATA_DIR",
        help="Where index_data/, crates_storage/ and registry.db are. Made if missing. Default: here.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
RegistryName = Annotated[
    str | None,
    typer.Option(
        "--registry", metavar="NAME", help="Which registry. Default: the default one.", show_default=False
    ),
]
RegistryOrAll = Annotated[
    str | None,
    typer.Option("--registry", metavar="NAME", help="Which registry. Default: all.", show_default=False),
]
HERE = Path()

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1), "y": timedelta(days=365)}


def load(file: Path | None, data_dir: Path) -> Config:
    """Return the settings that hold for this command."""
    return config.load(file, data_dir=data_dir, environ=os.environ)


def run(
    file: Path | None,
    data_dir: Path,
    work: Callable[[Site], Awaitable[T]],
    url: str | None = None,
    *,
    is_server: bool = False,
) -> T:
    """Open the data, also beside a running server, do the work and close it; return what the work returns.

    `url` is where a server listens, if that is known. A command says that the folder was empty before, as it may
    be the wrong one; a server (`is_server`) has hints of its own.
    """
    settings = load(file, data_dir)
    is_new = not (data_dir / "registry.db").exists()
    folder = data_dir.absolute()

    async def session() -> T:
        site = open_site(settings, url)
        if is_new and not is_server:
            say(f"made a new, empty registry in {folder}; `--data-dir` names another folder")
        try:
            for registry in site.registries.values():
                await index.recover(registry)
            return await work(site)
        finally:
            await close_site(site)

    return asyncio.run(session())


def pick(site: Site, name: str | None) -> Registry:
    """Return the registry of this name; for None the one at the root of the site, or the only one there is.

    Raises:
        ConfigError: the configuration names no such registry, or several and none of them is the default.
    """
    known = ", ".join(f"`{known}`" for known in site.registries)
    if name is None:
        chosen = site.root or (next(iter(site.registries.values())) if len(site.registries) == 1 else None)
        if chosen is None:
            raise ConfigError(f"say which registry with `--registry`; the configuration has {known}")
        return chosen
    if name not in site.registries:
        raise ConfigError(f"there is no registry `{name}`; the configuration has {known}")
    return site.registries[name]


def pick_or_all(site: Site, name: str | None) -> list[Registry]:
    """Return the registry of this name, all of them for None."""
    return list(site.registries.values()) if name is None else [pick(site, name)]


def duration(text: str) -> timedelta:
    """Return what 12h, 90d, 4w or 1y mean."""
    match = re.fullmatch(r"([0-9]{1,5})([hdwy])", text)
    if match is None or int(match[1]) == 0:
        raise typer.BadParameter(f"`{text}` is not a time: write 12h, 90d, 4w or 1y")
    return int(match[1]) * _UNITS[match[2]]


def show(value: Any) -> None:
    """Print a value as JSON."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def show_rows(headers: Sequence[str], rows: Sequence[Sequence[object]], *, none: str) -> None:
    """Print rows as a table for people; `none` says that there are no rows."""
    if not rows:
        print(none, file=sys.stderr)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    # Not cut to 80 columns where the output is no terminal: a script or a pager reads on.
    width = None if sys.stdout.isatty() else 10_000
    Console(highlight=False, markup=False, width=width).print(table)


def say(text: str) -> None:
    """Tell a person, on stderr, so that stdout holds only what was asked for."""
    print(text, file=sys.stderr)
