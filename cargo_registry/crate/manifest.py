"""What a crate says of itself: the `Cargo.toml` in its tarball, of whatever age.

Spec: https://doc.rust-lang.org/cargo/reference/manifest.html. cargo has normalised the manifests it packages
since 2016; older ones are as their authors wrote them. Unknown keys are a newer cargo's and ignored.
"""

import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import tomli

from cargo_registry.crate import features as feature_rules
from cargo_registry.crate import names, platform, requirement, versions
from cargo_registry.crate.names import shown
from cargo_registry.errors import InvalidManifest, InvalidName, InvalidRequirement

DepKind = Literal["normal", "build", "dev"]

_Table = Mapping[str, Any]
_T = TypeVar("_T")

# Each with the spelling of 2014, which counts only where the other is missing.
_DEP_TABLES: tuple[tuple[DepKind, str, str], ...] = (
    ("normal", "dependencies", "dependencies"),
    ("build", "build-dependencies", "build_dependencies"),
    ("dev", "dev-dependencies", "dev_dependencies"),
)

_TOML_TYPES = {str: "a string", bool: "`true` or `false`", list: "a list", dict: "a table"}

# Texts end up in terminals (`cargo search`), which obey these. Line breaks and tabs are no more than untidy.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_TEXTS = ("description", "license", "license-file", "links", "homepage", "documentation", "repository")

_RUST_VERSION = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){0,2}")
_EDITION = re.compile(r"20[0-9][0-9]")

# (cargo: util/toml/mod.rs, `DEFAULT_README_FILES`)
_README_FILES = ("README.md", "README.txt", "README")


