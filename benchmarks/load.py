"""The load tools: wrk for HTTP/1.1, h2load for HTTP/2; each run gives one Sample."""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import Server, pinned

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
    p50_ms: float | None
    p99_ms: float | None
    cpu_us: float  # of the server, per request
    failed: int


# What has been asked for before, and so lies in all the caches it can lie in.
_warm: set[tuple[int, str, str, str]] = set()


def missing() -> list[str]:
    """Return how to get the tools that are not here."""
    wanted = {"nginx": "nginx-light", "wrk": "wrk", "h2load": "nghttp2-client", "cc": "gcc"}
    return [
        f"{tool}: apt-get install {package}" for tool, package in wanted.items() if not shutil.which(tool)
    ]


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


def wrk(
    server: Server,
    url: str,
    paths: Sequence[str],
    headers: Mapping[str, str],
    folder: Path,
    *,
    seconds: float,
    connections: int = 32,
) -> Sample:
    """Ask for the paths in turn over HTTP/1.1 and return what came of it. 404s are no failures."""
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
    cpu_s = server.cpu_s() - before
    said = json.loads(output[output.index("RESULT") + 6 :])
    return Sample(
        requests_per_s=said["requests"] / said["us"] * 1e6,
        mb_per_s=said["bytes"] / said["us"],
        p50_ms=said["p50"] / 1000,
        p99_ms=said["p99"] / 1000,
        cpu_us=cpu_s / max(1, said["requests"]) * 1e6,
        failed=said["failed"],
    )


def h2load(server: Server, url: str, path: str, headers: Mapping[str, str], *, seconds: float) -> Sample:
    """Ask for one path over HTTP/2 with TLS."""
    options = [f"-H{name}: {value}" for name, value in headers.items()]
    command = ["h2load", "-t1", "-c8", "-m16", *options, url + path]
    subprocess.run(pinned(1, [*command, "-n5000"]), capture_output=True, check=True)
    before = server.cpu_s()
    output = subprocess.run(
        pinned(1, [*command, f"-D{max(1, round(seconds))}"]), capture_output=True, check=True, text=True
    ).stdout
    cpu_s = server.cpu_s() - before
    rate = re.search(r"finished in [\d.]+\w+, ([\d.]+) req/s, ([\d.]+)(\w)?B/s", output)
    done = re.search(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed", output)
    if rate is None or done is None:
        raise RuntimeError(f"h2load says {output}")
    requests = int(done[1])
    return Sample(
        requests_per_s=float(rate[1]),
        mb_per_s=float(rate[2]) * {"K": 1e-3, "M": 1, "G": 1e3}.get(rate[3] or "", 1e-6),
        p50_ms=None,
        p99_ms=None,
        cpu_us=cpu_s / max(1, requests) * 1e6,
        failed=int(done[3]),
    )
