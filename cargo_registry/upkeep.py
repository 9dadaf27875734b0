"""Upkeep: is what is stored what was published? Rows, index files and tarballs, compared and repaired.

Safe beside a running server: what changes meanwhile is looked at again under its lock, and what belongs to nobody
is left alone until it is old enough not to be on its way in.
"""

import asyncio
import fcntl
import hashlib
import logging
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from cargo_registry import index
from cargo_registry.crate import manifest, tarball
from cargo_registry.crate.entry import tarball_key
from cargo_registry.crate.names import CrateName
from cargo_registry.db import audit
from cargo_registry.db import upkeep as rows
from cargo_registry.db.audit import Actor
from cargo_registry.db.upkeep import Stored
from cargo_registry.errors import Invalid, RegistryError
from cargo_registry.registry import Registry, Site
from cargo_registry.storage.disk import reporting

log = logging.getLogger(__name__)

GRACE_S = 3600  # no publish lasts so long
RECENT = timedelta(hours=24)

_BATCH = 200
_PIECE_BYTES = 1024 * 1024
# In the background: half of the time asleep, and never more than about 20 MB/s.
_BACKGROUND_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be."""

    registry: str
    what: str  # `CRATE@VERSION`, a crate, or a key in a store
    problem: str  # a sentence about it
    repaired: bool = False


async def fsck(
    registry: Registry,
    *,
    deep: bool,
    repair: bool,
    resume: bool = False,
    progress: Callable[[str], None],
) -> AsyncIterator[Finding]:
    """Compare rows, index files and tarballs, and yield what is wrong; `repair` puts right what can be.

    `deep` also reads every tarball, compares its checksum, and puts it through today's gate; `resume` then
    leaves out what was found good within the last day. A damaged tarball is not served until it is restored.
    """
    async for name in index.differences(registry):
        yield Finding(registry.name, name, "the index file is not what the rows say", repaired=repair)
    if repair:
        await index.rebuild(registry, progress=lambda _name: None)
    async for version in _every_version(registry, resume=resume):
        problem = rows.disagreement(version)
        if problem is not None:
            yield Finding(registry.name, _name(version), problem)
        damage = await _look_at(registry, version, deep=deep)
        if damage is not None:
            yield Finding(registry.name, _name(version), damage)
        elif deep and (refusal := await asyncio.to_thread(_gate, _path(registry, version), version)):
            yield Finding(registry.name, _name(version), f"the gate would refuse it today: {refusal}")
        progress(_name(version))
    async for orphan in _orphans(registry):
        if repair and not await registry.db.in_writer(partial(_drop, registry, orphan)):
            continue
        yield Finding(registry.name, orphan, "a tarball that no version has", repaired=repair)


async def verify_in_background(site: Site, *, days: int) -> None:
    """Read every tarball once in so many days, slowly, for ever. One process at a time does it.

    What is found goes to the log and the audit log, and to `/healthz` through the rows.
    """
    while True:
        try:
            with _alone(site) as alone:
                for registry in site.registries.values() if alone else ():
                    await _verify_due(registry, days=days)
        except RegistryError as error:
            log.warning("tarballs are verified later: %s", error)
        except Exception:
            # A bug. Without this the task would end, and nobody would hear of it.
            log.exception("tarballs are verified later")
        await asyncio.sleep(60)


async def _verify_due(registry: Registry, *, days: int) -> None:
    not_since = registry.now() - timedelta(days=days)
    while batch := await registry.db.read(rows.stored, registry.name, limit=20, not_since=not_since):
        for version in batch:
            damage = await _look_at(registry, version, deep=True, pause_s=_BACKGROUND_PAUSE_S)
            if damage is not None:
                log.error("%s in registry %s: %s", _name(version), registry.name, damage)


async def _every_version(registry: Registry, *, resume: bool) -> AsyncIterator[Stored]:
    not_since = registry.now() - RECENT if resume else None
    after_id = 0
    while batch := await registry.db.read(
        rows.stored, registry.name, after_id=after_id, limit=_BATCH, not_since=not_since
    ):
        for version in batch:
            yield version
        after_id = batch[-1].id


async def _look_at(registry: Registry, version: Stored, *, deep: bool, pause_s: float = 0.0) -> str | None:
    """Return what is wrong with a version's tarball, and record it; None: nothing was found wrong."""
    path = _path(registry, version)
    work = (lambda: _read(path, version, pause_s)) if deep else (lambda: _stat(path, version))
    # Without reading it, a good size proves nothing: what was found before stays true.
    damage = await asyncio.to_thread(work) or (None if deep else version.damage)
    if damage is not None and not await registry.db.read(rows.is_listed, version.id):
        return None  # deleted while it was looked at
    if damage is not None or deep:
        await registry.db.write(_note, registry, version, damage)
    return damage


