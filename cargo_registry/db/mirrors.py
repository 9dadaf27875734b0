"""What a mirror knows of its upstream: files as they came, versions with a history, rulings, who downloaded what.

`name` is always the lower-case name of the index path.
"""

import json
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as insert_or

from cargo_registry.crate.names import CrateName, canonical
from cargo_registry.db import crates, upkeep
from cargo_registry.db.schema import crates as crate_rows
from cargo_registry.db.schema import (
    mirror_alarms,
    mirror_downloads,
    mirror_failures,
    mirror_files,
    mirror_rulings,
    mirror_versions,
)
from cargo_registry.db.schema import versions as version_rows
from cargo_registry.policy import serving
from cargo_registry.policy.serving import Ruling

# An index file shrinks to a tenth; more effort gains little.
_LEVEL = 3
_FORGOTTEN = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class File:
    """An index file as upstream sent it, and what is known of it."""

    name: str
    raw: bytes
    etag: str | None
    last_modified: str | None
    filled_at: datetime
    checked_at: datetime
    gone_at: datetime | None
    fingerprint: str
    due_at: datetime | None


@dataclass(frozen=True, slots=True)
class Seen:
    """What is to say about a version beyond its line."""

    name: str
    vers: str
    line: bytes  # the one that holds
    cksum: str
    first_seen_at: datetime | None
    gone_at: datetime | None
    changed_at: datetime | None
    changed_cksum: str | None


@dataclass(frozen=True, slots=True)
class Failure:
    """That upstream did not answer, and when it may be asked again."""

    what: str
    failures: int  # in a row
    next_try_at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Download:
    """Who fetched a version."""

    who: str
    downloads: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Tarball:
    """A stored tarball."""

    version_id: int
    name: str  # of the crate, as spelled
    vers: str
    cksum: str
    size: int
    last_used_at: datetime | None  # None: never since it was stored


# --- Files ---------------------------------------------------------------------------------------------


def file(db: Connection, registry: str, name: str) -> File | None:
    """Return what is known of a crate's file; None if upstream never had it."""
    row = db.execute(select(mirror_files).where(_is(mirror_files, registry, name))).first()
    if row is None:
        return None
    return File(
        row.name,
        zlib.decompress(row.raw),
        row.etag,
        row.last_modified,
        row.filled_at,
        row.checked_at,
        row.gone_at,
        row.fingerprint,
        row.due_at,
    )


def rendering(db: Connection, registry: str, name: str) -> tuple[str, datetime | None] | None:
    """Return under which policy the file of a crate is rendered, and when time changes its outcome."""
    query = select(mirror_files.c.fingerprint, mirror_files.c.due_at).where(_is(mirror_files, registry, name))
    row = db.execute(query).first()
    return None if row is None else (row.fingerprint, row.due_at)


def is_known(db: Connection, registry: str, name: str) -> bool:
    """Return whether there is a file of this crate."""
    query = select(mirror_files.c.name).where(_is(mirror_files, registry, name))
    return db.execute(query).first() is not None


def put_file(tx: Connection, registry: str, file: File) -> None:
    """Write what is known of a crate's file, in place of what was."""
    values = {
        "raw": zlib.compress(file.raw, _LEVEL),
        "etag": file.etag,
        "last_modified": file.last_modified,
        "filled_at": file.filled_at,
        "checked_at": file.checked_at,
        "gone_at": file.gone_at,
        "fingerprint": file.fingerprint,
        "due_at": file.due_at,
    }
    row = insert_or(mirror_files).values(registry=registry, name=file.name, **values)
    tx.execute(row.on_conflict_do_update(index_elements=["registry", "name"], set_=values))


def confirm(tx: Connection, registry: str, names: Mapping[str, datetime]) -> None:
    """Note when upstream said that files are still right."""
    for name, at in names.items():
        tx.execute(update(mirror_files).where(_is(mirror_files, registry, name)).values(checked_at=at))


def names(db: Connection, registry: str) -> list[str]:
    """Return the names of all known files."""
    query = select(mirror_files.c.name).where(mirror_files.c.registry == registry)
    return list(db.execute(query.order_by(mirror_files.c.name)).scalars())


def file_counts(db: Connection, registry: str) -> tuple[int, int, datetime | None, datetime | None]:
    """Return how many files are known, how many of them upstream has no more, and the oldest and newest check."""
    query = select(
        func.count(),
        func.count(mirror_files.c.gone_at),
        func.min(mirror_files.c.checked_at),
        func.max(mirror_files.c.checked_at),
    ).where(mirror_files.c.registry == registry)
    row = db.execute(query).one()
    return row[0], row[1], row[2], row[3]


def seen(db: Connection, registry: str, name: str) -> dict[str, Seen]:
    """Return what is to say about versions of a crate beyond their lines."""
    query = select(mirror_versions).where(_is(mirror_versions, registry, name))
    return {row.vers: _seen(row) for row in db.execute(query)}


