"""Deletion: what must not have been published goes, and its number stays taken.

Yanking is for everything else: whoever has locked a deleted version cannot build any more.
"""

from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy import Connection

from cargo_registry import index, tokens
from cargo_registry.crate.entry import tarball_key
from cargo_registry.crate.names import CrateName
from cargo_registry.db import audit, crates
from cargo_registry.registry import Registry
from cargo_registry.tokens import Caller


async def delete(
    registry: Registry, name: str, vers: str | None, *, reason: str, caller: Caller | None
) -> Sequence[str]:
    """Delete a version of a crate, or (`vers` None) the whole crate; return the versions that are gone.

    Rows and index first, tarballs after: nothing is listed without its tarball at any moment. `caller` None:
    the operator.

    Raises:
        NotFound: there is no such crate or version.
    """
    registry.must_take_changes()
    crate = registry.db.look_up(crates.get, registry.name, name)

    def rows(tx: Connection) -> list[crates.Version]:
        found = crates.versions_of(tx, crate) if vers is None else [crates.get_version(tx, crate, vers)]
        now = registry.now()
        for version in found:
            crates.bury(tx, crate, version, reason=reason, now=now)
            crates.delete_version(tx, crate, version, now=now)
            audit.record(
                tx,
                "delete",
                actor=tokens.actor(caller),
                now=now,
                registry=registry.name,
                crate=crate.name,
                vers=version.vers,
                detail=reason,
            )
        return found

    stored_name = CrateName.stored(crate.name)

    def drop_tarballs(found: list[crates.Version]) -> None:
        for version in found:
            key = tarball_key(stored_name, version.vers, version.cksum)
            # Where that fails, nothing lists it any more, and `fsck --repair` finds it.
            with suppress(OSError):
                registry.tarballs.delete(f"{registry.name}/{key}")

    found = await index.change(registry, stored_name, rows, then=drop_tarballs)
    return [version.vers for version in found]
