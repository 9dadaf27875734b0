"""Looking things up: the reading side of crates.io's API, which the tools around cargo speak.

All of it comes from the rows at the time of asking, so it is up to date when a publish or yank has answered.
Access to a private registry was decided before any of this runs.
"""

from datetime import timedelta
from functools import partial
from urllib.parse import urlencode

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from cargo_registry import owners, readme, search
from cargo_registry.crate import versions as semver
from cargo_registry.db import crates
from cargo_registry.db.crates import Crate, Version
from cargo_registry.errors import Invalid
from cargo_registry.registry import Registry, Site
from cargo_registry.web import crates_io
from cargo_registry.web.crates_io import Json
from cargo_registry.web.endpoint import answer, route

_DAYS = 90
_MAX_PER_PAGE = 100
_MAX_PAGE = 1_000_000


def routes(site: Site, registry: Registry) -> list[Route]:
    """Return the routes of one registry, below its base path; what is fixed comes before what is a version."""
    here = partial(route, site, registry)
    crate = "/api/v1/crates/{name}"
    return [
        here("/api/v1/crates", GET=get_crates),
        here(f"{crate}", GET=get_crate),
        here(f"{crate}/versions", GET=get_versions),
        here(f"{crate}/downloads", GET=get_downloads),
        here(f"{crate}/reverse_dependencies", GET=get_reverse_dependencies),
        here(f"{crate}/owner_user", GET=partial(get_owners_of_kind, kind="user")),
        here(f"{crate}/owner_team", GET=partial(get_owners_of_kind, kind="team")),
        here(f"{crate}/{{vers}}", GET=get_version),
        here(f"{crate}/{{vers}}/dependencies", GET=get_dependencies),
        here(f"{crate}/{{vers}}/downloads", GET=get_version_downloads),
        here(f"{crate}/{{vers}}/readme", GET=get_readme),
    ]


async def get_crates(site: Site, registry: Registry, request: Request) -> Response:
    """`GET /api/v1/crates?q=…&sort=…&per_page=…&page=…`: search, or with no `q` a list."""
    # cargo joins words with a plus and then encodes it, so `a b` arrives as `a+b`.
    query = request.query_params.get("q", "").replace("+", " ")
    sort = request.query_params.get("sort", "") or "relevance"
    per_page, page = _page(request)
    hits, total = await search.search(registry, query, sort=sort, per_page=per_page, page=page)
    found = [
        {
            "id": hit.name,
            "name": hit.name,
            "description": hit.description,
            # cargo fails on null; crates.io says the same of a crate whose versions are all yanked.
            "max_version": hit.max_version or "0.0.0",
            "max_stable_version": hit.max_stable_version,
            "newest_version": hit.max_version or "0.0.0",
            "default_version": hit.default_version,
            "downloads": hit.downloads,
            "created_at": hit.created_at,
            "updated_at": hit.updated_at,
            "exact_match": hit.is_exact,
        }
        for hit in hits
    ]
    return answer({"crates": found, "meta": _meta(request, total, per_page, page)})


async def get_crate(site: Site, registry: Registry, request: Request, name: str | None = None) -> Response:
    """`GET …/{name}?include=…`: a crate; by default with everything, with `include=` only itself."""
    include = request.query_params.get("include", "full").split(",")
    full = "full" in include

    def look_up(db: Connection) -> Json:
        crate, versions = _crate(db, registry, name or request.path_params["name"])
        since = registry.now().date() - timedelta(days=_DAYS)
        recent = sum(count for _, _, count in crates.downloads_by_day(db, crate, since=since))
        with_versions = full or "versions" in include

        def labels(kind: str, wanted: str, found: list[str]) -> list[Json] | None:
            if not (full or wanted in include):
                return None
            counts = crates.label_counts(db, registry.name, kind, found)
            return [crates_io.label(kind, label, counts.get(label, 0), crate) for label in found]

        return {
            "crate": crates_io.crate(
                crate, versions, recent_downloads=recent, versions_in_full=with_versions
            ),
            "versions": [crates_io.version(crate, version) for version in reversed(versions)]
            if with_versions
            else None,
            "keywords": labels("keyword", "keywords", list(crate.keywords)),
            "categories": labels("category", "categories", list(crate.categories)),
        }

    return answer(await registry.db.read(look_up))


async def get_versions(site: Site, registry: Registry, request: Request) -> Response:
    """`GET …/{name}/versions?sort=semver|date&nums[]=…&per_page=…&page=…`: highest first, unpaged unless asked."""

    def look_up(db: Connection) -> Json:
        crate, versions = _crate(db, registry, request.path_params["name"])
        versions = list(reversed(versions))
        if request.query_params.get("sort", "semver") != "date":
            versions.sort(key=lambda version: semver.parse(version.vers), reverse=True)
        if nums := request.query_params.getlist("nums[]"):
            versions = [version for version in versions if version.vers in nums]
        total = len(versions)
        meta: Json = {"total": total, "next_page": None}
        if "per_page" in request.query_params or "page" in request.query_params:
            per_page, page = _page(request)
            versions = versions[(page - 1) * per_page : page * per_page]
            meta = _meta(request, total, per_page, page)
        return {"versions": [crates_io.version(crate, version) for version in versions], "meta": meta}

    return answer(await registry.db.read(look_up))


