"""Crates, versions, dependencies and owners as JSON of crates.io's shapes, for the tools around cargo.

Spec: crates.io's types (crates_io_api_types/src/lib.rs). A key of theirs that we have nothing to say for is null
or empty, so that a typed client finds it.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from cargo_registry.crate import versions as semver
from cargo_registry.db.crates import Crate, Publisher, Version
from cargo_registry.db.owners import Owner

Json = dict[str, Any]


def crate(
    crate: Crate, versions: Sequence[Version], *, recent_downloads: int, versions_in_full: bool
) -> Json:
    """Return a crate; `versions` are all of its."""
    shown = next((version for version in versions if version.vers == crate.default_version), versions[-1])
    base = f"/api/v1/crates/{crate.name}"
    return {
        "id": crate.name,
        "name": crate.name,
        "updated_at": crate.updated_at,
        "created_at": crate.created_at,
        "versions": [version.id for version in reversed(versions)] if versions_in_full else None,
        "keywords": list(crate.keywords),
        "categories": list(crate.categories),
        "badges": [],
        "downloads": crate.downloads,
        "recent_downloads": recent_downloads,
        "default_version": crate.default_version,
        "num_versions": len(versions),
        "yanked": all(version.yanked for version in versions),
        # crates.io says so when all are yanked, and clients expect a string.
        "max_version": crate.max_version or "0.0.0",
        "newest_version": _newest(versions),
        "max_stable_version": crate.max_stable_version,
        "description": crate.description,
        "homepage": shown.manifest["homepage"],
        "documentation": shown.manifest["documentation"],
        "repository": shown.manifest["repository"],
        "links": {
            "version_downloads": f"{base}/downloads",
            "versions": f"{base}/versions",
            "owners": f"{base}/owners",
            "owner_team": f"{base}/owner_team",
            "owner_user": f"{base}/owner_user",
            "reverse_dependencies": f"{base}/reverse_dependencies",
        },
        "exact_match": False,
        "trustpub_only": False,
    }


def version(crate: Crate, version: Version) -> Json:
    """Return a version of a crate."""
    line = _line(version)
    manifest = version.manifest
    base = f"/api/v1/crates/{crate.name}/{quote(version.vers)}"
    return {
        "id": version.id,
        "crate": crate.name,
        "num": version.vers,
        "dl_path": f"{base}/download",
        "readme_path": f"{base}/readme",
        "created_at": version.published_at,
        "updated_at": version.published_at,
        "downloads": version.downloads,
        "features": {**line["features"], **line.get("features2", {})},
        "yanked": version.yanked,
        "yank_message": None,
        "lib_links": line.get("links"),
        "license": manifest["license"] or ("non-standard" if manifest["license_file"] else None),
        "links": {
            "dependencies": f"{base}/dependencies",
            "version_downloads": f"{base}/downloads",
            "authors": f"{base}/authors",
        },
        "crate_size": version.size,
        "published_by": version.published_by and _user(version.published_by),
        "audit_actions": [],
        "checksum": version.cksum,
        "rust_version": line.get("rust_version"),
        "has_lib": manifest["has_lib"],
        "bin_names": manifest["bin_names"],
        "edition": manifest["edition"],
        "description": manifest["description"],
        "homepage": manifest["homepage"],
        "documentation": manifest["documentation"],
        "repository": manifest["repository"],
        "trustpub_data": None,
        "linecounts": None,
    }


def dependencies(version: Version) -> list[Json]:
    """Return what a version depends on, in the order of its index line."""
    return [_dependency(version, position, dep) for position, dep in enumerate(_line(version)["deps"])]


def dependencies_on(crate: Crate, dependent: Crate, version: Version) -> list[Json]:
    """Return the dependencies of `dependent`'s version on `crate`, with the downloads of the dependent."""
    return [
        dependency | {"downloads": dependent.downloads}
        for dependency in dependencies(version)
        if dependency["registry"] is None
        and dependency["crate_id"].lower().replace("-", "_") == crate.canonical
    ]


def owner(owner: Owner) -> Json:
    """Return an owner. cargo needs a number as `id`."""
    return {
        "id": owner.id,
        "login": owner.login,
        "kind": owner.kind,
        "name": owner.name,
        "url": None,
        "avatar": None,
    }


def label(kind: str, label: str, crates: int, crate: Crate) -> Json:
    """Return a keyword or category (`kind`) and how many crates have it."""
    common = {"id": label, "created_at": crate.created_at, "crates_cnt": crates}
    if kind == "keyword":
        return common | {"keyword": label}
    return common | {"category": label, "slug": label, "description": ""}


def _dependency(version: Version, position: int, dep: Mapping[str, Any]) -> Json:
    return {
        # Unique, and the same each time: a manifest of 1 MiB has no room for so many dependencies.
        "id": version.id * 100_000 + position,
        "version_id": version.id,
        "crate_id": dep.get("package") or dep["name"],
        "req": dep["req"],
        "optional": dep["optional"],
        "default_features": dep["default_features"],
        "features": dep["features"],
        "target": dep["target"],
        "kind": dep["kind"],
        "registry": dep.get("registry"),
        "explicit_name_in_toml": dep["name"] if dep.get("package") else None,
        "downloads": 0,
    }


def _user(user: Publisher) -> Json:
    return {"id": user.id, "login": user.login, "name": user.name, "url": None, "avatar": None}


def _newest(versions: Sequence[Version]) -> str:
    """Return the version published last, yanked ones only where there is no other."""
    offered = [version.vers for version in versions if not version.yanked]
    return offered[-1] if offered else semver.max_version(version.vers for version in versions) or "0.0.0"


def _line(version: Version) -> Any:
    return msgspec.json.decode(version.line)
