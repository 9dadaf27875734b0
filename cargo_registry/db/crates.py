"""Crates and their versions: the truth that index files are rendered from."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, insert, select, text, update
from sqlalchemy.dialects.sqlite import insert as insert_or
from sqlalchemy.exc import IntegrityError

from cargo_registry.crate import versions as semver
from cargo_registry.crate.names import CrateName, canonical, shown
from cargo_registry.db import search
from cargo_registry.db.schema import (
    crates,
    dependencies,
    download_days,
    labels,
    tombstones,
    users,
    versions,
)
from cargo_registry.errors import Conflict, NotFound


@dataclass(frozen=True, slots=True)
class Crate:
    """A crate of one registry."""

    id: int
    registry: str
    name: str  # as first spelled
    canonical: str
    created_at: datetime
    updated_at: datetime
    downloads: int
    description: str | None
    keywords: Sequence[str]
    categories: Sequence[str]
    default_version: str | None  # what people see first: highest stable, if possible not yanked
    max_version: str | None  # highest that is not yanked
    max_stable_version: str | None


@dataclass(frozen=True, slots=True)
class Publisher:
    """Who published a version."""

    id: int
    login: str
    name: str | None


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a crate."""

    id: int
    vers: str
    yanked: bool
    cksum: str
    size: int  # bytes of the tarball
    line: bytes  # index line as published
    manifest: Mapping[str, Any]
    published_at: datetime
    published_by: Publisher | None
    downloads: int


@dataclass(frozen=True, slots=True)
class Listed:
    """What a download needs to know of a listed version."""

    version_id: int
    name: str  # of the crate, as first spelled
    vers: str
    cksum: str
    size: int
    damage: str | None  # what the last look at the tarball found wrong


# What each publish asks and changes is put together once: for a short statement, that takes longer than to run it.
_FIND = select(crates).where(
    crates.c.registry == bindparam("registry"), crates.c.canonical == bindparam("key")
)
_BY_ID = select(crates).where(crates.c.id == bindparam("crate_id"))
_CLAIM = (
    insert_or(crates).on_conflict_do_nothing(index_elements=["registry", "canonical"]).returning(crates.c.id)
)
_ADD_VERSION = insert(versions).returning(versions.c.id)
_NUMBERS = select(versions.c.vers, versions.c.yanked).where(versions.c.crate_id == bindparam("crate_id"))
_REFRESH = update(crates).where(crates.c.id == bindparam("crate_id"))
_UNLABEL = delete(labels).where(labels.c.crate_id == bindparam("crate_id"))
_LABEL = insert(labels)
_DEPEND = insert(dependencies)
_BURIED = select(tombstones.c.cksum).where(
    tombstones.c.registry == bindparam("registry"),
    tombstones.c.canonical == bindparam("canonical"),
    tombstones.c.vers_key == bindparam("vers_key"),
)
_LINES = (
    select(versions.c.line, versions.c.yanked)
    .join_from(crates, versions)
    .where(
        crates.c.registry == bindparam("registry"),
        crates.c.canonical == bindparam("key"),
        func.lower(crates.c.name) == bindparam("lower"),
    )
    .order_by(versions.c.id)
)
# CROSS JOIN keeps this order: SQLite would sort hundreds of names into a table of its own before it looks.
_KNOWN_NAMES = text(
    "SELECT canonical, name FROM json_each(:canonicals)"
    " CROSS JOIN crates ON registry = :registry AND canonical = value"
)
_VERSIONS = select(versions, users.c.login, users.c.name.label("user_name")).join_from(
    versions, users, isouter=True
)
_VERSION = _VERSIONS.where(versions.c.crate_id == bindparam("of"), versions.c.vers == bindparam("vers"))


def find(db: Connection, registry: str, name: str) -> Crate | None:
    """Return a crate by any spelling of its name; None also for what cannot be a name."""
    key = canonical(name)
    if key is None:
        return None
    row = db.execute(_FIND, {"registry": registry, "key": key}).first()
    return None if row is None else _crate(row)


def get(db: Connection, registry: str, name: str) -> Crate:
    """Return a crate by any spelling of its name.

    Raises:
        NotFound: there is none.
    """
    crate = find(db, registry, name)
    if crate is None:
        raise NotFound(f"crate {shown(name)} does not exist in registry `{registry}`")
    return crate


