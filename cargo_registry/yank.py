"""Yank and unyank: take a version out of new resolutions, or back. Locked builds go on as before."""

from sqlalchemy import Connection

from cargo_registry import index, tokens
from cargo_registry.crate.names import CrateName
from cargo_registry.db import audit, crates, owners
from cargo_registry.db.users import Role
from cargo_registry.errors import Forbidden
from cargo_registry.registry import Registry
from cargo_registry.tokens import Caller, Scope


async def set_yanked(
    registry: Registry, name: str, vers: str, yanked: bool, *, caller: Caller | None
) -> bool:
    """Yank or unyank a version, the crate's name in any spelling; return whether that changed anything.

    The very next GET of the index file shows it. `caller` None: the operator.

    Raises:
        NotFound: there is no such crate or version.
        Forbidden: the caller is neither an owner nor an admin, or the token does not go that far.
    """
    registry.must_take_changes()
    crate = registry.db.look_up(crates.get, registry.name, name)

    def rows(tx: Connection) -> bool:
        if caller is not None:
            caller.require(Scope.YANK, registry, crate.name)
            if caller.role is not Role.ADMIN and not owners.is_owner(tx, crate.id, caller.user_id):
                raise Forbidden(f"`{caller.login}` is not an owner of crate `{crate.name}`")
        now = registry.now()
        changed = crates.set_yanked(tx, crate, vers, yanked, now=now)
        if changed:
            audit.record(
                tx,
                "yank" if yanked else "unyank",
                actor=tokens.actor(caller),
                now=now,
                registry=registry.name,
                crate=crate.name,
                vers=vers,
            )
        return changed

    return await index.change(registry, CrateName.stored(crate.name), rows)