@dataclass(frozen=True, slots=True)
class ManifestDep:
    """A dependency as the manifest spells it."""

    name: str  # as the crate's own code calls it
    package: str | None  # the real crate, where the key is there
    req: str
    features: tuple[str, ...]
    optional: bool
    default_features: bool
    target: str | None  # `cfg(…)` or a triple
    kind: DepKind
    registry_index: str | None  # index URL; None = crates.io
    public: bool
    artifact: tuple[str, ...] | None
    bindep_target: str | None
    lib: bool


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole manifest, checked: cargo could read the index entry made from it."""

    name: str
    version: str
    deps: tuple[ManifestDep, ...]
    features: dict[str, list[str]]  # in the manifest's order
    links: str | None
    rust_version: str | None
    edition: str
    description: str | None
    license: str | None
    license_file: str | None
    homepage: str | None
    documentation: str | None
    repository: str | None
    readme: str | None  # path relative to the manifest, of a file that is there
    keywords: list[str]
    categories: list[str]
    authors: list[str]
    has_lib: bool
    bin_names: tuple[str, ...]
    proc_macro: bool


def parse(data: bytes, *, members: Collection[str] | None = None) -> Manifest:
    """Return what a `Cargo.toml` says; `members` are the files beside it, relative to it.

    Without `members` no README is found, and no library or program that is not named.

    Raises:
        InvalidManifest: no TOML, a value of the wrong type, or something that cargo would refuse.
        InvalidName, InvalidVersion, InvalidRequirement: a name, version or requirement is wrong.
    """
    toml = _toml(data)
    if "patch" in toml:
        raise InvalidManifest("`Cargo.toml` has `[patch]`, which a published crate cannot use; remove it")
    package = _package(toml)
    files = frozenset(members or ())
    edition = _get(package, "edition", str, "package") or "2015"
    _check_edition(edition)
    deps = tuple(_deps(toml))
    features = _features(toml)
    feature_rules.check(features, ((dep.name, dep.optional) for dep in deps))
    lib = _lib(toml)
    name = _required(package, "name")
    _check_texts(package)
    return Manifest(
        name=name,
        version=_version(package),
        deps=deps,
        features=features,
        links=_get(package, "links", str, "package"),
        rust_version=_rust_version(package),
        edition=edition,
        description=_get(package, "description", str, "package"),
        license=_get(package, "license", str, "package"),
        license_file=_get(package, "license-file", str, "package"),
        homepage=_get(package, "homepage", str, "package"),
        documentation=_get(package, "documentation", str, "package"),
        repository=_get(package, "repository", str, "package"),
        readme=_readme(package, files),
        keywords=_strings(package, "keywords", "package") or [],
        categories=_strings(package, "categories", "package") or [],
        authors=_strings(package, "authors", "package") or [],
        has_lib=lib is not None or _has_found_lib(package, files),
        bin_names=tuple(_bin_names(toml, package, files, name, edition)),
        proc_macro=_is_proc_macro(lib or {}),
    )


# ── The file and its tables ──


def _toml(data: bytes) -> dict[str, Any]:
    try:
        return tomli.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InvalidManifest("`Cargo.toml` is not in UTF-8; save it as UTF-8") from None
    except tomli.TOMLDecodeError as error:
        raise InvalidManifest(f"`Cargo.toml` is not valid TOML: {error}; correct it") from None
    except (RecursionError, ValueError):
        # ValueError: dates such as 2025-02-30, and integers of more than 4,300 digits.
        raise InvalidManifest(
            "`Cargo.toml` nests too deeply or has a number or date out of range; correct it"
        ) from None


def _package(toml: _Table) -> _Table:
    """Return `[package]`, which in 2014 was `[project]`."""
    package = _get(toml, "package", dict) or _get(toml, "project", dict)
    if package is None:
        raise InvalidManifest("`Cargo.toml` has no `[package]`; add it")
    return package


def _get(table: _Table, key: str, kind: type[_T], where: str = "") -> _T | None:
    """Return the value of a key, or None where there is none."""
    value = table.get(key)
    if value is None or isinstance(value, kind):
        return value
    label = f"{where}.{key}" if where else key
    if isinstance(value, dict) and value.get("workspace") is True:
        raise InvalidManifest(
            f"`Cargo.toml` takes {shown(label)} from a workspace, which is not in the tarball; "
            "make it with `cargo package`"
        )
    raise InvalidManifest(f"{shown(label)} in `Cargo.toml` is of the wrong type; make it {_TOML_TYPES[kind]}")


def _strings(table: _Table, key: str, where: str = "") -> list[str] | None:
    """Return the value of a key that holds a list of strings, or None where there is none."""
    values = _get(table, key, list, where)
    if values is not None and not all(isinstance(value, str) for value in values):
        label = f"{where}.{key}" if where else key
        raise InvalidManifest(
            f"{shown(label)} in `Cargo.toml` is of the wrong type; make it a list of strings"
        )
    return values


def _required(package: _Table, key: str) -> str:
    value = _get(package, key, str, "package")
    if value is None:
        raise InvalidManifest(f"`Cargo.toml` has no `package.{key}`; add it")
    return value


# ── [package] ──


def _version(package: _Table) -> str:
    version = _required(package, "version")
    versions.parse(version)
    return version


def _rust_version(package: _Table) -> str | None:
    rust_version = _get(package, "rust-version", str, "package")
    if rust_version is not None and not _RUST_VERSION.fullmatch(rust_version):
        raise InvalidManifest(
            f"the `package.rust-version` {shown(rust_version)} in `Cargo.toml` is not a version of Rust; "
            "write it like `1.60` or `1.60.0`"
        )
    return rust_version


def _check_texts(package: _Table) -> None:
    """Check that no text of `[package]` holds control characters."""
    texts = [(key, _get(package, key, str, "package") or "") for key in _TEXTS]
    for key in ("keywords", "categories", "authors"):
        texts += [(key, text) for text in _strings(package, key, "package") or []]
    for key, text in texts:
        if _CONTROL.search(text):
            raise InvalidManifest(
                f"the `package.{key}` {shown(text)} in `Cargo.toml` has a control character; remove it"
            )


def _check_edition(edition: str) -> None:
    if not _EDITION.fullmatch(edition):
        raise InvalidManifest(
            f"the `package.edition` {shown(edition)} in `Cargo.toml` is not an edition of Rust; write it like `2021`"
        )


def _readme(package: _Table, files: Collection[str]) -> str | None:
    """Return the path of the README: named, or of a usual name, or None where it is not there."""
    named = package.get("readme")
    if named is False:
        return None
    if named is None:
        return next((file for file in _README_FILES if file in files), None)
    path = "README.md" if named is True else _get(package, "readme", str, "package") or ""
    path = posixpath.normpath(path)
    return path if path in files else None


# ── Dependencies ──


def _deps(toml: _Table) -> Iterator[ManifestDep]:
    """Yield the dependencies of all tables, for all targets."""
    yield from _deps_for_target(toml, None)
    targets = _get(toml, "target", dict) or {}
    for target in targets:
        _check_target(target)
        yield from _deps_for_target(_get(targets, target, dict, "target") or {}, target)


def _deps_for_target(tables: _Table, target: str | None) -> Iterator[ManifestDep]:
    where = "" if target is None else f"target.{target}"
    for kind, key, old_key in _DEP_TABLES:
        table = _get(tables, key if key in tables else old_key, dict, where)
        for name, value in (table or {}).items():
            dep = {"version": value} if isinstance(value, str) else value
            if not isinstance(dep, dict):
                raise InvalidManifest(
                    f"the dependency {shown(name)} in `Cargo.toml` is of the wrong type; make it a version or a table"
                )
            if not _is_only_local(dep, kind):
                yield _dep(name, dep, kind, target)


def _is_only_local(dep: _Table, kind: DepKind) -> bool:
    """Tell whether a dependency is only for tests in the author's own tree: cargo drops it from what it packages."""
    return kind == "dev" and "version" not in dep and ("path" in dep or "git" in dep)


