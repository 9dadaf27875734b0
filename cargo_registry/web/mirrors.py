"""What a mirror can be asked to do: refresh crates, and fetch all that a `Cargo.lock` names."""

from collections.abc import Sequence
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cargo_registry.errors import Invalid
from cargo_registry.mirror import prefetch
from cargo_registry.mirror.prefetch import Report
from cargo_registry.mirror.pull_through import Mirror
from cargo_registry.registry import Registry, Site
from cargo_registry.web import auth, body
from cargo_registry.web.endpoint import answer, route

_MAX_LOCKFILE_BYTES = 8 * 1024 * 1024
_MAX_CRATES = 1000


class RefreshBody(msgspec.Struct):
    """`{"crates": ["serde", "tokio"]}`."""

    crates: list[str]


def routes(site: Site, registry: Registry, mirror: Mirror) -> Sequence[Route]:
    """Return the routes that only a mirror has."""
    here = partial(route, site, registry)
    return [
        here("/api/v1/mirror/refresh", POST=partial(post_refresh, mirror)),
        here("/api/v1/mirror/prefetch", POST=partial(post_prefetch, mirror)),
    ]


async def post_refresh(mirror: Mirror, site: Site, registry: Registry, request: Request) -> Response:
    """`POST /api/v1/mirror/refresh`: ask upstream for the index files of crates now, whatever their age."""
    auth.must(site, request.scope).require_registry(registry)
    sent = await body.json(request, RefreshBody, empty="name the crates")
    if not 0 < len(sent.crates) <= _MAX_CRATES:
        raise Invalid(f"name from 1 to {_MAX_CRATES} crates")
    failed = await prefetch.refresh(mirror, sent.crates)
    return answer(
        {
            "refreshed": [name for name in sent.crates if name not in failed],
            "failed": [{"name": name, "why": why} for name, why in failed.items()],
        }
    )


async def post_prefetch(mirror: Mirror, site: Site, registry: Registry, request: Request) -> Response:
    """`POST /api/v1/mirror/prefetch`: fetch all that the `Cargo.lock` in the body names; answers when done."""
    auth.must(site, request.scope).require_registry(registry)
    text = await body.text(request, _MAX_LOCKFILE_BYTES)
    wanted = prefetch.from_lockfile(mirror.registry, text, "the lock file")
    report = await prefetch.fetch(mirror, wanted)
    return answer(to_json(report))


def to_json(report: Report) -> dict[str, object]:
    """Return a report as JSON."""
    return {
        "had": report.had,
        "fetched": report.fetched,
        "bytes": report.bytes,
        "missing": [
            {"name": missing.name, "vers": missing.vers, "why": missing.why} for missing in report.missing
        ],
    }