def every(db: Connection, registry: str) -> list[Crate]:
    """Return all crates of a registry by canonical name."""
    query = select(crates).where(crates.c.registry == registry).order_by(crates.c.canonical)
    return [_crate(row) for row in db.execute(query)]


def names(db: Connection, registry: str) -> Iterator[str]:
    """Yield the names of all crates of a registry, as first spelled."""
    query = select(crates.c.name).where(crates.c.registry == registry).order_by(crates.c.canonical)
    yield from db.execute(query).scalars()


def claim(tx: Connection, registry: str, name: CrateName, *, now: datetime) -> tuple[Crate, bool]:
    """Return the crate of this canonical name, made now if there was none, and whether it is new.

    It may be spelled otherwise: what that means is for the caller to say.
    """
    row = {
        "registry": registry,
        "name": name.text,
        "canonical": name.canonical,
        "created_at": now,
        "updated_at": now,
        "downloads": 0,
        "keywords": "[]",
        "categories": "[]",
    }
    crate_id = tx.execute(_CLAIM, row).scalar()
    if crate_id is None:
        return get(tx, registry, name.text), False
    return Crate(
        crate_id,
        registry,
        name.text,
        name.canonical,
        created_at=now,
        updated_at=now,
        downloads=0,
        description=None,
        keywords=[],
        categories=[],
        default_version=None,
        max_version=None,
        max_stable_version=None,
    ), True


def add_version(
    tx: Connection,
    crate: Crate,
    *,
    vers: str,
    cksum: str,
    size: int,
    line: bytes,
    manifest: Mapping[str, Any],
    deps: Sequence[tuple[str, bool]],
    published_by: int | None,
    published_at: datetime,
    now: datetime,
    vers_key: str | None = None,
) -> None:
    """List a version of a crate. `deps`: the real names of what it depends on, and whether in this registry.

    `vers_key`: what must be unique; None: the version without its build metadata.

    Raises:
        Conflict: this version, whatever its build metadata, was published before; yanked ones count, and so
            do deleted ones unless the bytes are the same.
    """
    _refuse_buried(tx, crate, vers, cksum)
    row = {
        "crate_id": crate.id,
        "vers": vers,
        "vers_key": vers_key or semver.without_build(vers),
        "yanked": False,
        "cksum": cksum,
        "size": size,
        "line": line,
        "manifest": json.dumps(manifest, ensure_ascii=False),
        "published_at": published_at,
        "published_by": published_by,
        "downloads": 0,
        "verified_at": now,  # it has just been hashed
    }
    try:
        version_id = tx.execute(_ADD_VERSION, row).scalar_one()
    except IntegrityError:
        taken = _taken(tx, crate, vers)
        also = "" if taken == vers else f" (as `{taken}`; build metadata does not make another version)"
        raise Conflict(
            f"crate version `{crate.name}@{vers}` is already uploaded{also}; "
            f"a published version never changes, so publish under a new version number"
        ) from None
    if deps:
        tx.execute(
            _DEPEND,
            [
                {
                    "version_id": version_id,
                    "position": position,
                    "canonical": canonical(name) or name,
                    "own": own,
                }
                for position, (name, own) in enumerate(deps)
            ],
        )
    _refresh_with(tx, crate.id, vers, manifest, now=now)


def set_yanked(tx: Connection, crate: Crate, vers: str, yanked: bool, *, now: datetime) -> bool:
    """Yank or unyank a version; return whether that changed anything.

    Raises:
        NotFound: the crate has no such version.
    """
    version = get_version(tx, crate, vers)
    if version.yanked == yanked:
        return False
    tx.execute(update(versions).where(versions.c.id == version.id).values(yanked=yanked))
    refresh(tx, crate, now=now)
    return True


def refresh(tx: Connection, crate: Crate, *, now: datetime) -> None:
    """Bring up to date what is known of the crate as a whole, search included, after a change of versions."""
    yanked = {row.vers: row.yanked for row in tx.execute(_NUMBERS, {"crate_id": crate.id})}
    offered = [vers for vers, gone in yanked.items() if not gone]
    stable = semver.max_stable(offered)
    highest = semver.max_version(offered)
    default = stable or highest or semver.max_version(yanked)
    if default is None:
        return
    numbers = {"default_version": default, "max_version": highest, "max_stable_version": stable}
    _update(tx, crate, numbers, get_version(tx, crate, default).manifest, now=now)


