"""Tokens: what was issued, to whom, and how far each goes. Secrets are known by their SHA-256 alone."""

import hmac
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.engine import Row

from cargo_registry.db.schema import tokens, users
from cargo_registry.db.users import Role
from cargo_registry.errors import NotFound


@dataclass(frozen=True, slots=True)
class Token:
    """A token as issued. None for a limit: as far as its user's role goes."""

    id: int
    login: str
    name: str
    scopes: Sequence[str] | None
    crates: Sequence[str] | None  # patterns
    registries: Sequence[str] | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class Holder:
    """A token that is good, with the account behind it."""

    token: Token
    user_id: int
    role: Role


_HOLDER = (
    select(tokens, users.c.login, users.c.role, users.c.disabled)
    .join_from(tokens, users)
    .where(tokens.c.sha256 == bindparam("sha256"))
)


def add(
    tx: Connection,
    user_id: int,
    *,
    name: str,
    sha256: bytes,
    scopes: Sequence[str] | None,
    crates: Sequence[str] | None,
    registries: Sequence[str] | None,
    expires_at: datetime | None,
    now: datetime,
) -> int:
    """Record a token and return its id."""
    row = (
        insert(tokens)
        .returning(tokens.c.id)
        .values(
            user_id=user_id,
            name=name,
            sha256=sha256,
            scopes=_dump(scopes),
            crates=_dump(crates),
            registries=_dump(registries),
            created_at=now,
            expires_at=expires_at,
        )
    )
    token_id: int = tx.execute(row).scalar_one()
    return token_id


def holder(db: Connection, sha256: bytes) -> Holder | None:
    """Return who holds the token of this hash, expired or not; None if it is unknown, revoked or its user disabled."""
    row = db.execute(_HOLDER, {"sha256": sha256}).first()
    # The index has found the row by a hash that nobody can steer; the comparison that decides takes
    # the same time for every wrong byte.
    if row is None or not hmac.compare_digest(row.sha256, sha256):
        return None
    if row.revoked_at is not None or row.disabled:
        return None
    return Holder(_token(row), row.user_id, Role(row.role))


def issued(db: Connection, login: str | None) -> list[Token]:
    """Return the tokens of a user, or all, oldest first; revoked and expired ones too."""
    query = select(tokens, users.c.login).join_from(tokens, users).order_by(tokens.c.id)
    if login is not None:
        query = query.where(users.c.login_key == login.lower())
    return [_token(row) for row in db.execute(query)]


def revoke(tx: Connection, token_id: int, *, now: datetime) -> None:
    """Make a token useless from the next request on. Revoking it again changes nothing.

    Raises:
        NotFound: no token has this id.
    """
    # What does not fit into 64 bits is no id, and an error of the driver.
    known = abs(token_id) < 2**63 and tx.execute(select(tokens.c.id).where(tokens.c.id == token_id)).first()
    if not known:
        raise NotFound(f"there is no token {token_id}; `cargo-registry token list` shows them")
    unrevoked = (tokens.c.id == token_id) & tokens.c.revoked_at.is_(None)
    tx.execute(update(tokens).where(unrevoked).values(revoked_at=now))


def note_use(tx: Connection, uses: Iterable[tuple[int, datetime]]) -> None:
    """Record when tokens were last used."""
    for token_id, at in uses:
        tx.execute(update(tokens).where(tokens.c.id == token_id).values(last_used_at=at))


def _dump(limit: Sequence[str] | None) -> str | None:
    return None if limit is None else json.dumps(list(limit))


def _load(limit: str | None) -> Sequence[str] | None:
    return None if limit is None else tuple(json.loads(limit))


def _token(row: Row[tuple[object, ...]]) -> Token:
    return Token(
        row.id,
        row.login,
        row.name,
        _load(row.scopes),
        _load(row.crates),
        _load(row.registries),
        row.created_at,
        row.expires_at,
        row.revoked_at,
        row.last_used_at,
    )
