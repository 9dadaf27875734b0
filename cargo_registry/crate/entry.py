"""The sparse index as cargo reads it: where a crate's file lives and what one line of it says.

A line is made from the manifest in the tarball, never from the JSON that came with it: what users
resolve is then what they get. Made so, the lines of crates.io come out byte for byte.

Spec: https://doc.rust-lang.org/cargo/reference/registry-index.html
Pure: no I/O, no clock. Whoever has the bytes and the time passes them in.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Self
from urllib.parse import urlsplit

from msgspec import UNSET

from cargo_registry.crate import features as feature_rules
from cargo_registry.crate import platform, requirement
from cargo_registry.crate.manifest import DepKind, Manifest, ManifestDep
from cargo_registry.crate.names import CrateName, shown
from cargo_registry.crate.publish_body import PublishDep, PublishMetadata
from cargo_registry.errors import Disagreement, InvalidManifest

Features = Mapping[str, Sequence[str]]

# How every index and lock file names crates.io. Its sparse URL would make a second source of the same
# crates, whose types do not unify with those of the first.
CRATES_IO = "https://github.com/rust-lang/crates.io-index"
_CRATES_IO_SPARSE = "sparse+https://index.crates.io/"

_KIND_ORDER: dict[DepKind, int] = {"normal": 0, "build": 1, "dev": 2}
_DEFAULT_PORTS = {"http": 80, "https": 443, "ssh": 22}


def index_path(name: CrateName) -> str:
    """Return the path of the crate's index file under the index root, always lowercase.

    `a` → `1/a`, `ab` → `2/ab`, `abc` → `3/a/abc`, `Serde` → `se/rd/serde`.
    """
    return f"{prefix(name.lower)}/{name.lower}"


def prefix(name: str) -> str:
    """Return the folders above a name: `a` → `1`, `ab` → `2`, `abc` → `3/a`, `serde` → `se/rd`."""
    match len(name):
        case 1 | 2 as n:
            return str(n)
        case 3:
            return f"3/{name[0]}"
        case _:
            return f"{name[:2]}/{name[2:4]}"


def tarball_key(name: CrateName, vers: str, cksum: str) -> str:
    """Return the key of a tarball in `crates_storage`; `name` as the crate was first spelled.

    Written as cargo expands `{lowerprefix}/{crate}/{crate}-{version}-{sha256-checksum}.crate`, so
    that nginx, a CDN or a bucket can serve the folder with that as its `dl`.
    """
    return f"{prefix(name.lower)}/{name}/{name}-{vers}-{cksum}.crate"


def download_url(dl: str, name: str, vers: str, cksum: str) -> str:
    """Return where cargo fetches a tarball, as the `dl` of a registry's config.json says.

    (cargo: cargo-util/src/registry.rs; markers it does not know stay as they are)
    """
    markers = {
        "{crate}": name,
        "{version}": vers,
        "{prefix}": prefix(name),
        "{lowerprefix}": prefix(name.lower()),
        "{sha256-checksum}": cksum,
    }
    if not any(marker in dl for marker in markers):
        return f"{dl}/{name}/{vers}/download"
    for marker, value in markers.items():
        dl = dl.replace(marker, value)
    return dl


class OwnUrls:
    """The index URLs that mean this registry: the configured one and its aliases.

    A registry that stands in for crates.io has `CRATES_IO` among them.
    """

    def __init__(self, urls: Iterable[str]) -> None:
        self._urls = frozenset(_canonical_url(url) for url in urls)

    def means_us(self, url: str) -> bool:
        """Tell whether an index URL means this registry, in whatever spelling; any text may be asked."""
        return _canonical_url(url) in self._urls


@dataclass(frozen=True, slots=True)
class IndexDep:
    """A dependency as the index spells it."""

    name: str  # as the crate's own code calls it
    package: str | None  # the real crate name, where the manifest has one
    req: str
    features: tuple[str, ...]
    optional: bool
    default_features: bool
    target: str | None
    kind: DepKind
    registry: str | None  # index URL; None = this registry
    public: bool = False
    artifact: tuple[str, ...] | None = None
    bindep_target: str | None = None
    lib: bool = False

    @classmethod
    def from_manifest(cls, dep: ManifestDep, own_urls: OwnUrls) -> Self:
        """Return the dependency as this registry's index says it.

        Raises:
            InvalidManifest: its registry is not given by a URL.
        """
        return cls(
            name=dep.name,
            package=dep.package,
            req=requirement.normal_form(dep.req),
            features=dep.features,
            optional=dep.optional,
            default_features=dep.default_features,
            target=dep.target,
            kind=dep.kind,
            registry=_registry(
                dep.name, CRATES_IO if dep.registry_index is None else dep.registry_index, own_urls
            ),
            public=dep.public,
            artifact=dep.artifact,
            bindep_target=dep.bindep_target,
            lib=dep.lib,
        )

    @classmethod
    def from_publish(cls, dep: PublishDep, own_urls: OwnUrls) -> Self:
        """Swap the names: publish says (real name, alias), the index says (alias, real name).

        Raises:
            InvalidRequirement: cargo could not read the requirement.
            InvalidManifest: its registry is not given by a URL.
        """
        alias = dep.explicit_name_in_toml
        name = dep.name if alias is None else alias
        return cls(
            name=name,
            package=None if alias is None else dep.name,
            req=requirement.normal_form(dep.version_req),
            features=tuple(dep.features),
            optional=dep.optional,
            default_features=dep.default_features,
            target=dep.target,
            kind=dep.kind or "normal",
            registry=None if dep.registry is None else _registry(name, dep.registry, own_urls),
            artifact=None if dep.artifact is None else tuple(dep.artifact),
            bindep_target=dep.bindep_target,
            lib=dep.lib,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the dependency object of an index line."""
        optional_keys = {
            "registry": self.registry,
            "package": self.package,
            "public": self.public or None,
            "artifact": self.artifact,
            "bindep_target": self.bindep_target,
            "lib": self.lib or None,
        }
        return {
            "name": self.name,
            "req": self.req,
            "features": self.features,
            "optional": self.optional,
            "default_features": self.default_features,
            "target": self.target,
            "kind": self.kind,
        } | {key: value for key, value in optional_keys.items() if value is not None}

    def sort_key(self) -> tuple[object, ...]:
        """Return what crates.io sorts by (measured on 31,422 lines); None comes before any text."""
        return (
            self.name,
            _KIND_ORDER[self.kind],
            self.req,
            self.optional,
            self.default_features,
            (self.target is not None, self.target or ""),
            (self.package is not None, self.package or ""),
            self.features,
        )


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version as published: one line of an index file. Never changes but for `yanked`, see `render`."""

    name: CrateName
    vers: str  # SemVer 2.0.0, as published, build metadata included
    deps: tuple[IndexDep, ...]
    features: Features
    cksum: str  # SHA-256 of the .crate file, 64 lowercase hex digits
    links: str | None
    rust_version: str | None
    pubtime: datetime

    @classmethod
    def from_manifest(cls, manifest: Manifest, *, cksum: str, pubtime: datetime, own_urls: OwnUrls) -> Self:
        """Return the entry for a crate being published at `pubtime` (aware, any zone).

        Raises:
            InvalidName: the crate's name breaks the rules.
            InvalidManifest: a dependency's registry is not given by a URL.
        """
        return cls(
            name=CrateName(manifest.name),
            vers=manifest.version,
            deps=tuple(
                sorted(
                    (IndexDep.from_manifest(dep, own_urls) for dep in manifest.deps), key=IndexDep.sort_key
                )
            ),
            features=dict(sorted(manifest.features.items())),
            cksum=cksum,
            links=manifest.links,
            rust_version=manifest.rust_version,
            pubtime=pubtime,
        )

    def to_line(self) -> bytes:
        """Return the entry as one JSON line, newline included, not yanked."""
        plain, extended = feature_rules.split(self.features)
        line: dict[str, Any] = {
            "name": self.name.text,
            "vers": self.vers,
            "deps": [dep.to_json() for dep in self.deps],
            "cksum": self.cksum,
            "features": plain,
        }
        if extended:
            line["features2"] = extended
        line["yanked"] = False
        if self.links is not None:
            line["links"] = self.links
        if self.rust_version is not None:
            line["rust_version"] = self.rust_version
        # To the second and with `Z`: any other form makes the entry invalid to cargo from 1.94 on.
        line["pubtime"] = self.pubtime.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if any(dep.artifact for dep in self.deps):
            # A cargo that does not know artifacts would link the dependency as a library.
            line["v"] = 3
        elif extended:
            # cargo 1.51 to 1.59 skips an entry whose `v` it does not know; without `v` it would
            # read on and miss these features.
            line["v"] = 2
        return json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def render(lines: Iterable[tuple[bytes, bool]]) -> bytes:
    """Return an index file: lines as `to_line` made them, each with whether it is yanked."""
    # Inside a JSON string each quote has a backslash before it, so these bytes are the key and nothing else.
    return b"".join(
        line.replace(b'"yanked":false', b'"yanked":true') if yanked else line for line, yanked in lines
    )


def check_agreement(metadata: PublishMetadata, manifest: Manifest, own_urls: OwnUrls) -> None:
    """Check that cargo's JSON and the manifest in the tarball mean the same version.

    cargo makes both from one crate. Where they differ, somebody reviews one thing and users get another.

    Raises:
        Disagreement: they differ; says in what.
        InvalidManifest: a dependency's registry is not given by a URL.
    """
    _check_same("name", metadata.name, manifest.name)
    _check_same("version", metadata.vers, manifest.version)
    if metadata.links is not UNSET:
        _check_same("`links`", metadata.links, manifest.links)
    if metadata.rust_version is not UNSET:
        _check_same("`rust-version`", metadata.rust_version, manifest.rust_version)
    said = [_meaning(IndexDep.from_publish(dep, own_urls)) for dep in metadata.deps]
    held = [_meaning(IndexDep.from_manifest(dep, own_urls)) for dep in manifest.deps]
    _check_same_deps(said, held)
    _check_same_features(
        _meaning_of_features(metadata.features, said), _meaning_of_features(manifest.features, held)
    )


def _check_same(label: str, said: str | None, held: str | None) -> None:
    if said != held:
        raise Disagreement(
            f"the publish request gives the {label} as {_shown(said)}, but `Cargo.toml` in the tarball as "
            f"{_shown(held)}; publish with `cargo publish`"
        )


def _meaning(dep: IndexDep) -> IndexDep:
    """Return a dependency without differences of spelling; the JSON does not have `public`."""
    return replace(
        dep,
        package=dep.package or dep.name,
        features=tuple(sorted(set(dep.features))),
        target=None if dep.target is None else platform.canonical(dep.target),
        public=False,
        artifact=None if dep.artifact is None else tuple(sorted(set(dep.artifact))),
    )


def _check_same_deps(said: Sequence[IndexDep], held: Sequence[IndexDep]) -> None:
    only_said = sorted((Counter(said) - Counter(held)).elements(), key=IndexDep.sort_key)
    only_held = sorted((Counter(held) - Counter(said)).elements(), key=IndexDep.sort_key)
    # Not each against each: two lists of thousands, of which none agrees, would take hours.
    twins = {_key(dep): dep for dep in reversed(only_held)}
    for dep in only_said:
        twin = twins.get(_key(dep))
        if twin is not None:
            raise Disagreement(
                f"the publish request and `Cargo.toml` in the tarball differ in the dependency {shown(dep.name)}: "
                f"{_difference(dep, twin)}; publish with `cargo publish`"
            )
    for dep, where in [
        *((dep, "publish request") for dep in only_said),
        *((dep, "`Cargo.toml`") for dep in only_held),
    ]:
        raise Disagreement(
            f"the {dep.kind} dependency {shown(dep.name)} is only in the {where} and not in the other; publish with "
            "`cargo publish`, which sends the request and the tarball's `Cargo.toml` from one crate"
        )


def _key(dep: IndexDep) -> tuple[str, DepKind, str | None]:
    return dep.name, dep.kind, dep.target


def _difference(said: IndexDep, held: IndexDep) -> str:
    """Name the fields in which two dependencies differ."""
    return ", ".join(
        f"`{field.name}` is {_shown(getattr(said, field.name))} in the request and "
        f"{_shown(getattr(held, field.name))} in the manifest"
        for field in fields(IndexDep)
        if getattr(said, field.name) != getattr(held, field.name)
    )


def _meaning_of_features(features: Features, deps: Iterable[IndexDep]) -> dict[str, frozenset[str]]:
    """Return the features as cargo sees them; some cargos send those that others leave implied."""
    effective = feature_rules.effective(features, ((dep.name, dep.optional) for dep in deps))
    return {feature: frozenset(enables) for feature, enables in effective.items()}


def _check_same_features(said: Mapping[str, frozenset[str]], held: Mapping[str, frozenset[str]]) -> None:
    for feature in sorted(said.keys() | held.keys()):
        if said.get(feature) != held.get(feature):
            raise Disagreement(
                f"the publish request and `Cargo.toml` in the tarball differ in the feature {shown(feature)}: "
                f"{_shown(said.get(feature))} in the request and {_shown(held.get(feature))} in the manifest; "
                "publish with `cargo publish`"
            )


def _shown(value: object) -> str:
    if isinstance(value, (tuple, frozenset)):
        return shown(", ".join(sorted(value)) or "[]")
    return (
        "nothing" if value is None else shown(str(value).lower() if isinstance(value, bool) else str(value))
    )


def _registry(dep: str, url: str, own_urls: OwnUrls) -> str | None:
    """Return the `registry` of an index line for the index that a dependency comes from."""
    if _canonical_url(url) == _canonical_url(_CRATES_IO_SPARSE):
        url = CRATES_IO
    if own_urls.means_us(url):
        return None
    _check_registry_url(dep, url)
    return url


def _check_registry_url(dep: str, url: str) -> None:
    scheme, _, rest = url.partition("://")
    if not rest or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidManifest(
            f"the registry {shown(url)} of the dependency {shown(dep)} is not a URL; write it like "
            "`sparse+https://crates.example.com/index/`"
        )
    if scheme in {"sparse+http", "sparse+https"} and not url.endswith("/"):
        raise InvalidManifest(
            f"the registry {shown(url)} of the dependency {shown(dep)} must end in `/`, as each sparse index does"
        )
    if scheme not in {"sparse+http", "sparse+https", "http", "https", "ssh", "file"}:
        raise InvalidManifest(
            f"the registry {shown(url)} of the dependency {shown(dep)} is of an unknown kind; use a sparse index "
            "(`sparse+https://`) or a git index (`https://`, `ssh://`)"
        )
    if scheme != "ssh" and "@" in rest.partition("/")[0]:
        raise InvalidManifest(
            f"the registry URL of the dependency {shown(dep)} holds a user name or password, which everybody could "
            "read; remove it"
        )


def _canonical_url(url: str) -> str:
    """Return one spelling for all spellings of an index URL; text that is none stays as it is."""
    bare = url.removeprefix("sparse+").removeprefix("registry+")
    try:
        parts = urlsplit(bare)
        port = parts.port
    except ValueError:
        return url
    # urlsplit() drops line breaks and tabs without a word.
    if not parts.hostname or parts.query or parts.fragment or not bare.isascii() or not bare.isprintable():
        return url
    user, at, _ = parts.netloc.rpartition("@")
    where = parts.hostname if port in {None, _DEFAULT_PORTS.get(parts.scheme)} else f"{parts.hostname}:{port}"
    return f"{parts.scheme}://{user}{at}{where}{parts.path.rstrip('/')}"
