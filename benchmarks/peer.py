"""Another registry, known by its URL alone: the rows that it has paths for, against nginx with the very same files.

https://doc.rust-lang.org/cargo/reference/registry-index.html
"""

import concurrent.futures
import hashlib
import http.client
import json
import math
import re
import socket
import ssl
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from benchmarks import cargo, data, reading, servers
from benchmarks.cargo import Program
from benchmarks.load import CARGO_HEADERS, UPGRADE, Tools
from benchmarks.publishing import bodies
from benchmarks.reading import Case
from benchmarks.report import Figure, Report, spread
from benchmarks.servers import Server, Watched
from cargo_registry.crate.entry import download_url, tarball_key
from cargo_registry.crate.names import CrateName
from cargo_registry.errors import RegistryError
from cargo_registry.web import tls

# As many as are copied of a registry that nobody gave a list of names for, and of those the tarballs.
_NAMES, _TARBALLS = 1000, 40
_AT_ONCE = 8
_MAX_TARBALL_BYTES = 32 * 2**20
_SIZES = (10 * 1024, 100 * 1024, 2**20, 10 * 2**20)
_PUBLISHES = 300


class NotMeasurable(Exception):
    """The registry does not answer as one does, or too little is known of it."""


@dataclass(frozen=True, slots=True)
class Peer:
    """What cargo would know of it after `config.json`."""

    index: str  # its URL, without sparse+ and without the last slash
    dl: str
    api: str | None
    auth: Mapping[str, str]  # headers of whoever may read
    http: httpx.Client


@dataclass(frozen=True, slots=True)
class Download:
    """A tarball it has, of which nginx has a copy."""

    url: str  # where redirects lead
    redirected: bool
    key: str
    size: int


@dataclass(frozen=True, slots=True)
class Copy:
    """What was copied of it."""

    sizes: dict[str, int]  # of each crate's index file; most popular first
    downloads: list[Download]


def measure(
    url: str,
    folder: Path,
    say: Callable[[str], None],
    *,
    names: Sequence[str],
    crate: str | None,
    token: str | None,
    pid: int | None,
    program: Program,
    cainfo: Path | None,
    parts: Sequence[str],
    cases: str,
    rounds: int,
    seconds: float,
) -> Report:
    """Measure it as far as it has the paths, of reading those `cases` whose name has that text.

    Publishes new crates if `parts` has publishing and there is a token.

    Raises:
        NotMeasurable: it is no registry, or has no crate that was named.
    """
    with httpx.Client(verify=False, timeout=60, follow_redirects=True, trust_env=False) as client:
        peer = open_peer(client, url, token)
        report = Report(
            f"Here *ours* is the registry at {peer.index}/, and nginx has copies of its files. The load tool is on core 1 "
            f"and nginx on\ncore 0; where the registry runs is not known. Each row has {rounds} rounds, each run {seconds:g} s.\n",
            "",
        )
        root = folder / "copy"
        copy = _copy(peer, root, names or _some_names(peer, crate), follow=not names)
        say(f"copied {len(copy.sizes):,} index files and {len(copy.downloads)} tarballs")
        if "reading" in parts:
            made = tls.self_signed(folder / "tls", [])
            with servers.nginx(root, folder / "nginx", made.certificate, made.key) as nginx:
                runs = Tools(folder, seconds)
                found = _cases(peer, copy, runs, Watched(pid, {}), nginx, report.figures)
                chosen = [case for case in found if cases in case.name]

                def tell(done: int) -> None:
                    left_s = (rounds - done) * len(chosen) * 2 * (seconds + 0.1)
                    say(f"round {done} of {rounds}, {left_s / 60:.1f} min to go")

                report.results[f"Reading {peer.index}/"] = reading.measure(chosen, rounds, tell)
        if "search" in parts:
            report.figures += _search(peer, list(copy.sizes))
        if "publishing" in parts and token:
            say("publishing")
            report.figures += _publishing(peer, token, rounds)
        if "cargo" in parts:
            say("fetching with cargo")
            report.figures += _cargo(peer, program, cainfo, folder / "cargo", rounds)
    return report


