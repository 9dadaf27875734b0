"""Publish: take what `cargo publish` sent and make the version real."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from cargo_registry import gate, index
from cargo_registry.crate import entry
from cargo_registry.crate.entry import IndexEntry
from cargo_registry.crate.manifest import Manifest
from cargo_registry.crate.names import CrateName
from cargo_registry.crate.publish_body import PublishMetadata
from cargo_registry.db import audit, crates, owners, users
from cargo_registry.db.users import Role
from cargo_registry.errors import Conflict, Forbidden, Invalid, TooLarge
from cargo_registry.policy import rules
from cargo_registry.registry import Registry
from cargo_registry.storage.disk import reporting
from cargo_registry.tokens import Caller, Scope


@dataclass(frozen=True, slots=True)
class Upload:
    """A tarball that has arrived whole; nobody has looked into it yet."""

    path: Path  # in the spool of `Registry.tarballs`; whoever made it unlinks it if it is still there
    cksum: str  # SHA-256 of the file, 64 lowercase hex digits
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Published:
    """What has been published, and what the publisher should know."""

    entry: IndexEntry
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True)
class History:
    """What is known of a version that was published elsewhere before."""

    pubtime: datetime | None = None
    yanked: bool = False


async def publish(
    registry: Registry,
    caller: Caller,
    metadata: PublishMetadata | None,
    upload: Upload,
    *,
    history: History | None = None,
) -> Published:
    """Publish on behalf of `caller`. `metadata` is the JSON that cargo sends beside the tarball, if it did.

    The version exists, durable and visible to the very next GET, when this returns; whatever is raised
    leaves nothing behind.

    Raises:
        Invalid: the tarball or its manifest break a rule, or the JSON says other than the manifest.
        Refused: well-formed, but against this registry's policy.
        Forbidden: the crate has other owners, or role or token do not go that far.
        Conflict: the version was published before, or the name is taken in another spelling.
    """
    registry.must_take_changes()
    facts, new = await _read(registry, metadata, upload)
    if history is not None and history.pubtime is not None:
        new = replace(new, pubtime=history.pubtime)
    warnings = _check_policy(registry, caller, facts, new)

    def rows(tx: Connection) -> None:
        crate = _list(tx, registry, caller, facts, new, upload.size)
        if history is not None and history.yanked:
            crates.set_yanked(tx, crate, new.vers, True, now=registry.now())

    # The key holds the checksum: what a crash may have left under it is what comes now, or a piece of that.
    key = f"{registry.name}/{entry.tarball_key(new.name, new.vers, new.cksum)}"
    await index.change(registry, new.name, rows, tarball=index.Spooled(upload.path, key))
    return Published(new, warnings)


async def check(
    registry: Registry, caller: Caller, metadata: PublishMetadata | None, upload: Upload
) -> Published:
    """Return or raise what `publish` would, and store nothing."""
    registry.must_take_changes()
    facts, new = await _read(registry, metadata, upload)
    warnings = _check_policy(registry, caller, facts, new)
    await registry.db.try_out(_list, registry, caller, facts, new, upload.size)
    return Published(new, warnings)


async def _read(
    registry: Registry, metadata: PublishMetadata | None, upload: Upload
) -> tuple[Manifest, IndexEntry]:
    """Return what the tarball says: its manifest is the truth, and the JSON must agree with it."""
    job = (upload.path, upload.cksum, metadata, registry.own_urls, registry.now())
    if registry.reader is not None:
        return await registry.reader.read(*job)
    return await asyncio.to_thread(gate.read, *job)


def _check_policy(registry: Registry, caller: Caller, facts: Manifest, new: IndexEntry) -> Sequence[str]:
    """Return the warnings of this registry's policy, or raise Refused."""
    policy = registry.table.policy

    def look_up(db: Connection) -> rules.Facts:
        own = sorted({dep.package or dep.name for dep in new.deps if dep.registry is None} - {new.name.text})
        canonicals = {name: name.lower().replace("-", "_") for name in own}
        held = crates.known_names(db, registry.name, [new.name.canonical, *canonicals.values()])
        spelled = {name: held.get(canonicals[name]) for name in own}
        is_new = new.name.canonical not in held
        slips = rules.similar(new.name) if is_new and policy.similar_names != "off" else []
        return rules.Facts(
            manifest=facts,
            entry=new,
            policy=policy,
            is_new=is_new,
            is_admin=caller.role is Role.ADMIN,
            teams=users.teams_of(db, caller.user_id) if policy.names_of_teams else [],
            unknown=[name for name, found in spelled.items() if found is None],
            misspelled=[(name, found) for name, found in spelled.items() if found not in (None, name)],
            similar=sorted(crates.known_names(db, registry.name, slips).values()) if slips else [],
        )

    return rules.check(registry.db.look_up(look_up))


