"""Tokens: who is calling, and what they may do.

A token is `crg_` and 192 random bits. The secret is shown once; only its SHA-256 is stored, which needs no
salt and no slow hash, as nobody can guess 192 bits.
"""

import getpass
import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection

from cargo_registry.crate.names import check_label, matches
from cargo_registry.db import audit, users
from cargo_registry.db import tokens as rows
from cargo_registry.db.audit import Actor
from cargo_registry.db.users import Role, User
from cargo_registry.errors import Forbidden, Invalid
from cargo_registry.registry import Registry, Site

PREFIX = "crg_"


class Scope(StrEnum):
    """What a token can be limited to. Every token may read what its user may read."""

    PUBLISH_NEW = "publish-new"
    PUBLISH_UPDATE = "publish-update"
    YANK = "yank"
    CHANGE_OWNERS = "change-owners"
    READ = "read"


@dataclass(frozen=True, slots=True)
class Caller:
    """An account, and how far the token it came with goes. No token: the operator acts for the account."""

    user_id: int
    login: str
    role: Role
    token: rows.Token | None = None
    address: str | None = None  # of who asks, where that is known

    @property
    def actor(self) -> Actor:
        """Who this is in the audit log."""
        return Actor(self.login, self.token.id if self.token else None, self.address)

    def require(self, scope: Scope, registry: Registry, crate: str) -> None:
        """Refuse what this caller may not do to a crate, whoever owns it.

        Raises:
            Forbidden: the role or the token does not go that far.
        """
        self.require_registry(registry)
        if self.role is Role.READER:
            raise Forbidden(
                f"`{self.login}` has the role `reader` and may not change crate `{crate}`; "
                f"ask an operator for the role `publisher`"
            )
        token = self.token
        if token is None:
            return
        if token.scopes is not None and scope not in token.scopes:
            raise Forbidden(
                f"this token lacks the scope `{scope}`, which crate `{crate}` needs here; "
                f"use a token that has it"
            )
        if token.crates is not None and not any(matches(pattern, crate) for pattern in token.crates):
            raise Forbidden(f"this token is not for crate `{crate}`; it covers {', '.join(token.crates)}")

    def require_registry(self, registry: Registry) -> None:
        """Refuse a token that is limited to other registries.

        Raises:
            Forbidden: it is.
        """
        limit = self.token.registries if self.token else None
        if limit is not None and registry.name not in limit:
            raise Forbidden(f"this token is not for registry `{registry.name}`")


def authenticate(site: Site, secret: str, *, address: str | None = None) -> Caller | None:
    """Return who calls with this token; None if it is unknown, revoked, expired, or its user disabled.

    As the database says at this moment, so that a revocation holds from the next request on, in every process.
    """
    now = site.now()
    sha256 = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
    holder = site.db.remembered(rows.holder, sha256)
    if holder is None or (holder.token.expires_at is not None and holder.token.expires_at <= now):
        return None
    site.uses.note_token(holder.token.id, now)
    return Caller(holder.user_id, holder.token.login, holder.role, holder.token, address)


async def create(
    site: Site,
    login: str,
    *,
    name: str,
    scopes: Sequence[Scope] = (),
    crates: Sequence[str] = (),
    registries: Sequence[str] = (),
    expires_at: datetime | None = None,
) -> str:
    """Issue a token for a user and return its secret, which nobody can read again. Empty: no limit.

    Raises:
        NotFound: there is no such user.
        Invalid: a registry does not exist, a pattern can match no crate, or the name cannot be shown.
    """
    for registry in registries:
        if registry not in site.registries:
            known = ", ".join(f"`{known}`" for known in site.registries)
            raise Invalid(f"there is no registry `{registry}`; this server has {known}")
    for pattern in crates:
        if not re.fullmatch(r"[A-Za-z0-9_\-*?\[\]!]{1,200}", pattern):
            raise Invalid(f"`{pattern}` can match no crate; write a name or a shell glob such as `team-*`")
    check_label(name)
    secret = PREFIX + secrets.token_hex(24)
    now = site.now()

    def add(tx: Connection) -> None:
        user = users.get(tx, login)
        token_id = rows.add(
            tx,
            user.id,
            name=name,
            sha256=hashlib.sha256(secret.encode()).digest(),
            scopes=[scope.value for scope in scopes] or None,
            crates=list(crates) or None,
            registries=list(registries) or None,
            expires_at=expires_at,
            now=now,
        )
        audit.record(tx, "token-create", actor=operator(), now=now, detail=f"{token_id} for {user.login}")

    await site.db.write(add)
    return secret


async def revoke(site: Site, token_id: int) -> None:
    """Make a token useless from the next request on.

    Raises:
        NotFound: no token has this id.
    """
    now = site.now()

    def change(tx: Connection) -> None:
        rows.revoke(tx, token_id, now=now)
        audit.record(tx, "token-revoke", actor=operator(), now=now, detail=str(token_id))

    await site.db.write(change)


def acting_for(user: User) -> Caller:
    """Return the caller that an operator is on behalf of an account.

    Raises:
        Forbidden: it is disabled.
    """
    if user.disabled:
        raise Forbidden(
            f"`{user.login}` is disabled; put it back with `cargo-registry user enable {user.login}`"
        )
    return Caller(user.id, user.login, user.role, address=operator().address)


def operator() -> Actor:
    """Return who sits at the command line."""
    try:
        who = getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in some containers
        who = "?"
    return Actor("operator", address=f"command line of {who}")


def actor(caller: Caller | None) -> Actor:
    """Return who acts, for verbs whose `caller` is None for the operator."""
    return operator() if caller is None else caller.actor
