"""Downloads: find a listed version's tarball, and count what was fetched."""

from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection

from cargo_registry.crate.entry import tarball_key
from cargo_registry.crate.names import CrateName, shown
from cargo_registry.db import crates, downloads, mirrors
from cargo_registry.db import tokens as token_rows
from cargo_registry.db.crates import Listed
from cargo_registry.errors import NotFound
from cargo_registry.registry import Registry, Site


def find(registry: Registry, name: str, vers: str) -> tuple[Listed, Path]:
    """Return a listed version and where its tarball lies; the crate's name in any spelling.

    Found through the rows, so that a tarball without a listed version is never served.

    Raises:
        NotFound: there is no such crate or version.
    """
    listed = registry.db.look_up(crates.listed, registry.name, name, vers)
    if listed is None:
        raise NotFound(f"crate {shown(name)} does not have a version {shown(vers)}")
    key = tarball_key(CrateName.stored(listed.name), listed.vers, listed.cksum)
    return listed, registry.tarballs.path(f"{registry.name}/{key}")


def count(registry: Registry, listed: Listed) -> None:
    """Count one download, in memory; `flush` writes."""
    registry.uses.downloads[listed.version_id, registry.now().date()] += 1


async def flush(site: Site) -> None:
    """Write what was counted since the last flush, in one transaction. Where that fails, the next one does."""
    counts = dict(site.uses.downloads)
    tokens = dict(site.uses.tokens)
    downloaders = dict(site.uses.downloaders)
    if not counts and not tokens and not downloaders:
        return

    def write(tx: Connection) -> None:
        downloads.add(tx, counts)
        token_rows.note_use(tx, tokens.items())
        mirrors.add_downloads(tx, downloaders, now=site.now())

    await site.db.write(write)
    for downloader, count in downloaders.items():
        site.uses.downloaders[downloader] -= count
        if not site.uses.downloaders[downloader]:
            del site.uses.downloaders[downloader]
    site.uses.downloads.subtract(counts)
    for key in counts:
        if not site.uses.downloads[key]:
            del site.uses.downloads[key]
    _forget(site.uses.tokens, tokens)


def _forget(uses: dict[int, datetime], written: dict[int, datetime]) -> None:
    for token_id, at in written.items():
        if uses.get(token_id) == at:
            del uses[token_id]
