"""The web API that cargo speaks. One handler per route, each for one registry.

Spec: https://doc.rust-lang.org/cargo/reference/registry-web-api.html
Success bodies as cargo needs them: `ok: true` always, `msg` also on removal, never an `errors` key.
"""

from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cargo_registry import owners, publish, search, yank
from cargo_registry.errors import Invalid
from cargo_registry.registry import Registry, Site
from cargo_registry.web import auth, body
from cargo_registry.web.endpoint import route

_MAX_PER_PAGE = 100


class OwnersBody(msgspec.Struct):
    """`{"users": ["login", "team:NAME"]}`; crates.io also takes `owners`."""

    users: list[str] | None = None
    owners: list[str] | None = None


def routes(site: Site, registry: Registry) -> list[Route]:
    """Return the routes of one registry, below its base path."""
    here = partial(route, site, registry)
    return [
        here("/api/v1/crates", GET=get_crates),
        here("/api/v1/crates/new", PUT=put_new),
        here("/api/v1/crates/{name}/owners", GET=get_owners, PUT=put_owners, DELETE=delete_owners),
        here("/api/v1/crates/{name}/{vers}/yank", DELETE=partial(set_yanked, yanked=True)),
        here("/api/v1/crates/{name}/{vers}/unyank", PUT=partial(set_yanked, yanked=False)),
    ]


async def put_new(site: Site, registry: Registry, request: Request) -> Response:
    """`PUT /api/v1/crates/new`: publish. Who calls comes before anything that was sent."""
    caller = auth.must(site, request.scope["headers"])
    async with body.publish(request, registry) as (metadata, upload):
        published = await publish.publish(registry, caller, metadata, upload)
    warnings = {"invalid_categories": [], "invalid_badges": [], "other": list(published.warnings)}
    return answer({"warnings": warnings})


async def set_yanked(site: Site, registry: Registry, request: Request, *, yanked: bool) -> Response:
    """`DELETE …/{name}/{vers}/yank`, `PUT …/{name}/{vers}/unyank`. Once more changes nothing and is fine."""
    caller = auth.must(site, request.scope["headers"])
    await yank.set_yanked(
        registry, request.path_params["name"], request.path_params["vers"], yanked, caller=caller
    )
    return answer({"ok": True})


async def get_owners(site: Site, registry: Registry, request: Request) -> Response:
    """`GET …/{name}/owners`."""
    found = owners.owners(registry, request.path_params["name"])
    return answer(
        {
            "users": [
                {"id": owner.id, "login": owner.login, "name": owner.name, "kind": owner.kind}
                for owner in found
            ]
        }
    )


async def put_owners(site: Site, registry: Registry, request: Request) -> Response:
    """`PUT …/{name}/owners`: add, all or none."""
    caller = auth.must(site, request.scope["headers"])
    logins = await _logins(request)
    message = await owners.add(registry, request.path_params["name"], logins, caller=caller)
    return answer({"ok": True, "msg": message})


async def delete_owners(site: Site, registry: Registry, request: Request) -> Response:
    """`DELETE …/{name}/owners`: remove, all or none.

    cargo ≤ 1.96 also sends this, with an empty body, for the list of `owner --remove x --list`: it gets a 400.
    """
    caller = auth.must(site, request.scope["headers"])
    logins = await _logins(request)
    message = await owners.remove(registry, request.path_params["name"], logins, caller=caller)
    return answer({"ok": True, "msg": message})


async def get_crates(site: Site, registry: Registry, request: Request) -> Response:
    """`GET /api/v1/crates?q=…&per_page=…&page=…`: search."""
    page = _number(request, "page", 1, 1_000_000)
    hits, total = await search.search(
        registry,
        # cargo joins words with a plus and then encodes it, so `a b` arrives as `a+b`.
        request.query_params.get("q", "").replace("+", " "),
        per_page=_number(request, "per_page", 10, _MAX_PER_PAGE),
        page=page,
    )
    return answer(
        {
            "crates": [
                {
                    "id": hit.name,
                    "name": hit.name,
                    "description": hit.description,
                    # cargo fails on null; crates.io says the same of a crate whose versions are all yanked.
                    "max_version": hit.max_version or "0.0.0",
                    "max_stable_version": hit.max_stable_version,
                    "downloads": hit.downloads,
                }
                for hit in hits
            ],
            "meta": {"total": total},
        }
    )


def answer(value: Any) -> Response:
    """Answer 200 with JSON. What the API says is true only now."""
    return Response(msgspec.json.encode(value), 200, {"cache-control": "no-store"}, "application/json")


async def _logins(request: Request) -> list[str]:
    sent = await body.json(request, OwnersBody)
    logins = sent.users if sent.users is not None else sent.owners
    if not logins or not all(login.strip() for login in logins):
        raise Invalid('name at least one owner: {"users": ["LOGIN", "team:NAME"]}')
    return [login.strip() for login in logins]


def _number(request: Request, key: str, default: int, most: int) -> int:
    value = request.query_params.get(key)
    if value is None or value == "":
        return default
    if not (value.isascii() and value.isdecimal()) or not 1 <= int(value[:12]) <= most:
        raise Invalid(f"`{key}` must be a number from 1 to {most}")
    return int(value)
