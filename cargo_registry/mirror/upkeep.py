"""Looking after a mirror: exceptions from the rules, what is stored, room on the disk, and who has what."""

import asyncio
import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Literal

from sqlalchemy import Connection

from cargo_registry import index
from cargo_registry.crate.entry import tarball_key
from cargo_registry.crate.names import CrateName, canonical
from cargo_registry.db import audit, mirrors, upkeep
from cargo_registry.db.audit import Actor
from cargo_registry.db.mirrors import Download, Failure, Seen, Tarball
from cargo_registry.errors import Invalid, NotFound
from cargo_registry.mirror.pull_through import render
from cargo_registry.policy import serving
from cargo_registry.policy.serving import Ruling
from cargo_registry.registry import Registry

_OPERATOR = Actor("operator")
_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Status:
    """How a mirror is doing."""

    files: int  # crates that are known
    gone: int  # of them, those that upstream has no more
    oldest_check: datetime | None
    newest_check: datetime | None
    tarballs: int
    bytes: int
    failures: Sequence[Failure]
    troubled: int  # versions that vanished or changed upstream
    alarms: Sequence[tuple[str, str, datetime, str]]  # kind, name, since, detail
    rulings: Sequence[Ruling]


@dataclass(frozen=True, slots=True)
class Trouble:
    """A version that upstream took away or changed, and who has it."""

    version: Seen
    downloads: Sequence[Download]


async def rule(
    registry: Registry,
    kind: Literal["allow", "deny"],
    text: str,
    *,
    reason: str,
    until: datetime | None,
) -> tuple[int, list[str]]:
    """Make an exception from the rules; return its id and the known crates that it is about. It holds at once.

    Raises:
        Invalid: the reason is empty, the time is over, or the pattern cannot be read.
    """
    now = registry.now()
    pattern = serving.pattern(text)
    if not pattern.name or not reason.strip():
        raise Invalid("an exception needs a crate and a reason")
    if until is not None and until <= now:
        raise Invalid(f"{until:%Y-%m-%d %H:%M} UTC is over")

    def add(tx: Connection) -> int:
        audit.record(
            tx,
            f"mirror-{kind}",
            actor=_OPERATOR,
            now=now,
            registry=registry.name,
            crate=text,
            detail=reason + (f" (until {until:%Y-%m-%d %H:%M} UTC)" if until else ""),
        )
        return mirrors.add_ruling(
            tx,
            registry.name,
            kind=kind,
            pattern=text,
            reason=reason,
            until=until,
            by=_OPERATOR.name,
            now=now,
        )

    ruling_id = await registry.db.write(add)
    return ruling_id, await _render_matching(registry, pattern)


async def revoke(registry: Registry, ruling_id: int) -> str:
    """Take an exception back, at once, and return its pattern.

    Raises:
        NotFound: there is none of this id.
    """

    def remove(tx: Connection) -> str | None:
        pattern = mirrors.remove_ruling(tx, registry.name, ruling_id)
        if pattern is not None:
            audit.record(
                tx,
                "mirror-revoke",
                actor=_OPERATOR,
                now=registry.now(),
                registry=registry.name,
                crate=pattern,
                detail=f"exception {ruling_id}",
            )
        return pattern

    text = await registry.db.write(remove)
    if text is None:
        raise NotFound(f"mirror `{registry.name}` has no exception {ruling_id}; `mirror rulings` lists them")
    await _render_matching(registry, serving.pattern(text))
    return text


async def verify(
    registry: Registry, *, progress: Callable[[str], None]
) -> tuple[int, list[tuple[Tarball, str]]]:
    """Read every stored tarball; return how many there are, and which are not what their index line says.

    Those are not served any more, and fetched anew when somebody wants them.
    """
    stored = await registry.db.read(mirrors.tarballs, registry.name)
    wrong = []
    for tarball in stored:
        line = await registry.db.read(_held_cksum, registry, tarball)
        problem = await asyncio.to_thread(_look_at, registry, tarball)
        if problem is None and line not in (None, tarball.cksum):
            problem = f"its index line has the checksum {line}"
        if problem is not None:
            wrong.append((tarball, problem))
        await registry.db.write(
            partial(upkeep.note, version_id=tarball.version_id, damage=problem, now=registry.now())
        )
        progress(f"{tarball.name}@{tarball.vers}")
    return len(stored), wrong


