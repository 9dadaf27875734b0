"""The Authorization header → Caller; and the 401 that makes cargo send one."""

import base64
import hashlib
from dataclasses import dataclass
from datetime import datetime

from starlette.responses import Response
from starlette.types import Scope

from cargo_registry import tokens
from cargo_registry.errors import Unauthorized
from cargo_registry.registry import Registry, Site
from cargo_registry.tokens import Caller
from cargo_registry.web import errors


def caller(site: Site, scope: Scope) -> Caller | None:
    """Return who is calling; None if no Authorization header came.

    cargo sends the bare token, other tools `Bearer TOKEN` or, as git and curl do, the token as the password of
    Basic (cargo-client: `Authorization` is the token exactly as the user stored it).

    Raises:
        Unauthorized: one came, and it is not good.
    """
    values = _authorizations(scope)
    if not values:
        return None
    client = scope.get("client")
    address = str(client[0]) if client else None
    who = tokens.authenticate(site, _secret(values[0].decode("latin-1")), address=address)
    # Of two, a proxy that looks at tokens may go by the other one.
    if who is None or len(values) > 1:
        raise Unauthorized(
            "the token is unknown, revoked or expired, or its user is disabled; get a new one "
            "from the registry's operator and give it to `cargo login`"
        )
    return who


def is_tried(scope: Scope) -> bool:
    """Return whether a token came. Coming without one is no failure: every cold cargo begins so."""
    return any(name == b"authorization" for name, _ in scope["headers"])


def must(site: Site, scope: Scope) -> Caller:
    """Return who is calling.

    Raises:
        Unauthorized: nobody we know.
    """
    who = caller(site, scope)
    if who is None:
        raise _nobody()
    return who


def _nobody() -> Unauthorized:
    return Unauthorized("this needs a token; get one from the registry's operator and run `cargo login`")


def admit(site: Site, registry: Registry, scope: Scope) -> None:
    """Let the request into the registry: anybody into a public one, users into a private one.

    Raises:
        Unauthorized, Forbidden: not this caller. Both before anybody has looked whether anything exists.
    """
    if not registry.private:
        return
    memory = site.db.memory()
    who = must(site, scope)
    who.require_registry(registry)
    secret = _only_authorization(scope)
    if who.token is not None and secret is not None:
        memory[_key(registry, secret)] = _Known(who.login, who.token.expires_at)


@dataclass(frozen=True, slots=True)
class _Known:
    """Who was admitted before with the same header."""

    login: str
    expires_at: datetime | None


def admitted(site: Site, registry: Registry, scope: Scope) -> str | None:
    """Return the login of who was admitted to a private registry before, by the same header; None: ask `admit`.

    From any thread. Each request of a build comes with the same header. That the token was used is not noted
    again: `admit` did, and writing that makes everything forgotten here, a few seconds later.
    """
    secret = _only_authorization(scope)
    known: _Known | None = site.db.memory().get(_key(registry, secret)) if secret is not None else None
    if known is None or (known.expires_at is not None and known.expires_at <= site.now()):
        return None
    return known.login


def _key(registry: Registry, secret: bytes) -> tuple[object, ...]:
    return _Known, registry.name, hashlib.sha256(secret).digest()


def _only_authorization(scope: Scope) -> bytes | None:
    found = None
    for name, value in scope["headers"]:
        if name == b"authorization":
            if found is not None:
                return None
            found = value
    return found


def challenge(registry: Registry, error: Unauthorized) -> Response:
    """Answer 401 so that cargo asks its credential provider, and prints where to get a token.

    The quotes are needed: cargo discards an unquoted URL (cargo: http_remote.rs, `login_url`).
    """
    header = {"www-authenticate": f'Cargo login_url="{registry.url}/me"'}
    return errors.respond(str(error), 401, header)


def _authorizations(scope: Scope) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == b"authorization"]


def _secret(value: str) -> str:
    words = value.split(None, 1)
    if len(words) < 2:
        return value.strip()
    credentials = words[1].strip()
    match words[0].lower():
        case "bearer":
            return credentials
        case "basic":
            try:
                decoded = base64.b64decode(credentials, validate=True).decode("utf-8", "surrogateescape")
            except ValueError:  # also binascii.Error, for what is ASCII and not base64
                return ""
            return decoded.partition(":")[2]
    return value.strip()
