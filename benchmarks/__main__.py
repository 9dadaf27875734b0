"""`python -m benchmarks`: run everything and write what came out as JSON and as a table."""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import platform
import shutil
import sqlite3
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import data, distance, load, mirroring, publishing, reading, servers
from benchmarks.reading import Result
from cargo_registry import config as settings
from cargo_registry.registry import close_site, open_site


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """A row that is no ratio to nginx: what was measured, and what was asked for."""

    name: str
    value: str
    must: str = ""
    aim: str = ""


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Run what was asked for."""
    options = _options()
    missing = load.missing()
    if missing:
        print("these tools are missing:\n  " + "\n  ".join(missing), file=sys.stderr)
        return 1
    at = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder) as name:
        folder = Path(name)
        folder.chmod(0o755)
        if options.url:
            _measure_peer(options, folder)
            return 0
        results: dict[str, list[Result]] = {}
        figures: list[Figure] = []
        for size in options.sizes:
            results[size] = _read_paths(options, folder, size, figures)
            print(_table(results[size]), flush=True)
            _write(options, results, figures, (time.monotonic() - at) / 60)
        for part in (_publishing, _two_hundred_thousand, _cargo, _mirror):
            if not options.only or part.__name__.strip("_") in options.only:
                part(options, folder, figures)
                _write(options, results, figures, (time.monotonic() - at) / 60)
    for figure in figures:
        print(f"{figure.name}: {figure.value}   (must {figure.must}, aim {figure.aim})")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: whether it runs, not how fast")
    parser.add_argument("--sizes", nargs="+", choices=sorted(data.CRATES), default=["S", "M"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument(
        "--only", nargs="+", default=[], help="reading, publishing, two_hundred_thousand, cargo, mirror"
    )
    parser.add_argument("--cases", default="", help="only the cases whose name has this")
    parser.add_argument("--folder", type=Path, help="where the data is generated; a disk, not memory")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder for benchmarks.md and .json")
    parser.add_argument(
        "--url", help="measure the read paths of another registry: its index URL, without sparse+"
    )
    parser.add_argument("--crate", default="serde", help="with --url: a crate it has")
    options = parser.parse_args()
    if options.quick:
        options.sizes, options.rounds, options.seconds = ["S"], 1, 1.0
    if options.only and "reading" not in options.only:
        options.sizes = []
    return options


# --- The parts ---


def _read_paths(options: argparse.Namespace, folder: Path, size: str, figures: list[Figure]) -> list[Result]:
    root = folder / f"data-{size}"
    say(f"generating {size}: {data.CRATES[size][0]:,} crates, {data.CRATES[size][1]:,} versions")
    made = _generate(root, data.CRATES[size])
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(servers.ours(root))
        two = stack.enter_context(servers.ours(root, "--workers", "2", core=None))
        secure = stack.enter_context(servers.ours(root, "--self-signed"))
        certificate = root / "tls" / "self-signed.pem"
        nginx = stack.enter_context(
            servers.nginx(root, folder / "nginx", certificate, root / "tls" / "self-signed.key")
        )
        all_ = {"nginx": nginx, "one": one, "two": two, "tls": secure}
        cases = reading.cases(made, root, folder, all_, seconds=options.seconds)
        cases = [case for case in cases if options.cases in case.name]
        results = reading.measure(cases, options.rounds, say)
        figures.append(
            Figure(
                f"{size}: memory of a worker after the load",
                f"{one.largest_mib():.0f} MiB",
                "≤ 150 MB",
                "100 MB",
            )
        )
        stalled = reading.stalled_download_kib(
            one, "/api/v1/crates/down-10m/1.0.0/download", readers=20 if options.quick else 200
        )
        figures.append(
            Figure(f"{size}: memory of a stalled 10 MiB download", f"{stalled:.0f} KiB", "≤ 1 MiB", "256 KiB")
        )
    shutil.rmtree(root)
    return results


def _publishing(options: argparse.Namespace, folder: Path, figures: list[Figure]) -> None:
    root = folder / "publish"
    made = _generate(root, (1000, 1000))
    count = 60 if options.quick else 400
    with servers.ours(root, core=None) as server:
        url = server.urls["http"]
        publishing.publish(url, made.token, publishing.bodies("warm", 10))
        rates = {1: [], 8: []}  # type: dict[int, list[float]]
        for number in range(1 if options.quick else 3):
            for clients, into in rates.items():
                bodies = publishing.bodies(f"p{number}c{clients}x", count)
                into.append(publishing.publish(url, made.token, bodies, clients))
        for clients, into in rates.items():
            must, aim = ("≥ 150/s", "300/s") if clients == 8 else ("", "")
            figures.append(
                Figure(f"publish 30 KiB, durable, {clients} at once", _spread(into, "/s"), must, aim)
            )
        say(f"published: {rates}")

        path = "/index/ex/ac/exact-10k"
        latencies: list[tuple[float, float]] = []
        large = [
            data.publish_body(f"large{n}", "1.0.0", files=4800, size=4 * 2**20)
            for n in range(4 if options.quick else 12)
        ]
        seconds = 4.0 if options.quick else 15.0
        publishing.while_publishing(
            url,
            made.token,
            lambda n: (
                large[n % len(large)].replace(b"", b"")
                if n < len(large)
                else publishing.bodies(f"rest{n}x", 1)[0]
            ),
            lambda: latencies.append(publishing.index_p99_ms(server, path, seconds=seconds)),
        )
        p50, p99 = latencies[0]
        figures.append(
            Figure(
                "index while a 4,800-file crate is published, p99",
                f"{p99:.1f} ms (p50 {p50:.2f})",
                "≤ 5 ms",
                "≤ 2 ms",
            )
        )
        growth = publishing.memory_growth_mib(server, made.token)
        figures.append(Figure("10 MiB publishes: memory growth", f"{growth:.0f} MiB", "≤ 32 MiB"))
    with servers.ours(root, core=None, preload=publishing.slow_fsync(folder)) as server:
        url = server.urls["http"]
        publishing.publish(url, made.token, publishing.bodies("slowwarm", 5))
        one = publishing.publish(url, made.token, publishing.bodies("slow1x", count // 4))
        eight = publishing.publish(url, made.token, publishing.bodies("slow8x", count), 8)
        figures.append(
            Figure(
                "the same, each fsync 5 ms slower: 8 publishers against 1",
                f"{eight / one:.1f} × ({eight:.0f}/s, {one:.0f}/s)",
                "≥ 3 ×",
                "6 ×",
            )
        )
    shutil.rmtree(root)


def _two_hundred_thousand(options: argparse.Namespace, folder: Path, figures: list[Figure]) -> None:
    root = folder / "many"
    crates, versions = (20_000, 20_000) if options.quick else data.SEARCH
    say(f"generating {crates:,} crates, {versions:,} versions")
    made = _generate(root, (crates, versions), files=False)
    say("generated")
    starts = []
    for _ in range(3):
        at = time.perf_counter()
        with servers.ours(root, core=None):
            starts.append(time.perf_counter() - at)
    figures.append(Figure(f"ready with {crates:,} crates", _spread(starts, " s"), "≤ 2 s", "1 s"))
    with servers.ours(root, core=None) as server:
        exact = made.names[:: max(1, len(made.names) // 200)]
        words = ["async", "parser", "http", "error", "vector", "lock", "file", "json"] * 8
        for what, queries, must, aim in (
            ("exact name", exact, "≤ 10 ms", "5 ms"),
            ("common word", words, "≤ 20 ms", "8 ms"),
        ):
            publishing.search_p99_ms(server, queries[:20])
            p50, p99 = publishing.search_p99_ms(server, queries)
            figures.append(
                Figure(f"search, {crates:,} crates, {what}, p99", f"{p99:.1f} ms (p50 {p50:.1f})", must, aim)
            )
        figures.append(
            Figure("memory of a worker after that", f"{server.largest_mib():.0f} MiB", "≤ 150 MB", "100 MB")
        )
    shutil.rmtree(root)


def _cargo(options: argparse.Namespace, folder: Path, figures: list[Figure]) -> None:
    if reason := distance.why_not():
        figures.append(Figure("real cargo at a distance", f"not measured: {reason}"))
        return
    root = folder / "cargo"
    made = _generate(root, (10, 10))
    layers, per_layer = 6, 25
    with servers.ours(root, core=None) as server:
        index = f"sparse+{server.urls['http']}/index/"
        for layer in range(layers):
            for n in range(per_layer):
                deps = tuple(f"l{layer - 1}c{(n + k) % per_layer}" for k in range(3)) if layer else ()
                body = data.publish_body(
                    f"l{layer}c{n}", "1.0.0", files=6, size=30 * 1024, deps=deps, index=index
                )
                publishing.publish(server.urls["http"], made.token, [body])
    project = folder / "project"
    (project / "src").mkdir(parents=True)
    (project / "src" / "lib.rs").touch()
    top = "".join(f'l{layers - 1}c{n} = {{ version = "1", registry = "main" }}\n' for n in range(per_layer))
    (project / "Cargo.toml").write_text(
        f'[package]\nname = "p"\nversion = "0.1.0"\nedition = "2021"\n[dependencies]\n{top}'
    )
    where = {"host": distance.SERVER_IP}
    with distance.link() as link, contextlib.ExitStack() as stack:
        server = stack.enter_context(
            servers.ours(root, "--host", where["host"], "--self-signed", core=None, prefix=link.in_server)
        )
        certificate = root / "tls" / "self-signed.pem"
        nginx = stack.enter_context(
            servers.nginx(
                root,
                folder / "nginx-cargo",
                certificate,
                root / "tls" / "self-signed.key",
                where["host"],
                None,
                link.in_server,
            )
        )
        for rtt_ms in (20,) if options.quick else (0, 20, 80):
            link.delay_s = rtt_ms / 2000
            times: dict[str, list[tuple[float, float]]] = {"ours": [], "nginx": []}
            for _ in range(1 if options.quick else 3):
                for name, url in (("ours", server.urls["h2"]), ("nginx", nginx.urls["h2"])):
                    times[name].append(distance.fetch_s(link, f"sparse+{url}/index/", certificate, project))
            for at, what in enumerate(("cold fetch", "warm lock")):
                ours, others = ([pair[at] for pair in times[name]] for name in ("ours", "nginx"))
                ratio = statistics.median(ours) / statistics.median(others)
                figures.append(
                    Figure(
                        f"cargo, {layers * per_layer} crates, TLS, {rtt_ms} ms RTT: {what}",
                        f"{ratio:.2f} × nginx h2 ({_spread(ours, ' s')}; nginx {_spread(others, ' s')})",
                        "≤ 1.10 ×" if rtt_ms == 20 else "",
                        "1.03 ×" if rtt_ms == 20 else "",
                    )
                )
            say(f"cargo at {rtt_ms} ms: {times}")


def _mirror(options: argparse.Namespace, folder: Path, figures: list[Figure]) -> None:
    if shutil.which("cargo") is None:
        figures.append(Figure("real cargo through a mirror", "not measured: no cargo here"))
        return
    root = folder / "upstream"
    made = _generate(root, (10, 10))
    count = 150
    with servers.ours(root, core=None) as upstream:
        for n in range(count):
            body = data.publish_body(f"m{n}", "1.0.0", files=6, size=30 * 1024, deps=())
            publishing.publish(upstream.urls["http"], made.token, [body])
        direct = f"sparse+{upstream.urls['http']}/index/"
        project = mirroring.project(folder / "mirrored", [f"m{n}" for n in range(count)])
        mirroring.fetch_s(direct, project, locked=False)
        times: dict[str, list[float]] = {"direct": [], "cold": [], "warm": []}
        for turn in range(1 if options.quick else 3):
            times["direct"].append(mirroring.fetch_s(direct, project))
            settings = f'[registries.followed]\nkind = "mirror"\nupstream = "{direct}"\n'
            with servers.ours(folder / f"mirror{turn}", settings=settings, core=None) as mirror:
                through = f"sparse+{mirror.urls['http']}/followed/index/"
                times["cold"].append(mirroring.fetch_s(through, project))
                times["warm"].append(mirroring.fetch_s(through, project))
    for kind in ("cold", "warm"):
        ratio = statistics.median(times[kind]) / statistics.median(times["direct"])
        figures.append(
            Figure(
                f"cargo, {count} crates of a lock through a mirror: {kind}",
                f"{ratio:.2f} × its upstream directly ({_spread(times[kind], ' s')};"
                f" directly {_spread(times['direct'], ' s')})",
            )
        )
    say(f"through a mirror: {times}")


def _measure_peer(options: argparse.Namespace, folder: Path) -> None:
    """Ask another registry for an index file and print how fast it answers."""
    from cargo_registry.crate.entry import index_path
    from cargo_registry.crate.names import CrateName

    base = options.url.removeprefix("sparse+").rstrip("/")
    scheme, _, rest = base.partition("://")
    host, slash, prefix = rest.partition("/")
    path = f"{slash}{prefix}/{index_path(CrateName(options.crate))}"
    process = subprocess.Popen(["sleep", "3600"])
    server = servers.Server(process, {})
    cargo = load.CARGO_HEADERS | ({} if scheme == "https" else load.UPGRADE)
    for name, at, headers in (
        ("index 200", path, cargo),
        ("index 304", path, load.CARGO_HEADERS | {"If-None-Match": reading.etag(f"{scheme}://{host}{path}")}),
        ("missing crate, 404", path + "-no-such", cargo),
    ):
        sample = load.wrk(server, f"{scheme}://{host}", [at], headers, folder, seconds=options.seconds)
        print(
            f"{name}: {sample.requests_per_s:,.0f}/s, p50 {sample.p50_ms:.2f} ms, p99 {sample.p99_ms:.2f} ms"
        )
    server.stop()


# --- What they share ---


def _generate(root: Path, size: tuple[int, int], *, files: bool = True) -> data.Made:
    root.mkdir()
    file = root.parent / f"{root.name}.gen.toml"
    file.write_text('[registries.main]\n[registries.closed]\naccess = "auth-required"\n')

    async def fill() -> data.Made:
        site = open_site(settings.load(file, data_dir=root, environ={}))
        try:
            return await data.fill(site, size, files=files)
        finally:
            await close_site(site)

    made = asyncio.run(fill())
    os.sync()
    return made


def _spread(values: Sequence[float], unit: str) -> str:
    digits = 0 if statistics.median(values) >= 20 else 2
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} [{low:.{digits}f}–{high:.{digits}f}]{unit}"


def _ratios(result: Result, of: Callable[[load.Sample], float]) -> list[float]:
    return [of(sample) / of(other) for sample, other in zip(result.samples, result.others, strict=True)]


def _table(results: Sequence[Result]) -> str:
    lines = [
        "| path | against | ratio of CPU | ratio of requests/s | must | aim | requests/s | MB/s | p50 / p99 ms | CPU µs | its requests/s | its CPU µs |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        middle = statistics.median
        mine, other = result.samples, result.others
        cpu = [b.cpu_us / a.cpu_us for a, b in zip(mine, other, strict=True) if a.cpu_us]
        p50, p99 = mine[0].p50_ms, mine[0].p99_ms
        lines.append(
            f"| {result.name} | {result.what} | **{middle(cpu):.2f}** [{min(cpu):.2f}–{max(cpu):.2f}] "
            f"| {_spread(_ratios(result, lambda s: s.requests_per_s), '')} "
            f"| {(result.must and f'{result.must:.2f}') or ''} | {(result.aim and f'{result.aim:.2f}') or ''} "
            f"| {middle([s.requests_per_s for s in mine]):,.0f} | {middle([s.mb_per_s for s in mine]):,.0f} "
            f"| {'–' if p50 is None else f'{p50:.2f} / {p99:.2f}'} | {middle([s.cpu_us for s in mine]):.1f} "
            f"| {middle([s.requests_per_s for s in other]):,.0f} | {middle([s.cpu_us for s in other]):.1f} |"
        )
        if any(s.failed for s in (*mine, *other)):
            lines[-1] += f" {sum(s.failed for s in mine)} and {sum(s.failed for s in other)} failed"
    return "\n".join(lines)


def _machine() -> str:
    model = "?"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.strip().rpartition(" ")[2]
    load_ = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} × {model}, {memory:.0f} GiB, Linux {platform.release()}; Python {platform.python_version()}, "
        f"granian {version('granian')}, starlette {version('starlette')}, SQLite {sqlite3.sqlite_version}, {nginx}, "
        f"{ssl.OPENSSL_VERSION}. Load average at the end: {load_:.1f}."
    )


_WHAT_STANDS_IN_THE_WAY = """
## What stands in the way