def _refresh_with(
    tx: Connection, crate_id: int, vers: str, manifest: Mapping[str, Any], *, now: datetime
) -> None:
    """Do what `refresh` does, after a version was added: the others need not be looked at again."""
    crate = _crate(tx.execute(_BY_ID, {"crate_id": crate_id}).one())
    stable = semver.max_stable(filter(None, (crate.max_stable_version, vers)))
    highest = semver.max_version(filter(None, (crate.max_version, vers)))
    default = stable or highest
    shown = (crate.description, crate.keywords, crate.categories)
    new = (manifest["description"], manifest["keywords"], manifest["categories"])
    is_shown = default != vers or (crate.default_version is not None and shown == new)
    numbers = {"default_version": default, "max_version": highest, "max_stable_version": stable}
    _update(tx, crate, numbers, None if is_shown else manifest, now=now)


def _update(
    tx: Connection,
    crate: Crate,
    numbers: Mapping[str, str | None],
    manifest: Mapping[str, Any] | None,
    *,
    now: datetime,
) -> None:
    """Write down which versions stand for the crate, and what the default one says; None: what is there already."""
    values = {"crate_id": crate.id, "updated_at": now, **numbers}
    if manifest is None:
        tx.execute(_REFRESH, values)
        return
    values["description"] = manifest["description"]
    values["keywords"] = json.dumps(manifest["keywords"], ensure_ascii=False)
    values["categories"] = json.dumps(manifest["categories"], ensure_ascii=False)
    tx.execute(_REFRESH, values)
    tx.execute(_UNLABEL, {"crate_id": crate.id})
    known = {("keyword", word) for word in manifest["keywords"]}
    known |= {("category", slug) for slug in manifest["categories"]}
    if known:
        tx.execute(_LABEL, [{"crate_id": crate.id, "kind": kind, "label": label} for kind, label in known])
    search.refresh(
        tx,
        crate.id,
        key=crate.canonical,
        description=manifest["description"],
        keywords=manifest["keywords"],
        categories=manifest["categories"],
    )


def known_names(db: Connection, registry: str, canonicals: Collection[str]) -> dict[str, str]:
    """Return, of some canonical names, those that the registry has, each with the spelling it has."""
    if not canonicals:
        return {}
    values = {"registry": registry, "canonicals": msgspec.json.encode(list(canonicals)).decode()}
    return {row.canonical: row.name for row in db.execute(_KNOWN_NAMES, values)}


def bury(tx: Connection, crate: Crate, version: Version, *, reason: str, now: datetime) -> None:
    """Leave word that a version existed, for when it is gone."""
    row = {
        "registry": crate.registry,
        "canonical": crate.canonical,
        "vers_key": semver.without_build(version.vers),
        "cksum": version.cksum,
        "deleted_at": now,
        "reason": reason,
    }
    tx.execute(insert_or(tombstones).values(row).on_conflict_do_nothing())


def dependents(
    db: Connection, crate: Crate, *, limit: int, offset: int
) -> tuple[list[tuple[Crate, Version]], int]:
    """Return the crates of the registry whose default version depends on this one, most downloaded first.

    Each with that version; and how many there are in all. Yanked versions do not count.
    """
    depends = (
        select(dependencies.c.version_id)
        .where(dependencies.c.canonical == crate.canonical, dependencies.c.own)
        .scalar_subquery()
    )
    offered = (
        (versions.c.crate_id == crates.c.id)
        & (versions.c.vers == crates.c.default_version)
        & ~versions.c.yanked
        & (crates.c.registry == crate.registry)
        & versions.c.id.in_(depends)
    )
    total = db.execute(select(func.count()).select_from(crates).join(versions, offered)).scalar_one()
    page = (
        select(crates.c.id, versions.c.vers)
        .join_from(crates, versions, offered)
        .order_by(crates.c.downloads.desc(), crates.c.canonical)
        .limit(limit)
        .offset(offset)
    )
    found = []
    for row in db.execute(page).all():
        dependent = _crate(db.execute(select(crates).where(crates.c.id == row.id)).one())
        found.append((dependent, get_version(db, dependent, row.vers)))
    return found, total


def label_counts(db: Connection, registry: str, kind: str, wanted: Collection[str]) -> dict[str, int]:
    """Return how many crates of the registry have each of some keywords, or categories (`kind`)."""
    query = (
        select(labels.c.label, func.count().label("crates"))
        .join_from(labels, crates)
        .where(crates.c.registry == registry, labels.c.kind == kind, labels.c.label.in_(wanted))
        .group_by(labels.c.label)
    )
    return {row.label: row.crates for row in db.execute(query)}