def _dep(name: str, dep: _Table, kind: DepKind, target: str | None) -> ManifestDep:
    where = f"dependencies.{name}"
    if dep.get("workspace") is True:
        raise InvalidManifest(
            f"the dependency {shown(name)} in `Cargo.toml` comes from a workspace, which is not in the tarball; "
            "make it with `cargo package`"
        )
    package = _get(dep, "package", str, where)
    optional = _get(dep, "optional", bool, where) or False
    # Without a version cargo takes any, and crates.io knows such crates from before cargo refused to publish them.
    req = _get(dep, "version", str, where)
    if req is None:
        req = "*"
    default_features = _get(dep, "default-features", bool, where)
    if default_features is None:
        default_features = _get(dep, "default_features", bool, where)
    features = tuple(_strings(dep, "features", where) or ())

    _check_dep_names(name, package)
    _check_req(name, req)
    _check_dep_features(name, features)
    if optional and kind == "dev":
        raise InvalidManifest(
            f"the dev-dependency {shown(name)} in `Cargo.toml` is optional, which is not allowed; "
            "remove `optional`"
        )
    return ManifestDep(
        name=name,
        package=package,
        req=req,
        features=features,
        optional=optional,
        default_features=default_features is not False,
        target=target,
        kind=kind,
        registry_index=_registry_index(name, dep, where),
        public=_get(dep, "public", bool, where) or False,
        artifact=_artifact(dep, where),
        bindep_target=_get(dep, "target", str, where),
        lib=_get(dep, "lib", bool, where) or False,
    )


def _check_target(target: str) -> None:
    try:
        platform.canonical(target)
    except InvalidRequirement as error:
        raise InvalidManifest(f"`Cargo.toml` has dependencies for a wrong target: {error}") from None


def _check_dep_names(name: str, package: str | None) -> None:
    try:
        names.check_rename(name)
        names.check_dependency_name(name if package is None else package)
    except InvalidName as error:
        raise InvalidManifest(
            f"the dependency {shown(name)} in `Cargo.toml` has a wrong name: {error}"
        ) from None