def put_seen(tx: Connection, registry: str, seen: Seen) -> None:
    """Write what is to say about a version, in place of what was."""
    values = {
        "line": seen.line,
        "cksum": seen.cksum,
        "first_seen_at": seen.first_seen_at,
        "gone_at": seen.gone_at,
        "changed_at": seen.changed_at,
        "changed_cksum": seen.changed_cksum,
    }
    row = insert_or(mirror_versions).values(registry=registry, name=seen.name, vers=seen.vers, **values)
    tx.execute(row.on_conflict_do_update(index_elements=["registry", "name", "vers"], set_=values))


def troubled(db: Connection, registry: str) -> list[Seen]:
    """Return the versions that vanished upstream or changed their checksum there."""
    query = select(mirror_versions).where(
        mirror_versions.c.registry == registry,
        mirror_versions.c.gone_at.is_not(None) | mirror_versions.c.changed_at.is_not(None),
    )
    return [_seen(row) for row in db.execute(query.order_by(mirror_versions.c.name, mirror_versions.c.vers))]


# --- What is served ------------------------------------------------------------------------------------


def facts(
    db: Connection, registry: str, file: File, policy: serving.Policy, *, now: datetime
) -> tuple[list[serving.Line], serving.Facts]:
    """Return the lines that hold for a crate, upstream's and those it took away, and what rules look at."""
    known = seen(db, registry, file.name)
    lines = []
    for line in serving.lines_of(file.raw):
        before = known.get(line.vers)
        if before is not None and before.changed_at is not None:
            # Never another checksum; but a yank holds.
            (line,) = serving.lines_of(serving.with_yanked(before.line, line.yanked))
        lines.append(line)
    here = {line.vers for line in lines}
    for before in known.values():
        if before.gone_at is not None and before.vers not in here:
            lines += serving.lines_of(before.line)
    return lines, serving.Facts(
        policy=policy,
        now=now,
        filled_at=file.filled_at,
        first_seen={vers: each.first_seen_at for vers, each in known.items() if each.first_seen_at},
        gone={vers: each.gone_at for vers, each in known.items() if each.gone_at},
        rulings=rulings(db, registry, name=file.name, now=now),
        stored=stored_versions(db, registry, file.name) if policy.offline else (),
    )


def render(db: Connection, registry: str, name: str, policy: serving.Policy, *, now: datetime) -> bytes:
    """Return the index file as it is served: upstream's lines, byte for byte, that no rule is against."""
    found = file(db, registry, name)
    if found is None:
        return b""
    if not found.raw and not seen(db, registry, name):
        return b""
    lines, facts_ = facts(db, registry, found, policy, now=now)
    return b"".join(line.raw + b"\n" for line in lines if serving.judge(line, facts_).served)


# --- Rulings -------------------------------------------------------------------------------------------


def add_ruling(
    tx: Connection,
    registry: str,
    *,
    kind: Literal["allow", "deny"],
    pattern: str,
    reason: str,
    until: datetime | None,
    by: str,
    now: datetime,
) -> int:
    """Write an exception and return its id."""
    row = insert(mirror_rulings).returning(mirror_rulings.c.id)
    values = {
        "registry": registry,
        "kind": kind,
        "pattern": pattern,
        "reason": reason,
        "until": until,
        "created_at": now,
        "created_by": by,
    }
    return int(tx.execute(row.values(values)).scalar_one())


def remove_ruling(tx: Connection, registry: str, ruling_id: int) -> str | None:
    """Take an exception back and return its pattern; None if there is none of this id."""
    row = (
        delete(mirror_rulings)
        .where(mirror_rulings.c.registry == registry, mirror_rulings.c.id == ruling_id)
        .returning(mirror_rulings.c.pattern)
    )
    return tx.execute(row).scalar()


def rulings(db: Connection, registry: str, *, now: datetime, name: str | None = None) -> list[Ruling]:
    """Return the exceptions that hold now, oldest first; with a `name`, those for this crate."""
    query = select(mirror_rulings).where(
        mirror_rulings.c.registry == registry,
        mirror_rulings.c.until.is_(None) | (mirror_rulings.c.until > now),
    )
    found = [
        Ruling(row.id, row.kind, serving.pattern(row.pattern), row.reason, row.until, row.created_by)
        for row in db.execute(query.order_by(mirror_rulings.c.id))
    ]
    return [ruling for ruling in found if name is None or ruling.pattern.is_for(name)]


# --- Tarballs ------------------------------------------------------------------------------------------


