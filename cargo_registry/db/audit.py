"""What changed, when, who did it and from where. Written in the transaction of the change itself."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select

from cargo_registry.db.schema import audit


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes something: a login with the token it used, or the operator at the command line."""

    name: str
    token_id: int | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the audit log."""

    id: int
    at: datetime
    actor: str
    token_id: int | None
    address: str | None
    action: str
    registry: str | None
    crate: str | None
    vers: str | None
    detail: str


_RECORD = insert(audit)


def record(
    tx: Connection,
    action: str,
    *,
    actor: Actor,
    now: datetime,
    registry: str | None = None,
    crate: str | None = None,
    vers: str | None = None,
    detail: str = "",
) -> None:
    """Add a line to the audit log. Never a secret in `detail`."""
    line = {
        "at": now,
        "actor": actor.name,
        "token_id": actor.token_id,
        "address": actor.address,
        "action": action,
        "registry": registry,
        "crate": crate,
        "vers": vers,
        "detail": detail,
    }
    tx.execute(_RECORD, line)


def is_recorded(db: Connection, action: str, detail: str) -> bool:
    """Return whether the log has a line of this action with this detail."""
    query = select(audit.c.id).where(audit.c.action == action, audit.c.detail == detail)
    return db.execute(query.limit(1)).first() is not None


def events(
    db: Connection,
    *,
    registry: str | None = None,
    crate: str | None = None,
    actor: str | None = None,
    since: datetime | None = None,
    limit: int | None = None,
) -> list[Event]:
    """Return the newest lines that fit, oldest first."""
    query = select(audit).order_by(audit.c.id.desc()).limit(limit)
    for column, wanted in ((audit.c.registry, registry), (audit.c.crate, crate), (audit.c.actor, actor)):
        if wanted is not None:
            query = query.where(column == wanted)
    if since is not None:
        query = query.where(audit.c.at >= since)
    return [
        Event(
            row.id,
            row.at,
            row.actor,
            row.token_id,
            row.address,
            row.action,
            row.registry,
            row.crate,
            row.vers,
            row.detail,
        )
        for row in reversed(db.execute(query).all())
    ]
