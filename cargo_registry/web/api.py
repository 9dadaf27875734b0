"""The web API that cargo changes things with. One handler per route and method, each for one registry.

Spec: https://doc.rust-lang.org/cargo/reference/registry-web-api.html
Success bodies as cargo needs them: `ok: true` always, `msg` also on removal, never an `errors` key.
"""

from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cargo_registry import owners, publish, yank
from cargo_registry.errors import Invalid
from cargo_registry.publish import Published
from cargo_registry.registry import Registry, Site
from cargo_registry.web import auth, body, crates_io, lookups
from cargo_registry.web.endpoint import answer, route
from cargo_registry.web.limits import Limits


class OwnersBody(msgspec.Struct):
    """`{"users": ["login", "team:NAME"]}`; crates.io also takes `owners`."""

    users: list[str] | None = None
    owners: list[str] | None = None


def routes(site: Site, registry: Registry, limits: Limits) -> list[Route]:
    """Return the routes of one registry, below its base path."""
    here = partial(route, site, registry)
    return [
        # A crate may be called `new` or `check`.
        here(
            "/api/v1/crates/new",
            PUT=partial(put_new, limits),
            GET=partial(lookups.get_crate, name="new"),
        ),
        here(
            "/api/v1/crates/check",
            POST=partial(post_check, limits),
            GET=partial(lookups.get_crate, name="check"),
        ),
        here("/api/v1/crates/{name}/owners", GET=get_owners, PUT=put_owners, DELETE=delete_owners),
        here("/api/v1/crates/{name}/{vers}/yank", DELETE=partial(set_yanked, yanked=True)),
        here("/api/v1/crates/{name}/{vers}/unyank", PUT=partial(set_yanked, yanked=False)),
    ]


async def put_new(limits: Limits, site: Site, registry: Registry, request: Request) -> Response:
    """`PUT /api/v1/crates/new`: publish. Who calls comes before anything that was sent."""
    registry.must_take_changes()
    caller = auth.must(site, request.scope)
    limits.publish(caller)
    async with body.publish(request, registry) as (metadata, upload):
        published = await publish.publish(registry, caller, metadata, upload)
    return answer(_warnings(published))


async def post_check(limits: Limits, site: Site, registry: Registry, request: Request) -> Response:
    """`POST /api/v1/crates/check`: the body of a publish; answers what publish would, and stores nothing."""
    registry.must_take_changes()
    caller = auth.must(site, request.scope)
    limits.check(caller)
    async with body.publish(request, registry) as (metadata, upload):
        published = await publish.check(registry, caller, metadata, upload)
    return answer(_warnings(published))


async def set_yanked(site: Site, registry: Registry, request: Request, *, yanked: bool) -> Response:
    """`DELETE …/{name}/{vers}/yank`, `PUT …/{name}/{vers}/unyank`. Once more changes nothing and is fine."""
    registry.must_take_changes()
    caller = auth.must(site, request.scope)
    await yank.set_yanked(
        registry, request.path_params["name"], request.path_params["vers"], yanked, caller=caller
    )
    return answer({"ok": True})


async def get_owners(site: Site, registry: Registry, request: Request) -> Response:
    """`GET …/{name}/owners`."""
    found = owners.owners(registry, request.path_params["name"])
    return answer({"users": [crates_io.owner(owner) for owner in found]})


async def put_owners(site: Site, registry: Registry, request: Request) -> Response:
    """`PUT …/{name}/owners`: add, all or none."""
    registry.must_take_changes()
    caller = auth.must(site, request.scope)
    logins = await _logins(request)
    message = await owners.add(registry, request.path_params["name"], logins, caller=caller)
    return answer({"ok": True, "msg": message})


async def delete_owners(site: Site, registry: Registry, request: Request) -> Response:
    """`DELETE …/{name}/owners`: remove, all or none.

    cargo ≤ 1.96 also sends this, with an empty body, for the list of `owner --remove x --list`: it gets a 400.
    """
    registry.must_take_changes()
    caller = auth.must(site, request.scope)
    logins = await _logins(request)
    message = await owners.remove(registry, request.path_params["name"], logins, caller=caller)
    return answer({"ok": True, "msg": message})


def _warnings(published: Published) -> dict[str, dict[str, list[str]]]:
    """Return what cargo prints as warnings: the other two lists are for old habits of crates.io."""
    other = list(published.warnings)
    return {"warnings": {"invalid_categories": [], "invalid_badges": [], "other": other}}


async def _logins(request: Request) -> list[str]:
    sent = await body.json(
        request,
        OwnersBody,
        empty='name at least one owner: {"users": ["LOGIN"]}; '
        "to list owners, run `cargo owner --list` by itself",
    )
    logins = sent.users if sent.users is not None else sent.owners
    if not logins or not all(login.strip() for login in logins):
        raise Invalid('name at least one owner: {"users": ["LOGIN", "team:NAME"]}')
    return [login.strip() for login in logins]
