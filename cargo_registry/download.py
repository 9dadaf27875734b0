"""Downloads: find a listed version's tarball, and count what was fetched."""

import os

from sqlalchemy import Connection

from cargo_registry.crate.entry import tarball_key
from cargo_registry.crate.names import CrateName, shown
from cargo_registry.db import crates, downloads, mirrors
from cargo_registry.db import tokens as token_rows
from cargo_registry.db.crates import Listed
from cargo_registry.errors import Damaged, NotFound
from cargo_registry.registry import Registry, Site


def find(registry: Registry, name: str, vers: str) -> tuple[Listed, str]:
    """Return a listed version and where its tarball lies; the crate's name in any spelling.

    Found through the rows, so that a tarball without a listed version is never served.

    Raises:
        NotFound: there is no such crate or version.
        Damaged: its tarball is missing, cut, or was found not to be what was published.
    """
    listed = registry.db.remembered(crates.listed, registry.name, name, vers)
    if listed is None:
        raise NotFound(f"crate {shown(name)} does not have a version {shown(vers)}")
    key = tarball_key(CrateName.stored(listed.name), listed.vers, listed.cksum)
    # Not by `DiskStore.path`: what it checks of a key takes ten times as long as this.
    path = f"{registry.tarballs.root}/{registry.name}/{key}"
    try:
        is_whole = os.stat(path).st_size == listed.size
    except FileNotFoundError:
        is_whole = False
    if listed.damage is not None or not is_whole:
        raise Damaged(
            f"the tarball of `{listed.name}@{listed.vers}` is damaged in this registry's store and is not served; "
            f"tell the registry's operator to run `cargo-registry fsck`"
        )
    return listed, path


def count(registry: Registry, listed: Listed) -> None:
    """Count one download, in memory; `flush` writes."""
    registry.uses.downloads[listed.version_id, registry.now().date()] += 1


async def flush(site: Site | Registry) -> None:
    """Write what was counted since the last flush, in one transaction. Where that fails, the next one does."""
    counts = dict(site.uses.downloads)
    tokens = dict(site.uses.tokens)
    downloaders = dict(site.uses.downloaders)
    if not counts and not tokens and not downloaders:
        return
    # Taken out first: a flush that is cancelled is still written, and the next one must not write it again.
    site.uses.downloads.clear()
    site.uses.tokens.clear()
    site.uses.downloaders.clear()

    def write(tx: Connection) -> None:
        downloads.add(tx, counts)
        token_rows.note_use(tx, tokens.items())
        mirrors.add_downloads(tx, downloaders, now=site.now())

    try:
        await site.db.write(write)
    except Exception:
        site.uses.downloads.update(counts)
        for token_id, at in tokens.items():
            site.uses.tokens.setdefault(token_id, at)
        site.uses.downloaders.update(downloaders)
        raise
