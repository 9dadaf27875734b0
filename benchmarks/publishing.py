"""Publishes: how many a second, what a slow disk does to them, and what they do to readers and memory."""

import hashlib
import http.client
import json
import multiprocessing
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import data
from benchmarks.servers import Server

_SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
static int slow(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    usleep(5000);
    return real(fd);
}
int fsync(int fd) { return slow("fsync", fd); }
int fdatasync(int fd) { return slow("fdatasync", fd); }
"""


def slow_fsync(folder: Path) -> Path:
    """Compile what makes each fsync take 5 ms longer, for LD_PRELOAD."""
    source, library = folder / "slow_fsync.c", folder / "slow_fsync.so"
    source.write_text(_SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)
    return library


def bodies(prefix: str, count: int, *, files: int = 12, size: int = 30 * 1024) -> list[bytes]:
    """Return publishes of as many new crates, whose names are no more alike than others are.

    Were they numbered, each would be a letter away from twenty more, and the server would say so to each.
    """
    names = [f"made{hashlib.sha256(f'{prefix}{n}'.encode()).hexdigest()[:8]}" for n in range(count)]
    return [data.publish_body(name, "1.0.0", files=files, size=size) for name in names]


def publish(url: str, token: str, publishes: Sequence[bytes], clients: int = 1) -> float:
    """Publish all, by some clients at once; return how many a second."""
    left = list(publishes)
    failures: list[str] = []

    def client() -> None:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        while left:
            try:
                body = left.pop()
            except IndexError:
                return
            connection.request("PUT", "/api/v1/crates/new", body, {"Authorization": token})
            response = connection.getresponse()
            said = response.read()
            if response.status != 200:
                failures.append(f"{response.status} {said[:300]!r}")
                return

    threads = [threading.Thread(target=client) for _ in range(clients)]
    at = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise RuntimeError(failures[0])
    return len(publishes) / (time.perf_counter() - at)


def while_publishing(url: str, token: str, body: Callable[[int], bytes], watch: Callable[[], None]) -> None:
    """Publish one crate after the other in a process of its own while `watch` runs."""
    stop = multiprocessing.Event()

    def publisher() -> None:
        number = 0
        while not stop.is_set():
            publish(url, token, [body(number)])
            number += 1

    process = multiprocessing.get_context("fork").Process(target=publisher)
    process.start()
    try:
        watch()
    finally:
        stop.set()
        process.join(60)


def index_p99_ms(server: Server, path: str, *, seconds: float) -> tuple[float, float]:
    """Return p50 and p99 of one reader that asks a hundred times a second."""
    parts = urlsplit(server.urls["http"])
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        at = time.perf_counter()
        connection.request("GET", path)
        connection.getresponse().read()
        times.append(time.perf_counter() - at)
        time.sleep(0.01)
    times.sort()
    return times[len(times) // 2] * 1000, times[int(len(times) * 0.99)] * 1000


def search_p99_ms(server: Server, queries: Sequence[str]) -> tuple[float, float]:
    """Return p50 and p99 of searches, one after the other."""
    parts = urlsplit(server.urls["http"])
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    times = []
    for query in queries:
        at = time.perf_counter()
        connection.request("GET", f"/api/v1/crates?q={query}&per_page=10")
        said = json.loads(connection.getresponse().read())
        times.append(time.perf_counter() - at)
        if "crates" not in said:
            raise RuntimeError(str(said))
    times.sort()
    return times[len(times) // 2] * 1000, times[int(len(times) * 0.99)] * 1000


def memory_growth_mib(server: Server, token: str) -> float:
    """Return by how much publishes of 10 MiB make the server grow at most."""
    publishes = bodies(f"tenmib{time.time_ns()}x", 4, files=88, size=10 * 2**20)
    publish(server.urls["http"], token, bodies(f"warm{time.time_ns()}x", 2))
    before = server.memory_mib()
    most = [before]
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            most.append(server.memory_mib())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        publish(server.urls["http"], token, publishes, clients=2)
    finally:
        done.set()
        looking.join()
    return max(most) - before