async def collect(
    registry: Registry, *, unused: timedelta | None, max_bytes: int | None, dry_run: bool
) -> tuple[list[Tarball], int]:
    """Remove tarballs that nobody used for so long, then the longest unused until the rest fits.

    Return what was removed, longest unused first, and the bytes that are left. A removed one is fetched again when
    somebody wants it. Who downloaded it stays known.
    """
    now = registry.now()
    stored = await registry.db.read(mirrors.tarballs, registry.name)
    used = await asyncio.to_thread(lambda: [(_last_used(registry, each, now), each) for each in stored])
    used.sort(key=lambda pair: pair[0])
    left = sum(tarball.size for _, tarball in used)
    removed = []
    for last_used, tarball in used:
        is_old = unused is not None and last_used < now - unused
        if not is_old and (max_bytes is None or left <= max_bytes):
            continue
        if not dry_run:
            await _remove(registry, tarball)
        left -= tarball.size
        removed.append(tarball)
    return removed, left


async def status(registry: Registry, *, local: Collection[str]) -> Status:
    """Return how the mirror is doing. `local`: the registries of this server that people publish to."""

    def look_up(db: Connection) -> Status:
        files, gone, oldest, newest = mirrors.file_counts(db, registry.name)
        tarballs, size = mirrors.stored_size(db, registry.name)
        return Status(
            files,
            gone,
            oldest,
            newest,
            tarballs,
            size,
            mirrors.failures(db, registry.name),
            len(mirrors.troubled(db, registry.name)),
            _alarms(db, registry, local),
            mirrors.rulings(db, registry.name, now=registry.now()),
        )

    return await registry.db.read(look_up)


def _alarms(
    db: Connection, registry: Registry, local: Collection[str]
) -> list[tuple[str, str, datetime, str]]:
    """Return what was noticed when it came, and names that were published here since then."""
    found = list(mirrors.alarms(db, registry.name))
    known = {canonical(name) for _, name, _, _ in found}
    return found + [
        alarm for alarm in mirrors.namesakes(db, registry.name, local) if canonical(alarm[1]) not in known
    ]


async def report(registry: Registry) -> list[Trouble]:
    """Return the versions that vanished or changed upstream, each with who downloaded it here."""

    def look_up(db: Connection) -> list[Trouble]:
        return [
            Trouble(version, mirrors.downloads_of(db, registry.name, version.name, version.vers))
            for version in mirrors.troubled(db, registry.name)
        ]

    return await registry.db.read(look_up)


async def _render_matching(registry: Registry, pattern: serving.Pattern) -> list[str]:
    names = [name for name in await registry.db.read(mirrors.names, registry.name) if pattern.is_for(name)]
    for name in names:
        await render(registry, name)
    return names


async def _remove(registry: Registry, tarball: Tarball) -> None:
    """Remove a tarball and its row; offline, its line goes with it."""
    key = _key(registry, tarball)
    name = CrateName.stored(tarball.name)
    await index.change(
        registry,
        name,
        lambda tx: mirrors.forget(tx, registry.name, tarball, now=registry.now()),
        then=lambda _: registry.tarballs.delete(key),
    )


def _held_cksum(db: Connection, registry: Registry, tarball: Tarball) -> str | None:
    file = mirrors.file(db, registry.name, tarball.name.lower())
    if file is None or registry.policy is None:
        return None
    lines, _ = mirrors.facts(db, registry.name, file, registry.policy, now=registry.now())
    return next((line.cksum for line in lines if line.vers == tarball.vers), None)


def _look_at(registry: Registry, tarball: Tarball) -> str | None:
    path = registry.tarballs.path(_key(registry, tarball))
    sha256 = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                sha256.update(piece)
    except FileNotFoundError:
        return "the tarball is missing"
    except OSError as error:
        return f"the tarball cannot be read: {error.strerror}"
    return None if sha256.hexdigest() == tarball.cksum else "the tarball's bytes have another checksum"


def _last_used(registry: Registry, tarball: Tarball, now: datetime) -> datetime:
    """Return when a tarball was last downloaded, or stored if that is later."""
    try:
        stored_s = registry.tarballs.path(_key(registry, tarball)).stat().st_mtime
    except FileNotFoundError:
        stored_s = 0.0
    stored_at = datetime.fromtimestamp(stored_s, tz=now.tzinfo)
    return max(stored_at, tarball.last_used_at or stored_at)


def _key(registry: Registry, tarball: Tarball) -> str:
    return f"{registry.name}/{tarball_key(CrateName.stored(tarball.name), tarball.vers, tarball.cksum)}"
