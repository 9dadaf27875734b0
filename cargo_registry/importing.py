"""Import: fill a registry from crates that exist elsewhere, through the same gate as a publish.

From folders with `.crate` files, what `cargo vendor` and `cargo local-registry` make, and other registries by their
sparse index. Yanked stays yanked, and the time of publishing is kept, where the source knows them.
"""

import asyncio
import gzip
import hashlib
import io
import re
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec

from cargo_registry import publish
from cargo_registry.crate import manifest
from cargo_registry.crate import versions as semver
from cargo_registry.crate.entry import download_url, index_path
from cargo_registry.crate.names import CrateName
from cargo_registry.db import crates, upkeep
from cargo_registry.errors import ConfigError, Conflict, Invalid, RegistryError, Unavailable
from cargo_registry.publish import History, Upload
from cargo_registry.registry import Registry
from cargo_registry.storage.disk import reporting
from cargo_registry.tokens import Caller

_AT_ONCE = 4  # crates; the versions of one go in one after the other, so that its index file has their order
_TIMEOUT_S = 30
# As cargo writes times into tarballs (cargo: ops/cargo_package/mod.rs).
_MTIME = 1153704088


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that may be imported, as its source describes it."""

    name: str
    vers: str
    cksum: str | None  # None: not known before it is read
    history: History
    open: Callable[[Registry], Any]  # gives an Upload, as an async context manager


@dataclass(slots=True)
class Report:
    """What became of the candidates."""

    imported: list[str] = field(default_factory=list)
    had: list[str] = field(default_factory=list)  # the same bytes were there
    refused: list[tuple[str, str]] = field(default_factory=list)  # and why
    warnings: list[tuple[str, str]] = field(default_factory=list)


async def run(
    registry: Registry, caller: Caller, candidates: Sequence[Candidate], *, progress: Callable[[str], None]
) -> Report:
    """Import what is not there yet. A refused one is reported and the rest go on; run again to go on after a stop."""
    registry.must_take_changes()
    report = Report()
    by_crate: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_crate.setdefault(candidate.name.lower().replace("-", "_"), []).append(candidate)
    waiting = iter(by_crate.values())

    async def worker() -> None:
        for group in waiting:
            for candidate in group:
                await _import_one(registry, caller, candidate, report)
                progress(_label(candidate))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_AT_ONCE):
            tasks.create_task(worker())
    return report


async def _import_one(registry: Registry, caller: Caller, candidate: Candidate, report: Report) -> None:
    label = _label(candidate)
    try:
        held = registry.db.look_up(crates.listed, registry.name, candidate.name, candidate.vers)
        if held is not None and held.cksum == candidate.cksum:
            report.had.append(label)
            return
        async with candidate.open(registry) as upload:
            if candidate.cksum is not None and upload.cksum != candidate.cksum:
                raise Invalid("its bytes are not those that the index of its source announces")
            if held is not None and held.cksum == upload.cksum:
                report.had.append(label)
                return
            try:
                published = await publish.publish(registry, caller, None, upload, history=candidate.history)
            except Conflict:
                # Its file may be called otherwise than its manifest says.
                if not await registry.db.read(upkeep.listed_cksums, registry.name, {upload.cksum}):
                    raise
                report.had.append(label)
                return
        report.imported.append(label)
        report.warnings.extend((label, warning) for warning in published.warnings)
    except (RegistryError, httpx.HTTPError) as error:
        report.refused.append((label, str(error) or type(error).__name__))


def _label(candidate: Candidate) -> str:
    return f"{candidate.name}@{candidate.vers}"


# --- Files and folders ---


def from_path(path: Path) -> list[Candidate]:
    """Return what a `.crate` file or a folder holds, in the order in which it was published where that is known.

    A folder may hold `.crate` files at any depth, an `index` beside them (as `cargo local-registry` makes it), and
    crates as `cargo vendor` unpacks them.

    Raises:
        ConfigError: there is no such file, or nothing in it.
    """
    if path.is_file():
        return [_from_file(path, {})]
    if not path.is_dir():
        raise ConfigError(f"`{path}` is neither a `.crate` file nor a folder")
    lines = dict(_index_lines(path / "index"))
    found = [_from_file(file, lines) for file in path.rglob("*.crate") if file.is_file()]
    found += [_from_vendored(file.parent) for file in path.glob("*/.cargo-checksum.json")]
    if (path / ".cargo-checksum.json").exists():
        found.append(_from_vendored(path))
    if not found:
        raise ConfigError(f"`{path}` holds no `.crate` files and no vendored crates")
    order = {key: position for position, key in enumerate(lines)}
    last = len(order)
    return sorted(
        found,
        key=lambda one: (one.name.lower(), order.get((one.name, one.vers), last), _sortable(one.vers)),
    )


def _sortable(vers: str) -> tuple[bool, Any]:
    try:
        return True, semver.parse(vers)
    except Invalid:
        return False, vers


def _from_file(path: Path, lines: Mapping[tuple[str, str], Mapping[str, Any]]) -> Candidate:
    """Describe a `.crate` file by its name; what it really holds is read when it is imported."""
    match = re.fullmatch(r"(.+?)-(\d+\.\d+\.\d+[^/]*)", path.name.removesuffix(".crate"))
    name, vers = (match[1], match[2]) if match else (path.name.removesuffix(".crate"), "?")
    line = lines.get((name, vers), {})
    return Candidate(
        name,
        vers,
        line.get("cksum"),
        _history(line),
        lambda registry: publish.taken_from(registry, path),
    )


def _index_lines(folder: Path) -> Iterator[tuple[tuple[str, str], Mapping[str, Any]]]:
    """Yield the lines of an index on disk by name and version; what is no index line is passed over."""
    if not folder.is_dir():
        return
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or ".git" in file.parts or file.name == "config.json":
            continue
        for line in _lines(file.read_bytes()):
            yield (line["name"], line["vers"]), line


def _lines(data: bytes) -> Iterator[Mapping[str, Any]]:
    for raw in data.splitlines():
        try:
            line = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if isinstance(line, dict) and isinstance(line.get("name"), str) and isinstance(line.get("vers"), str):
            yield line


def _history(line: Mapping[str, Any]) -> History:
    pubtime = line.get("pubtime")
    when = None
    if isinstance(pubtime, str):
        try:
            when = datetime.strptime(pubtime, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        except ValueError:
            when = None
    return History(pubtime=when, yanked=line.get("yanked") is True)


def _from_vendored(folder: Path) -> Candidate:
    """Describe an unpacked crate. The tarball made of it is not the one it was unpacked from."""
    try:
        facts = manifest.parse((folder / "Cargo.toml").read_bytes())
        name, vers = facts.name, facts.version
    except (OSError, Invalid):
        name, vers = folder.name, "?"
    return Candidate(name, vers, None, History(), lambda registry: _packed(registry, folder, name, vers))


@asynccontextmanager
async def _packed(registry: Registry, folder: Path, name: str, vers: str) -> AsyncIterator[Upload]:
    path = registry.tarballs.spool()
    try:
        yield await asyncio.to_thread(_pack, folder, name, vers, path)
    finally:
        path.unlink(missing_ok=True)


def _pack(folder: Path, name: str, vers: str, path: Path) -> Upload:
    """Write a tarball of a vendored crate, the same bytes each time."""
    listed = msgspec.json.decode((folder / ".cargo-checksum.json").read_bytes())
    files = sorted(listed.get("files", {})) if isinstance(listed, dict) else []
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for file in files:
            try:
                data = (folder / file).read_bytes()
            except OSError as error:
                raise Invalid(f"`{file}` of the vendored crate cannot be read: {error.strerror}") from None
            member = tarfile.TarInfo(f"{name}-{vers}/{file}")
            member.size, member.mtime, member.mode = len(data), _MTIME, 0o644
            archive.addfile(member, io.BytesIO(data))
    with reporting():
        path.write_bytes(packed.getvalue())
    return Upload(path, hashlib.sha256(packed.getvalue()).hexdigest(), len(packed.getvalue()))


# --- Another registry ---


class Remote:
    """Another registry, seen as a client of its sparse index sees it. `close` when done."""

    def __init__(self, url: str, token: str | None) -> None:
        self._index = url.removeprefix("sparse+").rstrip("/") + "/"
        # To the index's own origin only: httpx drops it on the way to another one.
        headers = {"authorization": token} if token else {}
        self._http = httpx.AsyncClient(
            headers={"user-agent": "cargo-registry import"}, timeout=_TIMEOUT_S, follow_redirects=True
        )
        self._auth = headers

    async def candidates(self, names: Sequence[str]) -> list[Candidate]:
        """Return the versions of some crates, of all that its search lists if none are named.

        Raises:
            Unavailable: it does not answer as a registry does.
        """
        config = await self._json(f"{self._index}config.json")
        found: list[Candidate] = []
        for name in names or await self._all_names(config):
            response = await self._get(self._index + index_path(CrateName.stored(name)))
            if response.status_code == 404:
                raise Unavailable(f"the registry has no crate `{name}`")
            self._check(response)
            found += [self._candidate(config, line) for line in _lines(response.content)]
        return found

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    def _candidate(self, config: Mapping[str, Any], line: Mapping[str, Any]) -> Candidate:
        url = download_url(str(config.get("dl")), line["name"], line["vers"], str(line.get("cksum")))
        return Candidate(
            line["name"],
            line["vers"],
            line.get("cksum"),
            _history(line),
            lambda registry: self._fetched(registry, url),
        )

    @asynccontextmanager
    async def _fetched(self, registry: Registry, url: str) -> AsyncIterator[Upload]:
        path = registry.tarballs.spool()
        sha256 = hashlib.sha256()
        size = 0
        try:
            with reporting(), path.open("wb") as file:
                async with self._http.stream("GET", url, headers=self._auth_for(url)) as response:
                    self._check(response)
                    async for piece in response.aiter_raw():
                        size += len(piece)
                        if size > registry.max_crate_bytes:
                            raise Invalid(
                                f"it has more than the {registry.max_crate_bytes} bytes this registry takes"
                            )
                        sha256.update(piece)
                        file.write(piece)
            yield Upload(path, sha256.hexdigest(), size)
        finally:
            path.unlink(missing_ok=True)

    async def _all_names(self, config: Mapping[str, Any]) -> list[str]:
        api = config.get("api")
        if not isinstance(api, str):
            raise Unavailable("the registry has no API that lists its crates; name them with `--crate`")
        names: list[str] = []
        page = 1
        while True:
            answer = await self._json(
                f"{api.rstrip('/')}/api/v1/crates?q=&sort=alphabetical&per_page=100&page={page}"
            )
            listed = [one["name"] for one in answer.get("crates", ()) if isinstance(one.get("name"), str)]
            names += listed
            if not listed or len(names) >= answer.get("meta", {}).get("total", 0):
                return list(dict.fromkeys(names))
            page += 1

    async def _json(self, url: str) -> Any:
        response = await self._get(url)
        self._check(response)
        try:
            return response.json()
        except ValueError:
            raise Unavailable(f"{url} does not answer as a registry does") from None

    async def _get(self, url: str) -> httpx.Response:
        try:
            return await self._http.get(url, headers=self._auth_for(url))
        except httpx.HTTPError as error:
            raise Unavailable(f"{url} cannot be reached: {error or type(error).__name__}") from None

    def _auth_for(self, url: str) -> dict[str, str]:
        return self._auth if httpx.URL(url).netloc == httpx.URL(self._index).netloc else {}

    def _check(self, response: httpx.Response) -> None:
        if response.status_code in (401, 403):
            raise Unavailable(
                "the registry wants a token, or another one; give it in the environment, see `--help`"
            )
        if response.status_code != 200:
            raise Unavailable(f"{response.url} answers with status {response.status_code}")
