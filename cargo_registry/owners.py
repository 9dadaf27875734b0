"""Owners: who may publish new versions of a crate, yank them, and say who else may."""

from collections.abc import Sequence

from sqlalchemy import Connection

from cargo_registry import tokens
from cargo_registry.crate.names import shown
from cargo_registry.db import audit, crates, users
from cargo_registry.db import owners as rows
from cargo_registry.db.owners import Owner
from cargo_registry.db.users import Role
from cargo_registry.errors import Conflict, Forbidden, Invalid
from cargo_registry.registry import Registry
from cargo_registry.tokens import Caller, Scope

_TEAM = "team:"


def owners(registry: Registry, name: str) -> list[Owner]:
    """Return the owners of a crate, its name in any spelling.

    Raises:
        NotFound: there is no such crate.
    """
    return registry.db.look_up(lambda db: rows.of_crate(db, crates.get(db, registry.name, name).id))


async def add(registry: Registry, name: str, logins: Sequence[str], *, caller: Caller | None) -> str:
    """Make users and `team:NAME`s owners, all of them or none; return the sentence that cargo prints.

    `caller` None: the operator.

    Raises:
        NotFound: there is no such crate.
        Invalid: a login or team is unknown; it is named.
        Forbidden: the caller is neither an owner nor an admin, or the token does not go that far.
    """
    registry.must_take_changes()

    def change(tx: Connection) -> str:
        crate = _crate(tx, registry, name, caller)
        added = []
        for login in logins:
            owner = _account(tx, login)
            add_one = rows.add_user if owner.kind == "user" else rows.add_team
            if add_one(tx, crate.id, owner.id):
                added.append(owner.login)
        _record(tx, "owner-add", registry, crate.name, added, caller)
        if not added:
            return f"{_names(logins)} already owned crate `{crate.name}`"
        return f"{_names(added)} {'has' if len(added) == 1 else 'have'} been added to crate `{crate.name}`"

    return await registry.db.write(change)


async def remove(registry: Registry, name: str, logins: Sequence[str], *, caller: Caller | None) -> str:
    """Take ownership away, from all of these or none; return the sentence that cargo prints.

    Raises:
        NotFound: there is no such crate.
        Invalid: one of them is not an owner; it is named.
        Conflict: nobody would be left.
        Forbidden: the caller is neither an owner nor an admin, or the token does not go that far.
    """
    registry.must_take_changes()

    def change(tx: Connection) -> str:
        crate = _crate(tx, registry, name, caller)
        present = {owner.login.lower(): owner for owner in rows.of_crate(tx, crate.id)}
        gone = []
        for login in dict.fromkeys(login.lower() for login in logins):
            if login not in present:
                raise Invalid(f"{shown(login)} is not an owner of crate `{crate.name}`")
            gone.append(present.pop(login))
        if not present:
            raise Conflict(
                f"crate `{crate.name}` would be left without an owner; add another one first, "
                f"with `cargo owner --add LOGIN {crate.name}`"
            )
        for owner in gone:
            rows.remove(tx, crate.id, owner)
        removed = [owner.login for owner in gone]
        _record(tx, "owner-remove", registry, crate.name, removed, caller)
        verb = "has" if len(removed) == 1 else "have"
        return f"{_names(removed)} {verb} been removed from crate `{crate.name}`"

    return await registry.db.write(change)


def _crate(tx: Connection, registry: Registry, name: str, caller: Caller | None) -> crates.Crate:
    """Return the crate whose owners the caller may change."""
    crate = crates.get(tx, registry.name, name)
    if caller is not None:
        caller.require(Scope.CHANGE_OWNERS, registry, crate.name)
        if caller.role is not Role.ADMIN and not rows.is_owner(tx, crate.id, caller.user_id):
            raise Forbidden(f"`{caller.login}` is not an owner of crate `{crate.name}`")
    return crate


def _account(db: Connection, login: str) -> Owner:
    """Return what a login or `team:NAME` stands for, as the owner it would be."""
    if login.lower().startswith(_TEAM):
        team = users.find_team(db, login[len(_TEAM) :])
        if team is None:
            raise Invalid(
                f"there is no team {shown(login[len(_TEAM) :])}; "
                f"an operator makes teams with `cargo-registry team add`"
            )
        return Owner(team.id, f"{_TEAM}{team.name}", team.name, "team")
    user = users.find(db, login)
    if user is None or user.disabled:
        raise Invalid(f"there is no user {shown(login)}; nobody was added")
    return Owner(user.id, user.login, user.name, "user")


def _record(
    tx: Connection,
    action: str,
    registry: Registry,
    crate: str,
    logins: Sequence[str],
    caller: Caller | None,
) -> None:
    for login in logins:
        audit.record(
            tx,
            action,
            actor=tokens.actor(caller),
            now=registry.now(),
            registry=registry.name,
            crate=crate,
            detail=login,
        )


def _names(logins: Sequence[str]) -> str:
    return ", ".join(shown(login) for login in logins)
