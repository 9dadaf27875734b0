"""Ahead of time: fetch what a lock file, a vendor folder or a list of crates names, before anybody needs it.

Nothing special is done to get there: it is what a client would do, many at a time, so what breaks off is taken up by
starting again, and every rule holds.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import tomli

from cargo_registry.crate import requirement, versions
from cargo_registry.crate.entry import CRATES_IO
from cargo_registry.crate.names import canonical, shown
from cargo_registry.errors import (
    Invalid,
    InvalidRequirement,
    InvalidVersion,
    NotFound,
    RegistryError,
    Unavailable,
)
from cargo_registry.mirror.pull_through import Mirror, index_path
from cargo_registry.policy.serving import Line
from cargo_registry.registry import Registry

_AT_ONCE = 32
# Upstream's pauses are kept; who waits at a terminal gives up after about this long for each file.
_PATIENCE_S = 60.0
_CRATES_IO_SPARSE = "sparse+https://index.crates.io/"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A version that is wanted: an exact one, or the highest that meets `req`."""

    name: str
    vers: str | None = None
    req: str = "*"
    cksum: str | None = None  # as whoever wants it knows it
    is_optional: bool = False  # an optional dependency: nice to have


@dataclass(frozen=True, slots=True)
class Missing:
    """A version that could not be had, and why."""

    name: str
    vers: str
    why: str
    is_optional: bool = False


