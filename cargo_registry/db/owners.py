"""Owners of crates: users and teams."""

from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, or_, select

from cargo_registry.db.schema import owners, team_members, teams, users


@dataclass(frozen=True, slots=True)
class Owner:
    """One owner: a user, or a team as `team:NAME`."""

    id: int  # of the user or team
    login: str  # as `cargo owner` takes it
    name: str | None
    kind: str  # `user` or `team`


_ADD = insert(owners).prefix_with("OR IGNORE")


def add_user(tx: Connection, crate_id: int, user_id: int) -> bool:
    """Make a user an owner; return whether that changed anything."""
    return tx.execute(_ADD, {"crate_id": crate_id, "user_id": user_id}).rowcount > 0


def add_team(tx: Connection, crate_id: int, team_id: int) -> bool:
    """Make a team an owner; return whether that changed anything."""
    row = insert(owners).prefix_with("OR IGNORE").values(crate_id=crate_id, team_id=team_id)
    return tx.execute(row).rowcount > 0


def remove(tx: Connection, crate_id: int, owner: Owner) -> None:
    """Remove an owner. The caller makes sure that one is left."""
    column = owners.c.user_id if owner.kind == "user" else owners.c.team_id
    tx.execute(delete(owners).where(owners.c.crate_id == crate_id, column == owner.id))


def of_crate(db: Connection, crate_id: int) -> list[Owner]:
    """Return the owners of a crate, in the order in which they became it."""
    query = (
        select(owners, users.c.login, users.c.name, teams.c.name.label("team"))
        .join_from(owners, users, isouter=True)
        .join(teams, isouter=True)
        .where(owners.c.crate_id == crate_id)
        .order_by(owners.c.id)
    )
    return [
        Owner(row.user_id, row.login, row.name, "user")
        if row.user_id is not None
        else Owner(row.team_id, f"team:{row.team}", row.team, "team")
        for row in db.execute(query)
    ]


def is_owner(db: Connection, crate_id: int, user_id: int) -> bool:
    """Return whether a user owns the crate, directly or through a team."""
    through_team = select(team_members.c.team_id).where(team_members.c.user_id == user_id)
    query = select(func.count()).where(
        owners.c.crate_id == crate_id,
        or_(owners.c.user_id == user_id, owners.c.team_id.in_(through_team)),
    )
    return bool(db.execute(query).scalar_one())