Of the CPU time of an index request our own code takes 4 µs, with a token 7, of a download 14; the rest is granian's,
which answers the least that an app can say in about 29 µs at 32 connections and 46 at 8: each request is passed from
its thread to Python's and back. That is why small downloads, asked for on 8 connections here, stay below a quarter
of nginx. Large ones are copied twice by whoever does not use sendfile(2), which granian does not: 0.4 s for each GB
whatever is done in Python. With TLS everybody copies, so HTTP/2 is nearer. Where this matters, nginx serves the
same files (`docs/nginx.md`).

A publish is bound by Python: about 2 ms for its look-ups and 3 ms in the writer thread, on one interpreter. fsyncs are
shared and wait together, so a slow disk costs little more with many publishers than with one.
"""


def _write(
    options: argparse.Namespace,
    results: Mapping[str, Sequence[Result]],
    figures: Sequence[Figure],
    minutes: float,
) -> None:
    options.out.mkdir(exist_ok=True)
    everything: dict[str, Any] = {
        "machine": _machine(),
        "minutes": round(minutes, 1),
        "results": {size: [dataclasses.asdict(result) for result in of] for size, of in results.items()},
        "figures": [dataclasses.asdict(figure) for figure in figures],
    }
    (options.out / "benchmarks.json").write_text(json.dumps(everything, indent=1) + "\n")
    tables = "".join(
        f"## Reading: {data.CRATES[size][0]:,} crates, {data.CRATES[size][1]:,} versions\n\n{_table(of)}\n\n"
        for size, of in results.items()
    )
    lines = [f"| {f.name} | {f.value} | {f.must} | {f.aim} |" for f in figures]
    (options.out / "benchmarks.md").write_text(
        "# Benchmarks\n\n"
        f"Written by `make bench` in {minutes:.0f} minutes on: {_machine()}\n\n"
        "The server is on core 0 (unless it has 2 workers), the load tool on core 1. A ratio is the other one's CPU "
        "time per request by ours, or our requests per second by the other one's: above 1, ours is better. Both are "
        f"the median of {options.rounds} rounds, run in turn, with the lowest and the highest; where other programs "
        "were busy, only the ratio of CPU means something. nginx serves the same files with `sendfile`, "
        "`tcp_nopush`, without access log, gzip and, but for one row, `open_file_cache`.\n\n"
        + tables
        + "## Publishing, searching, starting, fetching\n\n| | measured | must | aim |\n|---|---|---|---|\n"
        + "\n".join(lines)
        + "\n"
        + _WHAT_STANDS_IN_THE_WAY
    )


if __name__ == "__main__":
    sys.exit(main())
