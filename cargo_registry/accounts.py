"""Accounts: users and teams, as operators keep them."""

from collections.abc import Sequence

from sqlalchemy import Connection

from cargo_registry.crate import names
from cargo_registry.db import audit, users
from cargo_registry.db.users import Role, Team, User
from cargo_registry.registry import Site
from cargo_registry.tokens import operator


async def add_user(site: Site, login: str, *, name: str | None, role: Role) -> User:
    """Add an account.

    Raises:
        InvalidName: the login or the name breaks the rules.
        Conflict: it is taken, whatever its case.
    """
    names.check_login(login)
    if name is not None:
        names.check_label(name)
    now = site.now()

    def add(tx: Connection) -> User:
        user = users.add(tx, login, name=name, role=role, now=now)
        audit.record(tx, "user-add", actor=operator(), now=now, detail=f"{login} as {role}")
        return user

    return await site.db.write(add)


async def set_disabled(site: Site, login: str, disabled: bool) -> None:
    """Take an account and all its tokens out of use, or put them back; holds from the next request on.

    Raises:
        NotFound: there is no such user.
    """

    def change(tx: Connection) -> None:
        users.set_disabled(tx, login, disabled)
        action = "user-disable" if disabled else "user-enable"
        audit.record(tx, action, actor=operator(), now=site.now(), detail=login)

    await site.db.write(change)


async def set_role(site: Site, login: str, role: Role) -> None:
    """Change what an account may do at most; holds from the next request on.

    Raises:
        NotFound: there is no such user.
    """

    def change(tx: Connection) -> None:
        users.set_role(tx, login, role)
        audit.record(tx, "user-set-role", actor=operator(), now=site.now(), detail=f"{login} to {role}")

    await site.db.write(change)


async def add_to_team(site: Site, team: str, logins: Sequence[str]) -> Team:
    """Add users to a team, which is made if it is new.

    Raises:
        InvalidName: the team's name breaks the rules.
        NotFound: there is no such user; nobody was added.
    """
    names.check_login(team)

    def change(tx: Connection) -> Team:
        changed = users.add_to_team(tx, team, logins, now=site.now())
        audit.record(tx, "team-add", actor=operator(), now=site.now(), detail=f"{team}: {', '.join(logins)}")
        return changed

    return await site.db.write(change)


async def remove_from_team(site: Site, team: str, logins: Sequence[str]) -> None:
    """Remove users from a team; without logins, remove the team.

    Raises:
        NotFound: there is no such team or member.
        Conflict: the team still owns crates.
    """

    def change(tx: Connection) -> None:
        users.remove_from_team(tx, team, logins)
        audit.record(
            tx, "team-remove", actor=operator(), now=site.now(), detail=f"{team}: {', '.join(logins)}"
        )

    await site.db.write(change)
