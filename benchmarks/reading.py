"""The paths that are read: index files and downloads, ours and nginx's in turn."""

import http.client
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import data, load
from benchmarks.load import CARGO_HEADERS, UPGRADE, Sample
from benchmarks.servers import Server


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
    made: data.Made,
    root: Path,
    folder: Path,
    servers: Mapping[str, Server],
    *,
    seconds: float,
) -> list[Case]:
    """Return the cases for `servers`: nginx, one, two (plain, by workers), tls."""
    nginx, one, two, tls = (servers[name] for name in ("nginx", "one", "two", "tls"))
    from cargo_registry.crate.entry import index_path
    from cargo_registry.crate.names import CrateName

    def at(name: str) -> str:
        return "/index/" + index_path(CrateName(name))

    def h1(
        server: Server, kind: str, paths: Sequence[str], headers: Mapping[str, str], connections: int = 32
    ) -> Run:
        return lambda: load.wrk(
            server, server.urls[kind], paths, headers, folder, seconds=seconds, connections=connections
        )

    def h2(server: Server, path: str, headers: Mapping[str, str]) -> Run:
        return lambda: load.h2load(server, server.urls["h2"], path, headers, seconds=seconds)

    cargo = CARGO_HEADERS | UPGRADE
    identity = {**CARGO_HEADERS, "Accept-Encoding": "identity"}
    ten, large = [at("exact-10k")], [at("exact-200k")]
    zipf = data.paths_by_popularity(made.names, 20_000)
    missing = [at(f"no-such-crate-{n}") for n in range(200)]
    private = ["/closed" + at("exact-10k")]
    with_token = CARGO_HEADERS | {"Authorization": made.token}

    def condition(server: Server, kind: str) -> dict[str, str]:
        return CARGO_HEADERS | {"If-None-Match": etag(server.urls[kind] + ten[0])}

    found = [
        Case(
            "index 200, 10 KiB, cargo's headers",
            "nginx",
            h1(one, "http", ten, cargo),
            h1(nginx, "http", ten, cargo),
            0.42,
            0.5,
        ),
        Case("… 2 workers", "nginx", h1(two, "http", ten, cargo), h1(nginx, "http", ten, cargo)),
        Case(
            "… against open_file_cache",
            "nginx",
            h1(one, "http", ten, cargo),
            h1(nginx, "open_file_cache", ten, cargo),
        ),
        Case(
            "index 304",
            "nginx",
            h1(one, "http", ten, condition(one, "http")),
            h1(nginx, "http", ten, condition(nginx, "http")),
            0.36,
            0.46,
        ),
        Case(
            f"index, Zipf over {len(made.names):,} files",
            "nginx",
            h1(one, "http", zipf, cargo),
            h1(nginx, "http", zipf, cargo),
            0.38,
            0.48,
        ),
        Case(
            "index 200, TLS, HTTP/2",
            "nginx h2",
            h2(tls, ten[0], CARGO_HEADERS),
            h2(nginx, ten[0], CARGO_HEADERS),
            0.75,
            0.9,
        ),
        Case(
            "index 200, TLS, HTTP/1.1",
            "nginx TLS",
            h1(tls, "h1", ten, CARGO_HEADERS),
            h1(nginx, "h1", ten, CARGO_HEADERS),
        ),
        Case(
            "gzip at 10 KiB",
            "identity",
            h1(one, "http", ten, CARGO_HEADERS),
            h1(one, "http", ten, identity),
            1 / 1.1,
        ),
        Case(
            "gzip at 200 KB",
            "identity",
            h1(one, "http", large, CARGO_HEADERS),
            h1(one, "http", large, identity),
            1 / 0.6,
        ),
        Case(
            "private with token",
            "public",
            h1(one, "http", private, with_token),
            h1(one, "http", ten, CARGO_HEADERS),
            0.9,
            0.97,
        ),
        Case(
            "missing crate, 404",
            "index 200",
            h1(one, "http", missing, CARGO_HEADERS),
            h1(one, "http", ten, CARGO_HEADERS),
            0.9,
            1.0,
        ),
    ]
    for name, must, aim in (
        ("down-10k", 0.25, 0.36),
        ("down-100k", 0.28, 0.40),
        ("down-1m", 0.65, 1.0),
        ("down-10m", 0.75, 1.0),
    ):
        path = f"/api/v1/crates/{name}/1.0.0/download"
        found.append(
            Case(
                f"download {name.removeprefix('down-')}",
                "nginx",
                h1(one, "http", [path], cargo, 8),
                h1(nginx, "http", ["/crates/" + made.downloads[name]], cargo, 8),
                must,
                aim,
            )
        )
    return found


def etag(url: str) -> str:
    """Return the ETag that cargo would be given."""
    import ssl

    context = ssl._create_unverified_context() if url.startswith("https") else None
    request = urllib.request.Request(url, headers=CARGO_HEADERS)
    with urllib.request.urlopen(request, context=context) as response:
        return str(response.headers["etag"])


def measure(cases: Sequence[Case], rounds: int, say: Callable[[str], None]) -> list[Result]:
    """Run all cases `rounds` times, the two of each one right after the other."""
    results = [Result(case.name, case.what, case.must, case.aim) for case in cases]
    for number in range(rounds):
        for case, result in zip(cases, results, strict=True):
            pair = (case.run, case.other) if number % 2 else (case.other, case.run)
            samples = [run() for run in pair]
            result.samples.append(samples[0 if number % 2 else 1])
            result.others.append(samples[1 if number % 2 else 0])
        say(f"round {number + 1} of {rounds}")
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
    import time

    time.sleep(2)
    grown = server.memory_mib() - before
    for connection in connections:
        connection.close()
    return grown * 1024 / readers