def _check_req(name: str, req: str) -> None:
    try:
        requirement.normal_form(req)
    except InvalidRequirement as error:
        raise InvalidManifest(f"the dependency {shown(name)} in `Cargo.toml` is wrong: {error}") from None


def _check_dep_features(name: str, features: Iterable[str]) -> None:
    try:
        for feature in features:
            names.check_feature_name(feature)
    except InvalidName as error:
        raise InvalidManifest(
            f"the dependency {shown(name)} in `Cargo.toml` asks for a wrong feature: {error}"
        ) from None


def _registry_index(name: str, dep: _Table, where: str) -> str | None:
    """Return the index that a dependency comes from; cargo writes it when it packages a crate."""
    registry = _get(dep, "registry", str, where)
    registry_index = _get(dep, "registry-index", str, where)
    if registry is not None:
        # What a name stands for is written in the author's own configuration.
        raise InvalidManifest(
            f"the dependency {shown(name)} in `Cargo.toml` names its registry {shown(registry)}, which nobody else "
            "knows; make the tarball with `cargo package`, which writes the URL"
        )
    return registry_index


def _artifact(dep: _Table, where: str) -> tuple[str, ...] | None:
    """Return what an artifact dependency builds, such as `bin`; one of them may stand without a list."""
    if isinstance(dep.get("artifact"), str):
        return (dep["artifact"],)
    artifact = _strings(dep, "artifact", where)
    return None if artifact is None else tuple(artifact)


# ── Features ──


def _features(toml: _Table) -> dict[str, list[str]]:
    table = _get(toml, "features", dict) or {}
    return {feature: _strings(table, feature, "features") or [] for feature in table}


# ── Library and programs ──


def _lib(toml: _Table) -> _Table | None:
    """Return `[lib]`, or None where there is none; in 2014 it was a list of one."""
    lib = toml.get("lib")
    if isinstance(lib, list) and lib and isinstance(lib[0], dict):
        return lib[0]
    return _get(toml, "lib", dict)


def _is_proc_macro(lib: _Table) -> bool:
    flag = _get(lib, "proc-macro", bool, "lib") or _get(lib, "proc_macro", bool, "lib")
    crate_types = _strings(lib, "crate-type", "lib") or _strings(lib, "crate_type", "lib") or []
    return flag or "proc-macro" in crate_types


def _has_found_lib(package: _Table, files: Collection[str]) -> bool:
    return _get(package, "autolib", bool, "package") is not False and "src/lib.rs" in files


def _bin_names(toml: _Table, package: _Table, files: Iterable[str], name: str, edition: str) -> Iterator[str]:
    """Yield the names of the programs: those named, then those that cargo finds beside them.

    (cargo: util/toml/targets.rs, `toml_targets_and_inferred`)
    """
    named = [bin_ for bin_ in _get(toml, "bin", list) or [] if isinstance(bin_, dict)]
    for bin_ in named:
        yield _get(bin_, "name", str, "bin") or name
    auto = _get(package, "autobins", bool, "package")
    # In the first edition a named program ended the search.
    if auto is False or (auto is None and named and edition == "2015"):
        return
    known = {bin_.get("name") for bin_ in named}
    known_paths = {posixpath.normpath(path) for bin_ in named if isinstance(path := bin_.get("path"), str)}
    for path, found in sorted(_found_bins(files, name)):
        if found not in known and path not in known_paths:
            yield found


def _found_bins(files: Iterable[str], name: str) -> Iterator[tuple[str, str]]:
    """Yield path and name of each program that lies where cargo looks."""
    for file in files:
        if file == "src/main.rs":
            yield file, name
        elif found := re.fullmatch(r"src/bin/([^/.][^/]*?)(/main)?\.rs", file):
            yield file, found[1]