def open_peer(client: httpx.Client, url: str, token: str | None) -> Peer:
    """Return what `config.json` says, read as cargo does: with the token once the registry asks for it.

    Raises:
        NotMeasurable: there is none, or the token does not open it.
    """
    index = url.removeprefix("sparse+").rstrip("/")
    auth: dict[str, str] = {}
    try:
        answer = client.get(f"{index}/config.json")
        if answer.status_code == 401 and token:
            auth = {"Authorization": token}
            answer = client.get(f"{index}/config.json", headers=auth)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NotMeasurable(f"{index}/config.json cannot be read: {error}") from None
    if answer.status_code != 200:
        hint = "; --token gives one" if answer.status_code == 401 and not token else ""
        raise NotMeasurable(f"{index}/config.json answers {answer.status_code}{hint}")
    try:
        config = answer.json()
        dl, api = config["dl"], config.get("api")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NotMeasurable(f"{index}/config.json is not that of a registry") from None
    if config.get("auth-required") and token:
        auth = {"Authorization": token}
    return Peer(index, dl, api.rstrip("/") if api else None, auth, client)


# --- Copying ---


def _some_names(peer: Peer, crate: str | None) -> list[str]:
    """Return crates to begin with: the one that was named, else those that a search without words finds."""
    if crate:
        return [crate]
    names: list[str] = []
    while peer.api and len(names) < _NAMES:
        page = len(names) // 100 + 1
        answer = peer.http.get(f"{peer.api}/api/v1/crates?q=&per_page=100&page={page}", headers=peer.auth)
        try:
            listed = [str(found["name"]) for found in answer.json()["crates"]]
        except (ValueError, KeyError, TypeError):
            break
        new = [name for name in listed if name not in names]
        names += new
        if len(listed) < 100 or not new:
            break
    if not names:
        raise NotMeasurable("its search lists no crates: name some with --names, or one with --crate")
    return names


def _copy(peer: Peer, root: Path, names: Iterable[str], *, follow: bool) -> Copy:
    """Lay out its files as our own server would; with `follow` also those of dependencies, up to a number."""
    sizes: dict[str, int] = {}
    newest: list[Mapping[str, Any]] = []
    seen: set[str] = set()
    waiting = list(names)
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        while waiting:
            level = [name for name in dict.fromkeys(waiting) if name.lower() not in seen]
            level = level[: _NAMES - len(sizes)] if follow else level
            seen |= {name.lower() for name in level}
            waiting = []
            for name, content in zip(
                level, pool.map(lambda name: _index_file(peer, name), level), strict=True
            ):
                if not content:
                    continue
                _keep_index_file(root, name, content)
                sizes[name] = len(content)
                lines = [json.loads(line) for line in content.splitlines()]
                newest.append(lines[-1])
                if follow:
                    waiting += [
                        dep.get("package") or dep["name"]
                        for dep in lines[-1].get("deps", ())
                        if not dep.get("registry")
                    ]
        if not sizes:
            raise NotMeasurable("it has none of the crates that were named")
        spread_out = newest[:: math.ceil(len(newest) / _TARBALLS)]
        found = list(pool.map(lambda line: _tarball(peer, root, line), spread_out))
    return Copy(sizes, [download for download in found if download])


def _index_file(peer: Peer, name: str) -> bytes:
    """Return the index file of a crate, b"" if it has no such crate, or one whose name could lead out of a folder."""
    try:
        path = reading.at(name, "")
    except RegistryError:
        return b""
    answer = peer.http.get(
        f"{peer.index}{path}",
        headers={**CARGO_HEADERS, "Accept-Encoding": "identity", **peer.auth},
    )
    return answer.content if answer.status_code == 200 else b""


