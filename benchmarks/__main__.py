"""`python -m benchmarks`: run everything and write what came out as JSON and as a table."""

import argparse
import contextlib
import functools
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import cargo, data, fetching, peer, publishing, reading, servers, tools
from benchmarks.load import CARGO_HEADERS, Tools
from benchmarks.report import Figure, Report, machine, spread
from benchmarks.servers import Server

_Part = Callable[[argparse.Namespace, Path, Report], None]

# What generating a registry takes on a disk at most: rows, twice while they are written, and index files in whole blocks.
_BYTES_PER_VERSION, _BYTES_PER_CRATE = 3200, 4096
_SPARE_BYTES = 2**30


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Run what was asked for; 130 if interrupted, after everything that was started has ended."""
    options = _options()
    # `kill` shall end in the same tidy way as Ctrl-C, which a shell makes its background jobs ignore.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        return _run(options)
    except peer.NotMeasurable as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say(
            "interrupted; servers and data are gone"
            + ("" if options.url else ", tables of finished parts stay")
        )
        return 130


def _run(options: argparse.Namespace) -> int:
    if missing := tools.install(say, tools.FOR_READING if options.url else tools.ALL):
        print(missing, file=sys.stderr)
        return 1
    if too_small := _no_room(options):
        print(too_small, file=sys.stderr)
        return 1
    at = time.monotonic()
    with data.scratch(options.folder) as folder:
        if options.url:
            report = peer.measure(
                options.url,
                folder,
                say,
                names=options.names.read_text().split() if options.names else [],
                crate=options.crate,
                token=options.token,
                pid=options.pid,
                program=cargo.program(folder / "program", options.crates),
                cainfo=options.cainfo,
                parts=options.only or _OF_A_PEER,
                cases=options.cases,
                rounds=options.rounds,
                seconds=options.seconds,
            )
            print(f"On: {machine()}\n\n{report.tables()}")
            if options.out:
                report.write(options.out, "peer", (time.monotonic() - at) / 60)
            return 0
        report = Report(_introduction(options), _WHAT_STANDS_IN_THE_WAY)
        parts = _parts(options)
        left_s = sum(expected_s for _, _, expected_s in parts)
        say(f"about {left_s / 60:.0f} minutes to go")
        for what, part, expected_s in parts:
            say(f"{what}, about {expected_s / 60:.1f} min")
            part(options, folder, report)
            left_s -= expected_s
            say(f"{(time.monotonic() - at) / 60:.1f} min gone, about {max(0, left_s) / 60:.1f} to go")
            if options.out:
                report.write(options.out, "benchmarks", (time.monotonic() - at) / 60)
    print(report.tables())
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Measure the registry against nginx with the same files; make bench ARGS="..." passes options on.',
        epilog="""examples:
  make bench                                  all, S and M: docs/benchmarks.md, in about 16 minutes
  make bench SIZE=L                           250,000 crates, 2,000,000 versions
  make bench ARGS=--quick                     whether it runs, in 3 minutes; nothing is written
  make bench ARGS="--only cargo --out /tmp/b" one part
  make bench ARGS="--url https://crates.example.org/index/ --crate serde --out /tmp/b"
                                              another registry: /tmp/b/peer.md""",
    )
    parser.add_argument("--quick", action="store_true", help="one short round: whether it runs, not how fast")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where the table and the JSON go; default: docs, after a whole run, else they are only printed",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="where data is generated, on a disk and not in memory; default: TMPDIR or /tmp",
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of each row, in turn (5)")
    parser.add_argument(
        "--seconds", type=float, default=2.0, metavar="S", help="of each run of a load tool (2)"
    )
    parser.add_argument(
        "--cases", default="", metavar="TEXT", help="only rows of reading whose name has this"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help=", ".join(_OF_OURS))
    ours = parser.add_argument_group("our own server")
    ours.add_argument(
        "--sizes", nargs="+", choices=sorted(data.CRATES), default=["S", "M"], help="default: S M"
    )
    ours.add_argument(
        "--crates",
        type=Path,
        default=cargo.REAL_CRATES,
        metavar="FOLDER",
        help="real crates, as `crates/*.crate`, and a program that needs them, as `apps/large/`; without, they are generated",
    )
    theirs = parser.add_argument_group(
        "another registry, with the same rows as far as it has such paths; parts: " + ", ".join(_OF_A_PEER)
    )
    theirs.add_argument("--url", help="its index URL, with or without sparse+")
    theirs.add_argument(
        "--crate", metavar="NAME", help="a crate it has, to begin with; its dependencies follow"
    )
    theirs.add_argument(
        "--names", type=Path, metavar="FILE", help="names of crates it has, one a line, most popular first"
    )
    theirs.add_argument(
        "--token",
        help="new crates are published with it, unless --only leaves that out; sent to read where the registry asks for one",
    )
    theirs.add_argument(
        "--cainfo", type=Path, metavar="FILE", help="for cargo: the certificate that signs for it"
    )
    theirs.add_argument("--pid", type=int, help="of its first process, if it runs here: for CPU and memory")
    options = parser.parse_args()
    if strange := set(options.only) - set(_OF_A_PEER if options.url else _OF_OURS):
        parser.error(f"--only {' '.join(strange)} is {'not ' if options.url else 'only '}for --url")
    if not (options.out or options.url or options.quick or options.only or options.cases):
        options.out = Path("docs")
    if options.quick:
        options.sizes, options.rounds, options.seconds = options.sizes[:1], 1, 1.0
    if options.only and "reading" not in options.only:
        options.sizes = []
    return options


_OF_OURS = ("reading", "publishing", "two_hundred_thousand", "cargo", "mirror")
_OF_A_PEER = ("reading", "search", "publishing", "cargo")


def _introduction(options: argparse.Namespace) -> str:
    return (
        "The server is on core 0 (unless it has 2 workers), the load tool on core 1. nginx serves the same files with "
        "`sendfile`,\n`tcp_nopush`, without access log, gzip and, but for one row, `open_file_cache`. Each row has "
        f"{options.rounds} rounds, each run {options.seconds:g} s.\nWhat does not depend on the size of the registry is "
        "measured with the largest one only. cargo's home lies in memory,\nif there is room, and is empty for a cold fetch; "
        "a warm lock is one made anew when nothing has changed.\n"
    )


def _parts(options: argparse.Namespace) -> list[tuple[str, _Part, float]]:
    """Return what to do: its name, how, and about how many seconds it takes on two cores of 2025."""
    whole, rounds = not options.quick, options.rounds
    parts: list[tuple[str, _Part, float]] = []

    def add(name: str, part: _Part, expected_s: float) -> None:
        if not options.only or name in options.only:
            parts.append((name, part, expected_s))

    # First, as ext4 makes files slowly for a minute after many have been removed.
    add("publishing", _publishing, 65 if whole else 15)
    for size in options.sizes:
        rows = 16 if size == options.sizes[-1] else 8
        reading_s = 30 + data.CRATES[size][1] / 11_000 + rows * 2 * (1 + rounds * (options.seconds + 0.15))
        parts.append((f"reading {size}", functools.partial(_reading, size=size), reading_s))
    add("two_hundred_thousand", _two_hundred_thousand, 65 if whole else 10)
    add("cargo", _cargo, 12 + 3 * rounds * 7 if whole else 20)
    add("mirror", _mirror, 15 + rounds * 13)
    return parts


def _no_room(options: argparse.Namespace) -> str:
    """Return what is missing on the disk, "" if all fits."""
    folder = options.folder or Path(tempfile.gettempdir())
    sizes = [] if options.url else [data.CRATES[size] for size in options.sizes]
    if not options.url and (not options.only or "two_hundred_thousand" in options.only) and not options.quick:
        sizes.append((0, data.SEARCH[1]))
    needed = _SPARE_BYTES + max(
        (crates * _BYTES_PER_CRATE + versions * _BYTES_PER_VERSION for crates, versions in sizes), default=0
    )
    free = shutil.disk_usage(folder).free
    if free >= needed:
        return ""
    return f"{folder} has {free / 2**30:.1f} GiB left, {needed / 2**30:.1f} are needed; --folder names another disk"


# --- The parts ---


def _reading(options: argparse.Namespace, folder: Path, report: Report, size: str) -> None:
    root = folder / f"data-{size}"
    crates, versions = data.CRATES[size]
    say(f"generating {crates:,} crates, {versions:,} versions")
    made = data.generate(root, (crates, versions))
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(servers.ours(root))
        two = stack.enter_context(servers.ours(root, "--workers", "2", core=None))
        secure = stack.enter_context(servers.ours(root, "--self-signed"))
        certificate = root / "tls" / "self-signed.pem"
        nginx = stack.enter_context(
            servers.nginx(root, folder / "nginx", certificate, root / "tls" / "self-signed.key")
        )
        all_ = {"nginx": nginx, "one": one, "two": two, "tls": secure}
        runs = Tools(folder, options.seconds)
        cases = [
            case
            for case in reading.cases(made, root, runs, all_, every=size == options.sizes[-1])
            if options.cases in case.name
        ]
        at = time.monotonic()

        def tell(done: int) -> None:
            took_s = (time.monotonic() - at) / done
            say(f"round {done} of {options.rounds}, {took_s * (options.rounds - done) / 60:.1f} min to go")

        results = reading.measure(cases, options.rounds, tell)
        report.results[f"Reading: {crates:,} crates, {versions:,} versions"] = results
        report.figures += _memory(one, size, readers=20 if options.quick else 200)
        if size == options.sizes[-1]:
            report.figures += _gzip_bytes(one)
    shutil.rmtree(root)


def _memory(server: Server, size: str, *, readers: int) -> Iterator[Figure]:
    worker = f"{server.largest_mib():.0f} MiB"
    yield Figure(f"{size}: memory of a worker after the load", worker, "≤ 150 MB", "100 MB")
    stalled = reading.stalled_download_kib(server, "/api/v1/crates/down-10m/1.0.0/download", readers=readers)
    yield Figure(f"{size}: memory of a stalled 10 MiB download", f"{stalled:.0f} KiB", "≤ 1 MiB", "256 KiB")


def _gzip_bytes(server: Server) -> Iterator[Figure]:
    for what, name in (("10 KiB", "exact-10k"), ("200 KB", "exact-200k")):
        url = server.urls["http"] + reading.at(name)
        packed, whole = (reading.bytes_of(url, headers) for headers in (CARGO_HEADERS, reading.IDENTITY))
        share = f"{packed / whole:.0%} ({packed:,} of {whole:,} bytes)"
        yield Figure(f"gzip answer at {what}: bytes against identity", share, "≤ 25 %")


def _publishing(options: argparse.Namespace, folder: Path, report: Report) -> None:
    figures = report.figures
    root = folder / "publish"
    made = data.generate(root, (1000, 1000))
    count = 60 if options.quick else 400
    with servers.ours(root, core=None) as server:
        url = server.urls["http"]
        publishing.publish(url, made.token, publishing.bodies("warm", 10))
        rates = {1: [], 8: []}  # type: dict[int, list[float]]
        for number in range(options.rounds):
            for clients, into in rates.items():
                bodies = publishing.bodies(f"p{number}c{clients}x", count)
                into.append(publishing.publish(url, made.token, bodies, clients))
        for clients, into in rates.items():
            must, aim = ("≥ 150/s", "300/s") if clients == 8 else ("", "")
            figures.append(
                Figure(f"publish 30 KiB, durable, {clients} at once", spread(into, "/s"), must, aim)
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
            lambda n: large[n] if n < len(large) else publishing.bodies(f"rest{n}x", 1)[0],
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


def _two_hundred_thousand(options: argparse.Namespace, folder: Path, report: Report) -> None:
    figures = report.figures
    root = folder / "many"
    crates, versions = (20_000, 20_000) if options.quick else data.SEARCH
    say(f"generating {crates:,} crates, {versions:,} versions")
    made = data.generate(root, (crates, versions), files=False)
    say("generated")
    starts = []
    for _ in range(options.rounds):
        at = time.perf_counter()
        with servers.ours(root, core=None):
            starts.append(time.perf_counter() - at)
    figures.append(Figure(f"ready with {crates:,} crates", spread(starts, " s"), "≤ 2 s", "1 s"))
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


def _cargo(options: argparse.Namespace, folder: Path, report: Report) -> None:
    rtts_ms = [20] if options.quick else [0, 20, 80]
    report.figures += fetching.at_a_distance(folder, options.crates, rtts_ms, options.rounds, say)


def _mirror(options: argparse.Namespace, folder: Path, report: Report) -> None:
    report.figures += fetching.through_a_mirror(folder, options.crates, options.rounds)


_WHAT_STANDS_IN_THE_WAY = """
## What stands in the way

* **Small answers.** Of the 20 µs of CPU that an index file takes, 4 are ours: a `stat` and a look into memory. A token
  takes 2 more, and granian 1 or 2 to pass one more header on: more than a tenth, now that the rest takes half of what it
  did. A small tarball takes 4 more than an index file, to open, read and close it. All else is granian's, which passes
  each request from its own thread to one that has the interpreter, and back. 32 connections share most of the waking of
  threads; 8, as here for tarballs, share less.
* **Large tarballs** are copied by whoever does not use `sendfile(2)`: 0.4 s of CPU for each GB with granian, whatever is
  done in Python. Where the machine is not busy with other things, as many MB/s go out as from nginx. With TLS everybody
  copies. Where this matters, nginx serves the same files (`docs/nginx.md`).
* **A publish** takes 5 ms of CPU: 2 in the event loop, 2 in the thread that writes, 1 in the process that reads tarballs.
  The first two share one interpreter, so that two cores do about 250 a second at best.
* **A slow disk.** A publish waits for two rounds of fsyncs: its files together, then the COMMIT. Eight publishers share
  both, but not the 3 ms that the writer needs for each of them between the rounds, and one alone takes less than that.
"""


if __name__ == "__main__":
    sys.exit(main())
