"""What upkeep asks of the rows: which tarballs to look at, and what was found."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, or_, select, text, update

from cargo_registry.db.schema import crates, versions


@dataclass(frozen=True, slots=True)
class Stored:
    """A version, as far as its tarball and its line can be compared with it."""

    id: int
    crate: str  # name as first spelled
    vers: str
    cksum: str
    size: int
    line: bytes
    damage: str | None  # found by the last look at the tarball


def stored(
    db: Connection, registry: str, *, after_id: int = 0, limit: int, not_since: datetime | None = None
) -> list[Stored]:
    """Return the next versions of a registry by id; with `not_since`, only those not verified since then."""
    query = (
        select(
            versions.c.id,
            crates.c.name,
            versions.c.vers,
            versions.c.cksum,
            versions.c.size,
            versions.c.line,
            versions.c.damage,
        )
        .join_from(versions, crates)
        .where(crates.c.registry == registry, versions.c.id > after_id)
        .order_by(versions.c.id)
        .limit(limit)
    )
    if not_since is not None:
        query = query.where(or_(versions.c.verified_at.is_(None), versions.c.verified_at < not_since))
    return [Stored(*row) for row in db.execute(query)]


def is_listed(db: Connection, version_id: int) -> bool:
    """Return whether a version is still there."""
    return db.execute(select(versions.c.id).where(versions.c.id == version_id)).first() is not None


def registries(db: Connection) -> list[str]:
    """Return the names of the registries that have crates, also of those no configuration names any more."""
    return list(db.execute(select(crates.c.registry).distinct().order_by(crates.c.registry)).scalars())


def count(db: Connection, registry: str) -> int:
    """Return how many versions a registry has."""
    query = select(func.count()).select_from(versions).join(crates).where(crates.c.registry == registry)
    return int(db.execute(query).scalar_one())


def note(tx: Connection, version_id: int, *, damage: str | None, now: datetime) -> bool:
    """Record what a look at a tarball found, None for nothing wrong; return whether that is news."""
    before = tx.execute(select(versions.c.damage).where(versions.c.id == version_id)).scalar()
    tx.execute(update(versions).where(versions.c.id == version_id).values(verified_at=now, damage=damage))
    return before != damage


def damaged(db: Connection) -> int:
    """Return how many versions are known to have a damaged tarball."""
    return int(db.execute(select(func.count()).where(versions.c.damage.is_not(None))).scalar_one())


def listed_cksums(db: Connection, registry: str, cksums: Collection[str]) -> set[str]:
    """Return which of some checksums belong to a listed version."""
    query = (
        select(versions.c.cksum)
        .join_from(versions, crates)
        .where(crates.c.registry == registry, versions.c.cksum.in_(cksums))
    )
    return set(db.execute(query).scalars())


def integrity(db: Connection) -> list[str]:
    """Return what SQLite finds wrong with its own file, nothing if it is sound."""
    found = [str(line) for line in db.execute(text("PRAGMA quick_check(20)")).scalars()]
    return [] if found == ["ok"] else found


def disagreement(version: Stored) -> str | None:
    """Return how a version's row and its index line differ, None if they do not."""
    line = json.loads(version.line)
    for key, held in (("name", version.crate), ("vers", version.vers), ("cksum", version.cksum)):
        if line.get(key) != held:
            return f"its index line has another `{key}` than its row"
    return None