def _list(
    tx: Connection, registry: Registry, caller: Caller, facts: Manifest, new: IndexEntry, size: int
) -> crates.Crate:
    """Claim the name, list the version, and write down who did it; return the crate."""
    now = registry.now()
    crate = _claim(tx, registry, caller, new.name, now)
    crates.add_version(
        tx,
        crate,
        vers=new.vers,
        cksum=new.cksum,
        size=size,
        line=new.to_line(),
        manifest=facts_to_keep(facts),
        deps=[(dep.package or dep.name, dep.registry is None) for dep in new.deps],
        published_by=caller.user_id,
        published_at=new.pubtime,
        now=now,
    )
    audit.record(
        tx,
        "publish",
        actor=caller.actor,
        now=now,
        registry=registry.name,
        crate=crate.name,
        vers=new.vers,
    )
    return crate


def _claim(
    tx: Connection, registry: Registry, caller: Caller, name: CrateName, now: datetime
) -> crates.Crate:
    """Return the crate that the caller may publish a version of; a new name becomes the caller's."""
    crate, is_new = crates.claim(tx, registry.name, name, now=now)
    caller.require(Scope.PUBLISH_NEW if is_new else Scope.PUBLISH_UPDATE, registry, name.text)
    if is_new:
        owners.add_user(tx, crate.id, caller.user_id)
    elif not owners.is_owner(tx, crate.id, caller.user_id):
        raise Forbidden(
            f"crate `{crate.name}` exists and `{caller.login}` is not one of its owners; "
            f"ask an owner to run `cargo owner --add {caller.login} {crate.name}`, or choose another name"
        )
    if crate.name != name.text:
        raise Conflict(f"crate was previously named `{crate.name}`; publish `{name}` under that spelling")
    return crate


def facts_to_keep(facts: Manifest) -> dict[str, Any]:
    """Return what pages and the API say of a version beside its index line."""
    return {
        "authors": list(facts.authors),
        "bin_names": list(facts.bin_names),
        "categories": list(facts.categories),
        "description": facts.description,
        "documentation": facts.documentation,
        "edition": facts.edition,
        "has_lib": facts.has_lib,
        "homepage": facts.homepage,
        "keywords": list(facts.keywords),
        "license": facts.license,
        "license_file": facts.license_file,
        "readme": facts.readme,
        "repository": facts.repository,
    }


@asynccontextmanager
async def taken_from(registry: Registry, file: Path) -> AsyncIterator[Upload]:
    """Give a copy of a `.crate` file as an upload.

    Raises:
        Invalid: it cannot be read.
        TooLarge: it is larger than the limits allow.
    """
    path = registry.tarballs.spool()
    try:
        yield await asyncio.to_thread(_copy, file, path, registry.max_crate_bytes)
    finally:
        path.unlink(missing_ok=True)


def _copy(file: Path, path: Path, max_bytes: int) -> Upload:
    sha256 = hashlib.sha256()
    size = 0
    try:
        source = file.open("rb")
    except OSError as error:
        raise Invalid(f"`{file}` cannot be read: {error.strerror}") from None
    with source, path.open("wb") as spooled, reporting():
        while piece := source.read(1024 * 1024):
            size += len(piece)
            if size > max_bytes:
                raise TooLarge(f"`{file}` is larger than the {max_bytes} bytes that this registry takes")
            sha256.update(piece)
            spooled.write(piece)
    return Upload(path, sha256.hexdigest(), size)