def store(
    tx: Connection,
    registry: str,
    line: serving.Line,
    *,
    size: int,
    manifest: Mapping[str, Any],
    now: datetime,
) -> None:
    """Make a version known whose tarball is stored now: search finds it, and downloads are counted."""
    name = CrateName.stored(line.name)
    crate, _ = crates.claim(tx, registry, name, now=line.pubtime or now)
    listed = crates.listed(tx, registry, line.name, line.vers)
    if listed is not None:
        version = crates.get_version(tx, crate, line.vers)
        if (listed.cksum, listed.size) == (line.cksum, size):
            upkeep.note(tx, version.id, damage=None, now=now)
            return
        crates.delete_version(tx, crate, version, now=now)
        crate, _ = crates.claim(tx, registry, name, now=line.pubtime or now)
    entry = _complete(line.raw)
    crates.add_version(
        tx,
        crate,
        vers=line.vers,
        cksum=line.cksum,
        size=size,
        line=json.dumps(entry, separators=(",", ":"), ensure_ascii=False).encode() + b"\n",
        manifest=manifest,
        deps=[(dep.get("package") or dep["name"], not dep.get("registry")) for dep in entry["deps"]],
        published_by=None,
        published_at=line.pubtime or now,
        now=now,
        vers_key=line.vers,  # an upstream may hold versions that differ in build metadata only
    )
    if line.yanked:
        crates.set_yanked(tx, crate, line.vers, True, now=now)


def set_yanked(tx: Connection, registry: str, lines: Sequence[serving.Line], *, now: datetime) -> None:
    """Make the stored versions among these lines yanked or not, as the lines say."""
    if not lines:
        return
    crate = crates.find(tx, registry, lines[0].name)
    if crate is None:
        return
    yanked = {line.vers: line.yanked for line in lines}
    for version in crates.versions_of(tx, crate):
        if yanked.get(version.vers, version.yanked) != version.yanked:
            crates.set_yanked(tx, crate, version.vers, yanked[version.vers], now=now)


def stored_versions(db: Connection, registry: str, name: str) -> frozenset[str]:
    """Return the versions of a crate whose tarball is stored."""
    query = (
        select(version_rows.c.vers)
        .join_from(version_rows, crate_rows)
        .where(crate_rows.c.registry == registry, crate_rows.c.canonical == canonical(name))
    )
    return frozenset(db.execute(query).scalars())


def tarballs(db: Connection, registry: str) -> list[Tarball]:
    """Return every stored tarball, by name."""
    last = (
        select(
            mirror_downloads.c.name,
            mirror_downloads.c.vers,
            func.max(mirror_downloads.c.last_at).label("last_at"),
        )
        .where(mirror_downloads.c.registry == registry)
        .group_by(mirror_downloads.c.name, mirror_downloads.c.vers)
        .subquery()
    )
    query = (
        select(
            version_rows.c.id,
            crate_rows.c.name,
            version_rows.c.vers,
            version_rows.c.cksum,
            version_rows.c.size,
            last.c.last_at,
        )
        .join_from(version_rows, crate_rows)
        .outerjoin(
            last, (last.c.name == func.lower(crate_rows.c.name)) & (last.c.vers == version_rows.c.vers)
        )
        .where(crate_rows.c.registry == registry)
        .order_by(crate_rows.c.canonical, version_rows.c.id)
    )
    return [Tarball(*row) for row in db.execute(query)]


def stored_size(db: Connection, registry: str) -> tuple[int, int]:
    """Return how many tarballs are stored, and how many bytes they have."""
    query = (
        select(func.count(), func.coalesce(func.sum(version_rows.c.size), 0))
        .select_from(version_rows)
        .join(crate_rows)
        .where(crate_rows.c.registry == registry)
    )
    row = db.execute(query).one()
    return int(row[0]), int(row[1])


def forget(tx: Connection, registry: str, tarball: Tarball, *, now: datetime) -> bool:
    """Forget a version whose tarball goes, and its crate, if none is left; return whether it was there."""
    crate = crates.find(tx, registry, tarball.name)
    if crate is None or crates.listed(tx, registry, tarball.name, tarball.vers) is None:
        return False
    crates.delete_version(tx, crate, crates.get_version(tx, crate, tarball.vers), now=now)
    return True


def add_downloads(tx: Connection, counts: Mapping[tuple[str, str, str, str], int], *, now: datetime) -> None:
    """Add to who downloaded what: counts by registry, name, version and who."""
    for (registry, name, vers, who), count in counts.items():
        row = insert_or(mirror_downloads).values(
            registry=registry, name=name, vers=vers, who=who, downloads=count, first_at=now, last_at=now
        )
        tx.execute(
            row.on_conflict_do_update(
                index_elements=["registry", "name", "vers", "who"],
                set_={"downloads": mirror_downloads.c.downloads + count, "last_at": now},
            )
        )


