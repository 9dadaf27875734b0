"""Users and teams: who there is."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from cargo_registry.db.schema import owners, team_members, teams, users
from cargo_registry.errors import Conflict, NotFound


class Role(StrEnum):
    """What an account may do at most; tokens can only narrow it."""

    ADMIN = "admin"
    PUBLISHER = "publisher"
    READER = "reader"


@dataclass(frozen=True, slots=True)
class User:
    """An account. `disabled` ones keep what they own and can do nothing."""

    id: int
    login: str
    name: str | None
    role: Role
    disabled: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Team:
    """A named group; each member may do what the team's ownership allows."""

    id: int
    name: str
    members: Sequence[str]  # logins, sorted


def add(tx: Connection, login: str, *, name: str | None, role: Role, now: datetime) -> User:
    """Add an account.

    Raises:
        Conflict: the login is taken, whatever its case.
    """
    row = (
        insert(users)
        .returning(users.c.id)
        .values(
            login=login, login_key=login.lower(), name=name, role=role.value, disabled=False, created_at=now
        )
    )
    try:
        user_id = tx.execute(row).scalar_one()
    except IntegrityError:
        raise Conflict(f"there is already a user `{login}`") from None
    return User(user_id, login, name, role, disabled=False, created_at=now)


def find(db: Connection, login: str) -> User | None:
    """Return the account of a login, in any case."""
    row = db.execute(select(users).where(users.c.login_key == login.lower())).first()
    return None if row is None else _user(row)


def get(db: Connection, login: str) -> User:
    """Return the account of a login, in any case.

    Raises:
        NotFound: there is none.
    """
    user = find(db, login)
    if user is None:
        raise NotFound(f"there is no user `{login}`")
    return user


def any_exists(db: Connection) -> bool:
    """Return whether there is any account yet."""
    return db.execute(select(users.c.id).limit(1)).first() is not None


def everyone(db: Connection) -> list[User]:
    """Return all accounts by login."""
    return [_user(row) for row in db.execute(select(users).order_by(users.c.login_key))]


def set_disabled(tx: Connection, login: str, disabled: bool) -> None:
    """Take an account out of use, or put it back."""
    tx.execute(update(users).where(users.c.id == get(tx, login).id).values(disabled=disabled))


def set_role(tx: Connection, login: str, role: Role) -> None:
    """Change what an account may do at most."""
    tx.execute(update(users).where(users.c.id == get(tx, login).id).values(role=role.value))


def find_team(db: Connection, name: str) -> Team | None:
    """Return a team, its name in any case."""
    row = db.execute(select(teams).where(teams.c.name_key == name.lower())).first()
    return None if row is None else Team(row.id, row.name, _members(db, row.id))


def every_team(db: Connection) -> list[Team]:
    """Return all teams by name."""
    rows = db.execute(select(teams).order_by(teams.c.name_key)).all()
    return [Team(row.id, row.name, _members(db, row.id)) for row in rows]


def teams_of(db: Connection, user_id: int) -> list[str]:
    """Return the names of the teams that an account is a member of."""
    query = select(teams.c.name).join_from(teams, team_members).where(team_members.c.user_id == user_id)
    return list(db.execute(query.order_by(teams.c.name_key)).scalars())


def add_to_team(tx: Connection, name: str, logins: Sequence[str], *, now: datetime) -> Team:
    """Add accounts to a team, which is made if it is new.

    Raises:
        NotFound: there is no such user; nobody was added.
    """
    members = [get(tx, login).id for login in logins]
    team = find_team(tx, name)
    if team is None:
        row = insert(teams).returning(teams.c.id).values(name=name, name_key=name.lower(), created_at=now)
        team = Team(tx.execute(row).scalar_one(), name, ())
    for user_id in members:
        member = insert(team_members).prefix_with("OR IGNORE").values(team_id=team.id, user_id=user_id)
        tx.execute(member)
    return Team(team.id, team.name, _members(tx, team.id))


def remove_from_team(tx: Connection, name: str, logins: Sequence[str]) -> None:
    """Remove accounts from a team; without logins, remove the team.

    Raises:
        NotFound: there is no such team or member.
        Conflict: the team still owns crates.
    """
    team = find_team(tx, name)
    if team is None:
        raise NotFound(f"there is no team `{name}`")
    for login in logins:
        user = get(tx, login)
        gone = delete(team_members).where(
            team_members.c.team_id == team.id, team_members.c.user_id == user.id
        )
        if tx.execute(gone).rowcount == 0:
            raise NotFound(f"`{login}` is not a member of the team `{team.name}`")
    if not logins:
        owned = tx.execute(select(func.count()).where(owners.c.team_id == team.id)).scalar_one()
        if owned:
            raise Conflict(
                f"the team `{team.name}` still owns {owned} crates; give them other owners first, "
                f"see `cargo-registry owner remove`"
            )
        tx.execute(delete(teams).where(teams.c.id == team.id))


def _user(row: Any) -> User:
    return User(row.id, row.login, row.name, Role(row.role), row.disabled, row.created_at)


def _members(db: Connection, team_id: int) -> list[str]:
    query = (
        select(users.c.login)
        .join_from(team_members, users)
        .where(team_members.c.team_id == team_id)
        .order_by(users.c.login_key)
    )
    return list(db.execute(query).scalars())