def _note(tx: Connection, registry: Registry, version: Stored, damage: str | None) -> None:
    now = registry.now()
    if rows.note(tx, version.id, damage=damage, now=now):
        audit.record(
            tx,
            "damage-found" if damage else "damage-gone",
            actor=Actor("upkeep"),
            now=now,
            registry=registry.name,
            crate=version.crate,
            vers=version.vers,
            detail=damage or "the tarball is as it was published",
        )


def _stat(path: Path, version: Stored) -> str | None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return "the tarball is missing"
    except OSError as error:
        return f"the tarball cannot be read: {error.strerror}"
    if size != version.size:
        return f"the tarball has {size} bytes and should have {version.size}"
    return None


def _read(path: Path, version: Stored, pause_s: float) -> str | None:
    problem = _stat(path, version)
    if problem is not None:
        return problem
    sha256 = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                sha256.update(piece)
                time.sleep(pause_s)
            # Not to push what people download out of the page cache.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        return f"the tarball cannot be read: {error.strerror}"
    if sha256.hexdigest() != version.cksum:
        return "the tarball's bytes are not those that were published"
    return None


def _gate(path: Path, version: Stored) -> str | None:
    """Return why a stored tarball would be refused today, None if it would not."""
    try:
        found = tarball.inspect(path, version.crate, version.vers)
        manifest.parse(found.manifest, members=found.members)
    except Invalid as error:
        return str(error)
    return None


async def _orphans(registry: Registry) -> AsyncIterator[str]:
    """Yield the keys of tarballs that no version has and that are too old to be on their way in."""
    old = registry.now().timestamp() - GRACE_S
    batch: list[str] = []
    for key in await asyncio.to_thread(lambda: list(registry.tarballs.keys(registry.name))):
        batch.append(key)
        if len(batch) == _BATCH:
            for orphan in await _unlisted(registry, batch, old):
                yield orphan
            batch = []
    for orphan in await _unlisted(registry, batch, old):
        yield orphan


async def _unlisted(registry: Registry, keys: list[str], old: float) -> list[str]:
    by_cksum = {key: _cksum(key) for key in keys}
    listed = await registry.db.read(rows.listed_cksums, registry.name, set(by_cksum.values()))
    return [key for key in keys if by_cksum[key] not in listed and _mtime(registry, key) < old]


def _mtime(registry: Registry, key: str) -> float:
    try:
        return registry.tarballs.path(key).stat().st_mtime
    except FileNotFoundError:
        return math.inf  # deleted meanwhile


def _drop(registry: Registry, key: str) -> bool:
    """Delete an orphan; return False if meanwhile it is none: the same bytes may just be published again."""
    name = CrateName.stored(Path(key).parent.name)
    with registry.locks.hold(f"{registry.name}/{name.canonical}"):
        with registry.db.transaction() as tx:
            listed = rows.listed_cksums(tx, registry.name, [_cksum(key)])
        if not listed:
            registry.tarballs.delete(key)
        return not listed


def _cksum(key: str) -> str:
    return key.removesuffix(".crate")[-64:]


@contextmanager
def _alone(site: Site) -> Iterator[bool]:
    """Say whether this process may do the work that only one does at a time."""
    folder = next(iter(site.registries.values())).index_files.root / ".locks"
    with reporting():
        descriptor = os.open(folder / "upkeep", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


def _path(registry: Registry, version: Stored) -> Path:
    key = tarball_key(CrateName.stored(version.crate), version.vers, version.cksum)
    return registry.tarballs.path(f"{registry.name}/{key}")


def _name(version: Stored) -> str:
    return f"{version.crate}@{version.vers}"