def downloads_of(db: Connection, registry: str, name: str, vers: str) -> list[Download]:
    """Return who downloaded a version, the latest first."""
    query = (
        select(mirror_downloads)
        .where(_is(mirror_downloads, registry, name), mirror_downloads.c.vers == vers)
        .order_by(mirror_downloads.c.last_at.desc(), mirror_downloads.c.who)
    )
    return [Download(row.who, row.downloads, row.first_at, row.last_at) for row in db.execute(query)]


# --- Failures and alarms -------------------------------------------------------------------------------


def failure(db: Connection, registry: str, what: str) -> Failure | None:
    """Return whether upstream failed when it was last asked for this."""
    query = select(mirror_failures).where(
        mirror_failures.c.registry == registry, mirror_failures.c.what == what
    )
    row = db.execute(query).first()
    return None if row is None else Failure(row.what, row.failures, row.next_try_at, row.reason)


def failures(db: Connection, registry: str) -> list[Failure]:
    """Return all that upstream fails on."""
    query = select(mirror_failures).where(mirror_failures.c.registry == registry)
    return [
        Failure(row.what, row.failures, row.next_try_at, row.reason)
        for row in db.execute(query.order_by(mirror_failures.c.what))
    ]


def put_failure(tx: Connection, registry: str, failure: Failure) -> None:
    """Note that upstream failed; what nobody has asked for since long ago is forgotten."""
    tx.execute(
        delete(mirror_failures).where(
            mirror_failures.c.registry == registry,
            mirror_failures.c.next_try_at < failure.next_try_at - _FORGOTTEN,
        )
    )
    values = {
        "failures": failure.failures,
        "next_try_at": failure.next_try_at,
        "reason": failure.reason,
    }
    row = insert_or(mirror_failures).values(registry=registry, what=failure.what, **values)
    tx.execute(row.on_conflict_do_update(index_elements=["registry", "what"], set_=values))


def clear_failure(tx: Connection, registry: str, what: str) -> None:
    """Note that upstream answers again."""
    tx.execute(
        delete(mirror_failures).where(mirror_failures.c.registry == registry, mirror_failures.c.what == what)
    )


def raise_alarm(tx: Connection, registry: str, *, kind: str, name: str, detail: str, now: datetime) -> bool:
    """Note something that somebody must look at; return whether it is new."""
    row = insert_or(mirror_alarms).values(registry=registry, kind=kind, name=name, at=now, detail=detail)
    return tx.execute(row.on_conflict_do_nothing()).rowcount > 0


def alarms(db: Connection, registry: str) -> Iterator[tuple[str, str, datetime, str]]:
    """Yield (kind, name, since, detail) of every alarm."""
    query = select(mirror_alarms).where(mirror_alarms.c.registry == registry)
    for row in db.execute(query.order_by(mirror_alarms.c.at)):
        yield row.kind, row.name, row.at, row.detail


def namesakes(
    db: Connection, registry: str, local: Collection[str]
) -> Iterator[tuple[str, str, datetime, str]]:
    """Yield, as alarms, the crates of local registries whose name upstream is known to have as well."""
    query = (
        select(crate_rows.c.name, crate_rows.c.registry, crate_rows.c.created_at)
        .join_from(
            crate_rows, mirror_files, func.replace(mirror_files.c.name, "-", "_") == crate_rows.c.canonical
        )
        .where(
            mirror_files.c.registry == registry,
            mirror_files.c.gone_at.is_(None),
            crate_rows.c.registry.in_(local),
        )
    )
    for row in db.execute(query.order_by(crate_rows.c.canonical)):
        detail = f"registry `{row.registry}` of this server has a crate of that name, and so has upstream"
        yield "internal-name", row.name, row.created_at, detail


def local_namesake(db: Connection, registries: Collection[str], name: str) -> str | None:
    """Return which of some registries has a crate of this name, in any spelling."""
    query = select(crate_rows.c.registry).where(
        crate_rows.c.registry.in_(registries), crate_rows.c.canonical == canonical(name)
    )
    return db.execute(query).scalar()


def _complete(raw: bytes) -> dict[str, Any]:
    """Return a line as JSON with every key that pages and the API read; cargo lets most of them out."""
    entry: dict[str, Any] = {"deps": [], "features": {}, "yanked": False} | json.loads(raw)
    entry["features"] = entry["features"] or {}
    entry["yanked"] = False  # the row says it
    entry["deps"] = [
        {
            "features": [],
            "optional": False,
            "default_features": True,
            "target": None,
            "kind": "normal",
            "req": "*",
        }
        | dep
        for dep in entry["deps"] or []
    ]
    return entry


def _is(table: Any, registry: str, name: str) -> Any:
    return (table.c.registry == registry) & (table.c.name == name)


def _seen(row: Any) -> Seen:
    return Seen(
        row.name,
        row.vers,
        row.line,
        row.cksum,
        row.first_seen_at,
        row.gone_at,
        row.changed_at,
        row.changed_cksum,
    )
