"""The paths that are read: index files and downloads, ours and nginx's in turn."""

import http.client
import ssl
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import data
from benchmarks.load import CARGO_HEADERS, UPGRADE, Sample, Tools
from benchmarks.servers import Server
from cargo_registry.crate.entry import index_path
from cargo_registry.crate.names import CrateName

IDENTITY = CARGO_HEADERS | {"Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Result:
    """The samples of one case, and of what it is compared with."""

    name: str
    what: str  # what it is compared with
    must: float | None
    aim: float | None
    samples: list[Sample] = field(default_factory=list)
    others: list[Sample] = field(default_factory=list)


Run = Callable[[], Sample]


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table: two ways to run, and the ratio asked for."""

    name: str
    what: str
    run: Run
    other: Run
    must: float | None = None
    aim: float | None = None


def cases(
    made: data.Made, root: Path, tools: Tools, servers: Mapping[str, Server], *, every: bool
) -> list[Case]:
    """Return the cases for `servers`: nginx, one, two (plain, by workers), tls.

    Without `every` those that say the same whatever the size of the registry are left out.
    """
    nginx, one, two, tls = (servers[name] for name in ("nginx", "one", "two", "tls"))
    cargo = CARGO_HEADERS | UPGRADE
    ten, large, megabyte = ([at(name)] for name in data.SIZED_INDEX)
    zipf = data.paths_by_popularity(made.names, 20_000)
    missing = [at(f"no-such-crate-{n}") for n in range(200)]
    private = ["/closed" + at("exact-10k")]
    with_token = CARGO_HEADERS | {"Authorization": made.token}

    def plain(server: Server, paths: Sequence[str], headers: Mapping[str, str], connections: int = 32) -> Run:
        return tools.h1(server, server.urls["http"], paths, headers, connections)

    def unchanged(server: Server) -> Run:
        return plain(
            server, ten, CARGO_HEADERS | {"If-None-Match": header(server.urls["http"] + ten[0], "etag") or ""}
        )

    def download(name: str) -> Case:
        musts = {"down-10k": (0.25, 0.36), "down-100k": (0.28, 0.40), "down-1m": (0.65, 1.0)}
        must, aim = musts.get(name, (0.75, 1.0))
        return Case(
            f"download {name.removeprefix('down-')}",
            "nginx",
            plain(one, [f"/api/v1/crates/{name}/1.0.0/download"], cargo, 8),
            plain(nginx, ["/crates/" + made.downloads[name]], cargo, 8),
            must,
            aim,
        )

    found = [
        Case(
            "index 200, 10 KiB, cargo's headers",
            "nginx",
            plain(one, ten, cargo),
            plain(nginx, ten, cargo),
            0.42,
            0.5,
        ),
        Case("… 2 workers", "nginx", plain(two, ten, cargo), plain(nginx, ten, cargo)),
        Case("index 304", "nginx", unchanged(one), unchanged(nginx), 0.36, 0.46),
        Case(
            f"index, Zipf over {len(made.names):,} files",
            "nginx",
            plain(one, zipf, cargo),
            plain(nginx, zipf, cargo),
            0.38,
            0.48,
        ),
        Case(
            "index 200, TLS, HTTP/2",
            "nginx h2",
            tools.h2(tls, tls.urls["h2"], ten[0], CARGO_HEADERS),
            tools.h2(nginx, nginx.urls["h2"], ten[0], CARGO_HEADERS),
            0.75,
            0.9,
        ),
        Case(
            "private with token",
            "public",
            plain(one, private, with_token),
            plain(one, ten, CARGO_HEADERS),
            0.9,
            0.97,
        ),
        Case(
            "missing crate, 404",
            "index 200",
            tools.h1(one, one.urls["http"], missing, CARGO_HEADERS, found=False),
            plain(one, ten, CARGO_HEADERS),
            0.9,
            1.0,
        ),
        download("down-10k"),
    ]
    if not every:
        return found
    return [
        *found,
        *map(download, ("down-100k", "down-1m", "down-10m")),
        Case(
            "index 200, 10 KiB, against open_file_cache",
            "nginx",
            plain(one, ten, cargo),
            tools.h1(nginx, nginx.urls["open_file_cache"], ten, cargo),
        ),
        Case(
            "index 200, 1 MiB",
            "nginx",
            plain(one, megabyte, IDENTITY, 8),
            plain(nginx, megabyte, IDENTITY, 8),
        ),
        Case(
            "index 200, TLS, HTTP/1.1",
            "nginx TLS",
            tools.h1(tls, tls.urls["h1"], ten, CARGO_HEADERS),
            tools.h1(nginx, nginx.urls["h1"], ten, CARGO_HEADERS),
        ),
        Case(
            "gzip at 10 KiB", "identity", plain(one, ten, CARGO_HEADERS), plain(one, ten, IDENTITY), 1 / 1.1
        ),
        Case(
            "gzip at 200 KB",
            "identity",
            plain(one, large, CARGO_HEADERS),
            plain(one, large, IDENTITY),
            1 / 0.6,
        ),
    ]


def at(name: str, under: str = "/index") -> str:
    """Return the path of a crate's index file."""
    return f"{under}/{index_path(CrateName(name))}"


def header(url: str, name: str, headers: Mapping[str, str] = CARGO_HEADERS) -> str | None:
    """Return a header of the answer, such as the ETag that cargo would be given."""
    with _open(url, headers) as response:
        value = response.headers[name]
        return None if value is None else str(value)


def bytes_of(url: str, headers: Mapping[str, str]) -> int:
    """Return the length of the answer's body as it comes over the wire."""
    with _open(url, headers) as response:
        return len(response.read())


def _open(url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
    context = ssl._create_unverified_context() if url.startswith("https") else None
    response: http.client.HTTPResponse = urllib.request.urlopen(
        urllib.request.Request(url, headers=dict(headers)), context=context, timeout=60
    )
    return response


def measure(cases: Sequence[Case], rounds: int, tell: Callable[[int], None]) -> list[Result]:
    """Run all cases `rounds` times, the two of each one right after the other; `tell` how many rounds are done."""
    results = [Result(case.name, case.what, case.must, case.aim) for case in cases]
    for number in range(rounds):
        for case, result in zip(cases, results, strict=True):
            pair = (case.run, case.other) if number % 2 else (case.other, case.run)
            samples = [run() for run in pair]
            result.samples.append(samples[0 if number % 2 else 1])
            result.others.append(samples[1 if number % 2 else 0])
        tell(number + 1)
    return results


def stalled_download_kib(server: Server, path: str, *, readers: int) -> float:
    """Return the memory that one reader takes who has begun a download and reads no further."""
    parts = urlsplit(server.urls["http"])
    before = server.memory_mib()
    connections = []
    for _ in range(readers):
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        connection.connect()
        connection.sock.setsockopt(1, 8, 16 * 1024)  # SO_RCVBUF
        connection.request("GET", path)
        connection.getresponse().read(1024)
        connections.append(connection)
    time.sleep(2)
    grown = server.memory_mib() - before
    for connection in connections:
        connection.close()
    return grown * 1024 / readers
