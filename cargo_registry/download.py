"""Downloads: find a listed version's tarball, and count what was fetched."""

import asyncio
import gzip
import hashlib
import os
import re
import zlib
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

from sqlalchemy import Connection

from cargo_registry.crate.entry import tarball_key
from cargo_registry.crate.names import CrateName, shown
from cargo_registry.db import audit, crates, downloads, mirrors
from cargo_registry.db import tokens as token_rows
from cargo_registry.db.crates import Listed
from cargo_registry.errors import Conflict, Damaged, Invalid, NotFound
from cargo_registry.registry import Registry, Site
from cargo_registry.tokens import operator


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
    registry.uses.count_download(listed.version_id, registry.now().date())


async def flush(site: Site | Registry) -> None:
    """Write what was counted since the last flush, in one transaction. Where that fails, the next one does."""
    # Taken out first: a flush that is cancelled is still written, and the next one must not write it again.
    used = site.uses.take()
    if not used.downloads and not used.tokens and not used.downloaders:
        return

    def write(tx: Connection) -> None:
        downloads.add(tx, used.downloads)
        token_rows.note_use(tx, used.tokens.items())
        mirrors.add_downloads(tx, used.downloaders, now=site.now())

    try:
        await site.db.write(write)
    except Exception:
        site.uses.give_back(used)
        raise


# --- What nginx served ---

# nginx's times, whatever the locale: `25/Nov/2026:16:11:13 +0000`.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# A whole answer to a GET of what `crate.entry.tarball_key` spells.
_SERVED = re.compile(
    rb"\[(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)\] "
    rb'"GET [^ "]*?/([a-z][a-z0-9-]*)/[^/ "]+(?:/[^/ "]+)?/([A-Za-z][A-Za-z0-9_-]*)/\11-([0-9A-Za-z.+-]+)-[0-9a-f]{64}'
    rb'\.crate(?:\?[^ "]*)? HTTP/[0-9.]+" 200 '
)


@dataclass(frozen=True, slots=True)
class Imported:
    """What was found in a log."""

    downloads: int
    unknown: int  # of versions, or registries, that are not here


async def import_log(site: Site, file: Path) -> Imported:
    """Count the downloads in a log of nginx, by version and by day in UTC.

    Raises:
        Invalid: the file cannot be read.
        Conflict: it has been counted before.
    """
    try:
        served, digest = await asyncio.to_thread(_served, file)
    except (OSError, EOFError, zlib.error) as error:
        raise Invalid(f"`{file}` cannot be read: {error}") from None

    def add(tx: Connection) -> Imported:
        if audit.is_recorded(tx, "downloads-import", digest):
            raise Conflict(f"`{file}` has been counted before; give each rotated log once")
        counts: Counter[tuple[int, date]] = Counter()
        for (registry, name, vers, day), count in served.items():
            listed = crates.listed(tx, registry, name, vers)
            if listed is not None:
                counts[listed.version_id, day] += count
        downloads.add(tx, counts)
        audit.record(tx, "downloads-import", actor=operator(), now=site.now(), detail=digest)
        return Imported(counts.total(), served.total() - counts.total())

    return await site.db.write(add)


def _served(file: Path) -> tuple[Counter[tuple[str, str, str, date]], str]:
    """Return the downloads by registry, name, version and day, and the log's SHA-256."""
    served: Counter[tuple[str, str, str, date]] = Counter()
    sha256 = hashlib.sha256()
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
        for line in lines:
            sha256.update(line)
            match = _SERVED.search(line)
            if match is None or match[2].decode() not in _MONTHS:
                continue
            registry, name, vers = (part.decode() for part in match.group(10, 11, 12))
            served[registry, name, vers, _day(match)] += 1
    return served, sha256.hexdigest()


def _day(match: re.Match[bytes]) -> date:
    day, year, hour, minute, second, zone_hours, zone_minutes = map(int, match.group(1, 3, 4, 5, 6, 8, 9))
    offset = timedelta(hours=zone_hours, minutes=zone_minutes) * (-1 if match[7] == b"-" else 1)
    at = datetime(
        year, _MONTHS.index(match[2].decode()) + 1, day, hour, minute, second, tzinfo=timezone(offset)
    )
    return at.astimezone(UTC).date()