def _keep_index_file(root: Path, name: str, content: bytes) -> None:
    path = data.index_file(root, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _tarball(peer: Peer, root: Path, line: Mapping[str, Any]) -> Download | None:
    name, vers, cksum = line["name"], line["vers"], line["cksum"]
    # These become the name of a file here.
    if not re.fullmatch("[0-9a-f]{64}", cksum) or not re.fullmatch("[0-9A-Za-z.+-]+", vers):
        return None
    url = download_url(peer.dl, name, vers, cksum)
    content = bytearray()
    # cargo takes index files compressed, but not tarballs.
    headers = {"User-Agent": CARGO_HEADERS["User-Agent"], "Accept-Encoding": "identity", **peer.auth}
    with peer.http.stream("GET", url, headers=headers) as answer:
        if answer.status_code != 200:
            return None
        for piece in answer.iter_raw():
            content += piece
            if len(content) > _MAX_TARBALL_BYTES:
                return None
    if hashlib.sha256(content).hexdigest() != cksum:
        raise NotMeasurable(f"{url} is not the tarball that the index names")
    key = f"main/{tarball_key(CrateName(name), vers, cksum)}"
    path = root / "crates_storage" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Download(str(answer.url), bool(answer.history), key, len(content))


# --- Reading ---


def _cases(
    peer: Peer, copy: Copy, runs: Tools, server: Watched, nginx: Server, figures: list[Figure]
) -> Iterator[Case]:
    """Give the rows of `reading.cases` that it can have; figures say what it cannot."""
    base, under, secure = _split(peer.index)
    how = ", TLS, HTTP/1.1" if secure else ""
    against = "nginx TLS" if secure else "nginx"
    its = nginx.urls["h1" if secure else "http"]
    plain = {**CARGO_HEADERS, **peer.auth}
    cargo = plain if secure else plain | UPGRADE
    ten, large = (_nearest(copy.sizes.items(), size) for size in (10 * 1024, 200 * 1024))
    path, same = reading.at(ten, under), reading.at(ten)

    yield Case(
        f"index 200, {_size(copy.sizes[ten])}, cargo's headers{how}",
        against,
        runs.h1(server, base, [path], cargo),
        runs.h1(nginx, its, [same], cargo),
    )
    condition = _condition(peer, f"{base}{path}", plain)
    if isinstance(condition, str):
        figures.append(Figure("index 304", f"not measured: {condition}"))
    else:
        etag = reading.header(its + same, "etag", plain) or ""
        yield Case(
            f"index 304{how}",
            against,
            runs.h1(server, base, [path], plain | condition),
            runs.h1(nginx, its, [same], plain | {"If-None-Match": etag}),
        )
    names = list(copy.sizes)
    yield Case(
        f"index, Zipf over {len(names):,} files{how}",
        against,
        runs.h1(server, base, data.paths_by_popularity(names, 20_000, under=under), cargo),
        runs.h1(nginx, its, data.paths_by_popularity(names, 20_000), cargo),
    )
    if secure and _speaks_h2(base):
        yield Case(
            "index 200, TLS, HTTP/2",
            "nginx h2",
            runs.h2(server, base, path, plain),
            runs.h2(nginx, nginx.urls["h2"], same, plain),
        )
    elif secure:
        figures.append(Figure("index 200, TLS, HTTP/2", "not measured: it does not speak HTTP/2"))
    missing = [reading.at(f"no-such-crate-{n}", under) for n in range(200)]
    yield Case(
        f"missing crate, 404{how}",
        "index 200",
        runs.h1(server, base, missing, plain, found=False),
        runs.h1(server, base, [path], plain),
    )
    yield from _gzip_cases(peer, copy, runs, server, list(dict.fromkeys([ten, large])), figures)
    for download in _of_each_size(copy.downloads):
        host, at, safe = _split(download.url)
        agent = {"User-Agent": CARGO_HEADERS["User-Agent"], **peer.auth}
        yield Case(
            f"download {_size(download.size)}"
            + (", TLS, HTTP/1.1" if safe else "")
            + (", where a redirect leads" if download.redirected else ""),
            "nginx TLS" if safe else "nginx",
            runs.h1(server, host, [at], agent, 8),
            runs.h1(nginx, nginx.urls["h1" if safe else "http"], ["/crates/" + download.key], agent, 8),
        )
    if not copy.downloads:
        figures.append(Figure("download", "not measured: none of its tarballs could be fetched"))


def _gzip_cases(
    peer: Peer, copy: Copy, runs: Tools, server: Watched, crates: Sequence[str], figures: list[Figure]
) -> Iterator[Case]:
    base, under, _ = _split(peer.index)
    for crate in crates:
        path, size = reading.at(crate, under), _size(copy.sizes[crate])
        packed = {**CARGO_HEADERS, **peer.auth}
        whole = packed | {"Accept-Encoding": "identity"}
        if not reading.header(base + path, "content-encoding", packed):
            figures.append(Figure(f"gzip at {size}", "it does not compress"))
            continue
        sent = reading.bytes_of(base + path, packed)
        share = f"{sent / copy.sizes[crate]:.0%} ({sent:,} of {copy.sizes[crate]:,} bytes)"
        figures.append(Figure(f"gzip answer at {size}: bytes against identity", share, "≤ 25 %"))
        yield Case(
            f"gzip at {size}",
            "identity",
            runs.h1(server, base, [path], packed),
            runs.h1(server, base, [path], whole),
        )


def _condition(peer: Peer, url: str, headers: Mapping[str, str]) -> dict[str, str] | str:
    """Return the header with which it answers 304, or why there is none."""
    etag = reading.header(url, "etag", headers)
    changed = reading.header(url, "last-modified", headers)
    if etag:
        condition = {"If-None-Match": etag}
    elif changed:
        condition = {"If-Modified-Since": changed}
    else:
        return "it sends neither ETag nor Last-Modified"
    status = peer.http.get(url, headers={**headers, **condition}).status_code
    return (
        condition
        if status == 304
        else f"it answers {status} to its own {'ETag' if etag else 'Last-Modified'}"
    )


def _split(url: str) -> tuple[str, str, bool]:
    """Return scheme and host, the path with its query, and whether it is TLS."""
    parts = urlsplit(url)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    return f"{parts.scheme}://{parts.netloc}", path, parts.scheme == "https"


def _speaks_h2(base: str) -> bool:
    parts = urlsplit(base)
    context = ssl._create_unverified_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection((parts.hostname or "", parts.port or 443), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=parts.hostname) as wrapped,
    ):
        return wrapped.selected_alpn_protocol() == "h2"