async def get_version(site: Site, registry: Registry, request: Request) -> Response:
    """`GET …/{name}/{vers}`."""

    def look_up(db: Connection) -> Json:
        crate, version = _version(db, registry, request)
        return {"version": crates_io.version(crate, version)}

    return answer(await registry.db.read(look_up))


async def get_dependencies(site: Site, registry: Registry, request: Request) -> Response:
    """`GET …/{name}/{vers}/dependencies`."""

    def look_up(db: Connection) -> Json:
        _, version = _version(db, registry, request)
        return {"dependencies": crates_io.dependencies(version)}

    return answer(await registry.db.read(look_up))


async def get_reverse_dependencies(site: Site, registry: Registry, request: Request) -> Response:
    """`GET …/{name}/reverse_dependencies?per_page=…&page=…`: crates whose default version depends on this one."""
    per_page, page = _page(request)

    def look_up(db: Connection) -> Json:
        crate = crates.get(db, registry.name, request.path_params["name"])
        found, total = crates.dependents(db, crate, limit=per_page, offset=(page - 1) * per_page)
        return {
            "dependencies": [
                dependency
                for dependent, version in found
                for dependency in crates_io.dependencies_on(crate, dependent, version)
            ],
            "versions": [crates_io.version(dependent, version) for dependent, version in found],
            "meta": {"total": total},
        }

    return answer(await registry.db.read(look_up))


async def get_owners_of_kind(site: Site, registry: Registry, request: Request, *, kind: str) -> Response:
    """`GET …/{name}/owner_user`, `…/owner_team`."""
    found = owners.owners(registry, request.path_params["name"])
    return answer({f"{kind}s": [crates_io.owner(owner) for owner in found if owner.kind == kind]})


async def get_downloads(site: Site, registry: Registry, request: Request) -> Response:
    """`GET …/{name}/downloads`: by day, the five newest versions one by one and the others added up."""

    def look_up(db: Connection) -> Json:
        crate, versions = _crate(db, registry, request.path_params["name"])
        newest = {version.vers: version.id for version in versions[-5:]}
        days: list[Json] = []
        extra: dict[str, int] = {}
        since = registry.now().date() - timedelta(days=_DAYS)
        for vers, day, count in crates.downloads_by_day(db, crate, since=since):
            if vers in newest:
                days.append({"version": newest[vers], "downloads": count, "date": day})
            else:
                extra[str(day)] = extra.get(str(day), 0) + count
        others = [{"date": day, "downloads": count} for day, count in sorted(extra.items())]
        return {"version_downloads": days, "meta": {"extra_downloads": others}}

    return answer(await registry.db.read(look_up))


async def get_version_downloads(site: Site, registry: Registry, request: Request) -> Response:
    """`GET …/{name}/{vers}/downloads`: by day, of the last 90 days."""

    def look_up(db: Connection) -> Json:
        crate, version = _version(db, registry, request)
        since = registry.now().date() - timedelta(days=_DAYS)
        days = crates.downloads_by_day(db, crate, since=since)
        return {
            "version_downloads": [
                {"version": version.id, "downloads": count, "date": day}
                for vers, day, count in days
                if vers == version.vers
            ]
        }

    return answer(await registry.db.read(look_up))


async def get_readme(site: Site, registry: Registry, request: Request) -> Response:
    """`GET …/{name}/{vers}/readme`: HTML without anything active; where JSON is accepted, its URL."""
    name, vers = request.path_params["name"], request.path_params["vers"]
    page = await readme.html(registry, name, vers)
    if "application/json" in request.headers.get("accept", ""):
        return answer({"url": f"{registry.url}/api/v1/crates/{name}/{vers}/readme"})
    headers = {
        "cache-control": "private, no-cache" if registry.private else "no-cache",
        "content-security-policy": "default-src 'none'; img-src https:; sandbox",
        "vary": "accept",
        "x-content-type-options": "nosniff",
    }
    return HTMLResponse(page, headers=headers)


def _crate(db: Connection, registry: Registry, name: str) -> tuple[Crate, list[Version]]:
    crate = crates.get(db, registry.name, name)
    return crate, crates.versions_of(db, crate)


def _version(db: Connection, registry: Registry, request: Request) -> tuple[Crate, Version]:
    crate = crates.get(db, registry.name, request.path_params["name"])
    return crate, crates.get_version(db, crate, request.path_params["vers"])


def _page(request: Request) -> tuple[int, int]:
    """Return how many items a page has and which page is wanted."""
    return _number(request, "per_page", 10, _MAX_PER_PAGE), _number(request, "page", 1, _MAX_PAGE)


def _number(request: Request, key: str, default: int, most: int) -> int:
    text = request.query_params.get(key, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and 1 <= int(text) <= most):
        raise Invalid(f"`{key}` must be a number from 1 to {most}")
    return int(text)


def _meta(request: Request, total: int, per_page: int, page: int) -> Json:
    """Return the total, and the query strings of the pages beside this one."""

    def link(number: int) -> str:
        others = [(key, value) for key, value in request.query_params.multi_items() if key != "page"]
        return "?" + urlencode([*others, ("page", number)])

    return {
        "total": total,
        "next_page": link(page + 1) if page * per_page < total else None,
        "prev_page": link(page - 1) if page > 1 else None,
    }
