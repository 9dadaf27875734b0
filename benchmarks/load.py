"""The load tools: wrk for HTTP/1.1, h2load for HTTP/2; each run gives one Sample."""

import json
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import Watched, pinned

CARGO_HEADERS = {
    "User-Agent": "cargo/1.95.0 (f2d3ce0bd 2026-03-21)",
    "Accept-Encoding": "deflate, gzip",
    "cargo-protocol": "version=1",
    "Accept": "text/plain",
}
UPGRADE = {
    "Connection": "Upgrade, HTTP2-Settings",
    "Upgrade": "h2c",
    "HTTP2-Settings": "AAMAAABkAAQAoAAAAAIAAAAA",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run of a load tool and the server's clocks said."""

    requests_per_s: float
    mb_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float | None  # of the server, per request; None: not known
    mib: float | None  # the server's memory right after the run
    failed: int  # no answer, or another status than was to be expected


# What has been asked for before, and so lies in all the caches it can lie in.
_warm: set[tuple[int | None, str, str, str]] = set()


_SCRIPT = """
local paths = {%s}
local headers = {%s}
local count, at = #paths, 0
local made = {}
init = function(args)
  for i = 1, count do made[i] = wrk.format("GET", paths[i], headers) end
end
request = function()
  at = at %% count + 1
  return made[at]
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\nRESULT {"requests":%%d,"us":%%d,"bytes":%%d,"p50":%%f,"p99":%%f,"status":%%d,"failed":%%d}\\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
    e.status, e.connect + e.read + e.write + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Tools:
    """How to make runs: where scripts and logs go, and how long each run lasts."""

    folder: Path
    seconds: float

    def h1(
        self,
        server: Watched,
        url: str,
        paths: Sequence[str],
        headers: Mapping[str, str],
        connections: int = 32,
        *,
        found: bool = True,
    ) -> Callable[[], Sample]:
        """Return a run over HTTP/1.1, see `wrk`."""
        return lambda: wrk(
            server,
            url,
            paths,
            headers,
            self.folder,
            seconds=self.seconds,
            connections=connections,
            found=found,
        )

    def h2(self, server: Watched, url: str, path: str, headers: Mapping[str, str]) -> Callable[[], Sample]:
        """Return a run over HTTP/2, see `h2load`."""
        return lambda: h2load(server, url, path, headers, self.folder, seconds=self.seconds)


def wrk(
    server: Watched,
    url: str,
    paths: Sequence[str],
    headers: Mapping[str, str],
    folder: Path,
    *,
    seconds: float,
    connections: int = 32,
    found: bool = True,
) -> Sample:
    """Ask for the paths in turn over HTTP/1.1 and return what came of it. Not `found`: all shall answer 404 or alike."""
    script = folder / "wrk.lua"
    quoted = ",".join(json.dumps(path) for path in paths)
    script.write_text(
        _SCRIPT % (quoted, ",".join(f"[{json.dumps(k)}]={json.dumps(v)}" for k, v in headers.items()))
    )
    command = ["wrk", "-t1", f"-c{connections}", "--latency", "-s", str(script), url]
    if (server.pid, url, paths[0], str(headers)) not in _warm:
        _warm.add((server.pid, url, paths[0], str(headers)))
        subprocess.run(pinned(1, [*command[:-1], "-d1s", url]), capture_output=True, check=True)
    before = server.cpu_s()
    output = subprocess.run(
        pinned(1, [*command[:-1], f"-d{max(1, round(seconds))}s", url]),
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    after = server.cpu_s()
    said = json.loads(output[output.index("RESULT") + 6 :])
    # wrk calls every status from 400 up an error.
    unexpected = said["status"] if found else said["requests"] - said["status"]
    return Sample(
        requests_per_s=said["requests"] / said["us"] * 1e6,
        mb_per_s=said["bytes"] / said["us"],
        p50_ms=said["p50"] / 1000,
        p99_ms=said["p99"] / 1000,
        cpu_us=_each_us(before, after, said["requests"]),
        mib=server.resident_mib(),
        failed=said["failed"] + unexpected,
    )


def h2load(
    server: Watched, url: str, path: str, headers: Mapping[str, str], folder: Path, *, seconds: float
) -> Sample:
    """Ask for one path over HTTP/2 with TLS."""
    log = folder / "h2load.log"
    log.unlink(missing_ok=True)
    options = [f"-H{name}: {value}" for name, value in headers.items()]
    command = ["h2load", "-t1", "-c8", "-m16", *options, url + path]
    if (server.pid, url, path, "h2") not in _warm:
        _warm.add((server.pid, url, path, "h2"))
        subprocess.run(pinned(1, [*command, "-n5000"]), capture_output=True, check=True)
    before = server.cpu_s()
    output = subprocess.run(
        pinned(1, [*command, f"-D{max(1, round(seconds))}", f"--log-file={log}"]),
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    after = server.cpu_s()
    rate = re.search(r"finished in [\d.]+\w+, ([\d.]+) req/s, ([\d.]+)(\w)?B/s", output)
    done = re.search(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed", output)
    if rate is None or done is None:
        raise RuntimeError(f"h2load says {output}")
    # Columns: start in µs, status, µs until the end of the answer.
    times_us = sorted(int(line.split(b"\t")[2]) for line in log.read_bytes().splitlines())
    requests = int(done[1])
    return Sample(
        requests_per_s=float(rate[1]),
        mb_per_s=float(rate[2]) * {"K": 1e-3, "M": 1, "G": 1e3}.get(rate[3] or "", 1e-6),
        p50_ms=_percentile(times_us, 0.5) / 1000,
        p99_ms=_percentile(times_us, 0.99) / 1000,
        cpu_us=_each_us(before, after, requests),
        mib=server.resident_mib(),
        failed=int(done[3]),
    )


def _percentile(ordered: Sequence[int], share: float) -> int:
    return ordered[int(len(ordered) * share)] if ordered else 0


def _each_us(before_s: float | None, after_s: float | None, requests: int) -> float | None:
    if before_s is None or after_s is None:
        return None
    return (after_s - before_s) / max(1, requests) * 1e6