def _nearest(sizes: Iterable[tuple[str, int]], wanted: int) -> str:
    return min(sizes, key=lambda named: abs(math.log((named[1] or 1) / wanted)))[0]


def _of_each_size(downloads: Sequence[Download]) -> list[Download]:
    """Return one tarball near each size that has any within a factor of 3, at least one."""
    chosen: dict[str, Download] = {}
    for wanted in _SIZES if downloads else ():
        key = _nearest(((download.key, download.size) for download in downloads), wanted)
        (nearest,) = (download for download in downloads if download.key == key)
        if wanted / 3 < nearest.size < wanted * 3:
            chosen[key] = nearest
    return list(chosen.values()) or list(downloads[:1])


def _size(count: int) -> str:
    if count < 1024:
        return f"{count} bytes"
    return f"{count / 1024:.0f} KiB" if count < 2**20 else f"{count / 2**20:.1f} MiB"


# --- Real cargo ---


def _cargo(peer: Peer, program: Program, cainfo: Path | None, folder: Path, rounds: int) -> Iterator[Figure]:
    """Compare fetches of a program from it with those from nginx, without a distance: it runs where it runs."""
    secure = peer.index.startswith("https")
    row = f"cargo, {program.what}, {'TLS' if secure else 'plain'}"
    reason = cargo.why_not()
    if not program.lock.exists():
        reason = "there are no real crates here"
    elif peer.auth:
        reason = "cargo is given no token here"
    reason = reason or _copy_locked(peer, program, folder)
    if reason:
        yield Figure(row, f"not measured: {reason}")
        return
    made = tls.self_signed(folder / "tls", [])
    with (
        cargo.home(folder) as home,
        servers.nginx(
            folder, folder / "nginx", made.certificate, made.key, core=None, secure=secure
        ) as nginx,
    ):
        its = f"sparse+{nginx.urls['h2' if secure else 'http']}/index/"
        try:
            yield from cargo.compare(
                row,
                cargo.Cargo(program, home, f"sparse+{peer.index}/", cainfo=cainfo),
                cargo.Cargo(program, home, its, cainfo=made.certificate),
                rounds,
            )
        except RuntimeError as error:
            yield Figure(row, f"not measured: {' '.join(str(error).rpartition('error: ')[2].split())[:300]}")