def downloads_by_day(db: Connection, crate: Crate, *, since: date) -> list[tuple[str, date, int]]:
    """Return (version, day, downloads) of a crate from a day on, oldest first."""
    query = (
        select(versions.c.vers, download_days.c.day, download_days.c.downloads)
        .join_from(download_days, versions)
        .where(versions.c.crate_id == crate.id, download_days.c.day >= since)
        .order_by(download_days.c.day, versions.c.id)
    )
    return [(row.vers, row.day, row.downloads) for row in db.execute(query)]


def delete_version(tx: Connection, crate: Crate, version: Version, *, now: datetime) -> None:
    """Remove a version; a crate without any is removed as well, and its name is free."""
    tx.execute(delete(versions).where(versions.c.id == version.id))
    if tx.execute(select(versions.c.id).where(versions.c.crate_id == crate.id).limit(1)).first():
        refresh(tx, crate, now=now)
        return
    search.forget(tx, crate.id)
    tx.execute(delete(crates).where(crates.c.id == crate.id))


def lines(db: Connection, registry: str, name: CrateName) -> list[tuple[bytes, bool]]:
    """Return the index lines of a crate as published, each with its yanked flag, oldest first.

    Nothing for a name that is not quite the crate's (`foo_bar` for `foo-bar`).
    """
    key = {"registry": registry, "key": name.canonical, "lower": name.lower}
    return [(row.line, row.yanked) for row in db.execute(_LINES, key)]


def versions_of(db: Connection, crate: Crate) -> list[Version]:
    """Return the versions of a crate, oldest first."""
    query = _VERSIONS.where(versions.c.crate_id == crate.id).order_by(versions.c.id)
    return [_version(row) for row in db.execute(query)]


def get_version(db: Connection, crate: Crate, vers: str) -> Version:
    """Return a version of a crate, spelled exactly as published.

    Raises:
        NotFound: the crate has no such version.
    """
    row = db.execute(_VERSION, {"of": crate.id, "vers": vers}).first() if vers.isascii() else None
    if row is None:
        raise NotFound(f"crate `{crate.name}` does not have a version {shown(vers)}")
    return _version(row)


def listed(db: Connection, registry: str, name: str, vers: str) -> Listed | None:
    """Return what a download of a version needs; any spelling of the name, the version as published."""
    key = canonical(name)
    if key is None or not vers.isascii():
        return None
    # As text, because each download asks this: SQLAlchemy's expression costs 110 µs, this 25.
    row = db.exec_driver_sql(
        "SELECT versions.id, crates.name, vers, cksum, size, damage FROM crates"
        " JOIN versions ON crate_id = crates.id WHERE registry = ? AND canonical = ? AND vers = ?",
        (registry, key, vers),
    ).first()
    return None if row is None else Listed(*row)


def _refuse_buried(db: Connection, crate: Crate, vers: str, cksum: str) -> None:
    key = {
        "registry": crate.registry,
        "canonical": crate.canonical,
        "vers_key": semver.without_build(vers),
    }
    buried = db.execute(_BURIED, key).scalar()
    if buried is not None and buried != cksum:
        raise Conflict(
            f"crate version `{crate.name}@{vers}` was published with other contents and then deleted; clients may "
            f"still hold those, so publish under a new version number"
        )


def _taken(db: Connection, crate: Crate, vers: str) -> str:
    query = select(versions.c.vers).where(
        versions.c.crate_id == crate.id, versions.c.vers_key == semver.without_build(vers)
    )
    return str(db.execute(query).scalar_one())


def _crate(row: Any) -> Crate:
    return Crate(
        row.id,
        row.registry,
        row.name,
        row.canonical,
        row.created_at,
        row.updated_at,
        row.downloads,
        row.description,
        json.loads(row.keywords),
        json.loads(row.categories),
        row.default_version,
        row.max_version,
        row.max_stable_version,
    )


def _version(row: Any) -> Version:
    return Version(
        row.id,
        row.vers,
        row.yanked,
        row.cksum,
        row.size,
        row.line,
        json.loads(row.manifest),
        row.published_at,
        None if row.login is None else Publisher(row.published_by, row.login, row.user_name),
        row.downloads,
    )