@dataclass(slots=True)
class Report:
    """What came of it."""

    had: int = 0
    fetched: int = 0
    bytes: int = 0  # fetched
    missing: list[Missing] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether all is here, but for optional dependencies."""
        return all(missing.is_optional for missing in self.missing)


Progress = Callable[[str, int, int], None]
"""Called after each version: which, its bytes if it was fetched, and how many are still to come."""


async def fetch(
    mirror: Mirror,
    wanted: Iterable[Wanted],
    *,
    with_dependencies: bool = False,
    progress: Progress = lambda what, size, left: None,
) -> Report:
    """Fetch versions, and with `with_dependencies` all that their normal and build dependencies lead to.

    Optional dependencies and those for any target count; of each requirement the highest version. What is stored
    is not fetched again.
    """
    report = Report()
    began_at = time.monotonic()
    queue: list[Wanted] = list(dict.fromkeys(wanted))
    seen = set(queue)
    done: set[tuple[str, str]] = set()
    running: set[asyncio.Task[tuple[Wanted, Line | None, int]]] = set()
    try:
        while queue or running:
            while queue and len(running) < _AT_ONCE:
                running.add(asyncio.create_task(_fetch_one(mirror, queue.pop(0), report, done)))
            finished, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                one, line, size = task.result()
                if line is not None and with_dependencies:
                    for dep in _dependencies(line, is_optional=one.is_optional):
                        if dep not in seen:
                            seen.add(dep)
                            queue.append(dep)
                progress(one.name, size, len(queue) + len(running))
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    report.missing.sort(key=lambda missing: (missing.name, missing.vers))
    report.seconds = time.monotonic() - began_at
    return report


async def refresh(mirror: Mirror, names: Iterable[str]) -> dict[str, str]:
    """Ask upstream for index files now, whatever their age; return why not, by name, for those that failed."""
    failed: dict[str, str] = {}
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str) -> None:
        if canonical(name) is None:
            failed[name] = "this is no crate's name"
            return
        async with slots:
            try:
                await mirror.freshen(index_path(name.lower()), force=True)
            except Unavailable as error:
                failed[name] = str(error)

    await asyncio.gather(*(one(name) for name in dict.fromkeys(names)))
    return failed


def from_lockfile(registry: Registry, text: str, said: str) -> list[Wanted]:
    """Return what of a `Cargo.lock` comes from crates.io or from this mirror's upstream. `said` names the file.

    Raises:
        Invalid: it is no lock file.
    """
    try:
        document = tomli.loads(text)
        packages = document.get("package", [])
        # Of the first format, before cargo 1.41.
        metadata = document.get("metadata", {})
        wanted = []
        for package in packages:
            name, vers, source = package["name"], package["version"], package.get("source")
            if source is None or not _is_ours(registry, source):
                continue
            cksum = package.get("checksum") or metadata.get(f"checksum {name} {vers} ({source})")
            wanted.append(Wanted(str(name), str(vers), cksum=cksum))
    except (tomli.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise Invalid(f"{said} is no `Cargo.lock`: {error}") from None
    return wanted


def from_vendor(folder: Path) -> list[Wanted]:
    """Return the crates of a folder that `cargo vendor` made; those of git have no checksum and are left out.

    Raises:
        Invalid: it is no such folder.
    """
    wanted = []
    for file in sorted(folder.glob("*/.cargo-checksum.json")):
        try:
            cksum = msgspec.json.decode(file.read_bytes())["package"]
            package = tomli.loads((file.parent / "Cargo.toml").read_text())["package"]
            if cksum is not None:
                wanted.append(Wanted(package["name"], package["version"], cksum=cksum))
        except (OSError, msgspec.DecodeError, tomli.TOMLDecodeError, KeyError, TypeError) as error:
            raise Invalid(f"`{file.parent}` is no vendored crate: {error}") from None
    if not wanted:
        raise Invalid(f"`{folder}` has no vendored crates: no `*/.cargo-checksum.json`")
    return wanted


def from_spec(text: str) -> Wanted:
    """Return what `CRATE` or `CRATE@REQ` means.

    Raises:
        Invalid: it means nothing.
    """
    name, at, req = text.partition("@")
    if canonical(name) is None:
        raise Invalid(f"{shown(name)} is no crate's name")
    return Wanted(name, req=requirement.normal_form(req) if at else "*")


def _is_ours(registry: Registry, source: str) -> bool:
    known = (f"registry+{CRATES_IO}", _CRATES_IO_SPARSE, registry.table.upstream, registry.index_url)
    return source in known


async def _fetch_one(
    mirror: Mirror, wanted: Wanted, report: Report, done: set[tuple[str, str]]
) -> tuple[Wanted, Line | None, int]:
    """Fetch one version and write down what came of it; return its line if it is here now, and the bytes fetched."""
    vers = wanted.vers or wanted.req
    try:
        line = await _with_patience(lambda: _choose(mirror, wanted))
        vers = line.vers
        if (line.name, vers) in done:
            return wanted, None, 0
        done.add((line.name, vers))
        if wanted.cksum is not None and wanted.cksum != line.cksum:
            raise Invalid(f"it is wanted with the checksum {wanted.cksum}, and upstream's is {line.cksum}")
        if mirror.find_stored(line) is not None:
            report.had += 1
            return wanted, line, 0
        stored = await _with_patience(lambda: mirror.find(line.name, line.vers, whole=True))
    except RegistryError as error:
        report.missing.append(Missing(wanted.name, vers, str(error), wanted.is_optional))
        return wanted, None, 0
    size = stored.listed.size
    report.fetched += 1
    report.bytes += size
    return wanted, line, size


async def _choose(mirror: Mirror, wanted: Wanted) -> Line:
    if canonical(wanted.name) is None:
        raise Invalid(f"{shown(wanted.name)} is no crate's name")
    path = index_path(wanted.name.lower())
    await mirror.freshen(path)
    lines = mirror.lines(path)
    if wanted.vers is not None:
        line = lines.get(wanted.vers)
        if line is None:
            raise mirror.refusal(wanted.name.lower(), wanted.vers)
        return line
    matching = [
        line for line in lines.values() if not line.yanked and requirement.matches(wanted.req, line.vers)
    ]
    if not matching:
        # As cargo: a pre-release where there is nothing else.
        raise NotFound(f"no version of `{wanted.name}` that is served meets `{wanted.req}`")
    return max(matching, key=lambda line: versions.parse(line.vers))


async def _with_patience(work: Callable[[], Any]) -> Any:
    """Do something that may have to wait for upstream, as long as upstream says, within reason."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return await work()
        except Unavailable as error:
            if time.monotonic() + error.retry_after_s > end:
                raise
            await asyncio.sleep(error.retry_after_s)


def _dependencies(line: Line, *, is_optional: bool) -> Sequence[Wanted]:
    found = []
    for dep in msgspec.json.decode(line.raw, type=_Deps).deps:
        if dep.kind == "dev" or dep.registry is not None:
            continue
        try:
            req = requirement.normal_form(dep.req)
        except (InvalidRequirement, InvalidVersion):
            continue
        found.append(Wanted(dep.package or dep.name, req=req, is_optional=is_optional or dep.optional))
    return found


class _Dep(msgspec.Struct):
    name: str
    req: str = "*"
    kind: str | None = "normal"
    optional: bool = False
    package: str | None = None
    registry: str | None = None


class _Deps(msgspec.Struct):
    deps: list[_Dep] = []