def _copy_locked(peer: Peer, program: Program, root: Path) -> str:
    """Copy what a lock file names; return "", or what the registry does not have of it."""
    for package in tomllib.loads(program.lock.read_text())["package"]:
        if "source" not in package:
            continue
        name, vers = package["name"], package["version"]
        content = _index_file(peer, name)
        lines = [line for line in map(json.loads, content.splitlines()) if line["vers"] == vers]
        if not lines or not _tarball(peer, root, lines[0]):
            return f"it has no {name} {vers}, which the program needs"
        _keep_index_file(root, name, content)
    return ""


# --- Its API ---


def _search(peer: Peer, names: Sequence[str]) -> Iterator[Figure]:
    if peer.api is None:
        yield Figure("search", "not measured: it has no API")
        return
    base, under, _ = _split(peer.api)
    words = ["async", "parser", "http", "error", "vector", "lock", "file", "json"] * 8
    for what, queries in (("exact name", names[:: math.ceil(len(names) / 200)]), ("common word", words)):
        connection = _connect(base)
        times_ms = []
        warming = queries[:20]
        for number, query in enumerate((*warming, *queries)):
            at = time.perf_counter()
            connection.request("GET", f"{under}/api/v1/crates?q={query}&per_page=10", headers=dict(peer.auth))
            answer = connection.getresponse()
            said = answer.read()
            if answer.status != 200 or b'"crates"' not in said:
                yield Figure(f"search, {what}", f"not measured: it answers {answer.status}")
                break
            if number >= len(warming):
                times_ms.append((time.perf_counter() - at) * 1000)
        else:
            times_ms.sort()
            p50, p99 = (times_ms[int(len(times_ms) * share)] for share in (0.5, 0.99))
            yield Figure(f"search, {what}, p99", f"{p99:.1f} ms (p50 {p50:.1f})")
        connection.close()


def _publishing(peer: Peer, token: str, rounds: int) -> Iterator[Figure]:
    if peer.api is None:
        yield Figure("publish", "not measured: it has no API")
        return
    rates: dict[int, list[float]] = {1: [], 8: []}
    run = f"bench-{int(time.time()):x}"
    try:
        _publish(peer.api, token, bodies(f"{run}-warm", 5), 1)
        for number in range(rounds):
            for clients, into in rates.items():
                new = bodies(f"{run}-{number}-{clients}-", _PUBLISHES * clients // 8)
                into.append(_publish(peer.api, token, new, clients))
    except NotMeasurable as refused:
        yield Figure("publish", f"not measured: {refused}")
        return
    for clients, into in rates.items():
        yield Figure(f"publish 30 KiB, {clients} at once", spread(into, "/s"))


def _publish(api: str, token: str, publishes: Sequence[bytes], clients: int) -> float:
    """Publish all, by some clients at once; return how many a second."""
    base, under, _ = _split(api)
    left = list(publishes)
    refused: list[str] = []

    def client() -> None:
        connection = _connect(base)
        while left and not refused:
            try:
                body = left.pop()
            except IndexError:
                break
            try:
                connection.request("PUT", f"{under}/api/v1/crates/new", body, {"Authorization": token})
                answer = connection.getresponse()
                said = answer.read()
            except (OSError, http.client.HTTPException) as error:
                refused.append(repr(error))
                break
            # A registry may answer an error with 200, as cargo's book once had it.
            if answer.status != 200 or b'"errors"' in said:
                refused.append(f"it answers {answer.status} {said[:200].decode(errors='replace')}")
        connection.close()

    threads = [threading.Thread(target=client, daemon=True) for _ in range(clients)]
    at = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if refused:
        raise NotMeasurable(refused[0])
    return len(publishes) / (time.perf_counter() - at)


def _connect(base: str) -> http.client.HTTPConnection:
    parts = urlsplit(base)
    if parts.scheme == "https":
        context = ssl._create_unverified_context()
        return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=60, context=context)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
