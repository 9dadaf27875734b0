"""nginx and our server as processes: started, pinned to a core, and asked what they use."""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

# `main` stands in for crates.io, so that real crates fit in, which name no other registry.
REGISTRIES = (
    '[registries.main]\naliases = ["https://github.com/rust-lang/crates.io-index"]\n'
    '[registries.closed]\naccess = "auth-required"\n'
)

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class Watched:
    """A process with its children, asked what they use. Without a pid nothing is known: None is said."""

    def __init__(self, pid: int | None, urls: Mapping[str, str]) -> None:
        self.pid = pid
        self.urls = urls

    def cpu_s(self) -> float | None:
        """Return the CPU time of all its processes so far, those included that have ended since."""
        if self.pid is None:
            return None
        ticks = 0
        for pid in _tree(self.pid):
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))
        return ticks / CLOCK_TICKS

    def resident_mib(self) -> float | None:
        """Return the memory of all its processes, shared pages divided among those who share them."""
        return None if self.pid is None else sum(map(_pss, _tree(self.pid))) / 1024


class Server(Watched):
    """A server that was started here."""

    def __init__(self, process: subprocess.Popen[bytes], urls: Mapping[str, str]) -> None:
        super().__init__(process.pid, urls)
        self._process = process

    def memory_mib(self) -> float:
        """Return the memory of all its processes, shared pages divided among those who share them."""
        return sum(map(_pss, _tree(self._process.pid))) / 1024

    def largest_mib(self) -> float:
        """Return the memory of its largest process."""
        return max(map(_pss, _tree(self._process.pid))) / 1024

    def stop(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(15)
        except BaseException as error:
            for pid in reversed(_tree(self._process.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise


def _tree(pid: int) -> list[int]:
    pids = [pid]
    for each in pids:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{each}/task"):
                pids += map(int, Path(f"/proc/{each}/task/{task}/children").read_text().split())
    return pids


def _pss(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def pinned(core: int | None, command: Sequence[str]) -> list[str]:
    """Return the command, kept on one core where the machine has several."""
    if core is None or (os.cpu_count() or 1) < 2 or not shutil.which("taskset"):
        return list(command)
    return ["taskset", "-c", str(core), *command]


@contextlib.contextmanager
def ours(
    root: Path,
    *arguments: str,
    settings: str = "",
    core: int | None = 0,
    preload: Path | None = None,
    prefix: Sequence[str] = (),
) -> Iterator[Server]:
    """Run `cargo-registry serve` on a data folder and a free port."""
    config = root.parent / f"{root.name}.toml"
    config.write_text(f"{REGISTRIES}[limits]\nrate_limits = false\n[upkeep]\nverify_days = 0\n{settings}")
    command = [sys.executable, "-m", "cargo_registry", "serve", "--port", "0", "--config", str(config)]
    environment = dict(os.environ) | ({"LD_PRELOAD": str(preload)} if preload else {})
    with (root.parent / f"{root.name}.log").open("ab") as log:
        process = subprocess.Popen(
            [*prefix, *pinned(core, command), "--data-dir", str(root), *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
        )
    assert process.stdout is not None
    server = Server(process, {})
    try:
        if not select.select([process.stdout], [], [], 120)[0]:
            raise RuntimeError("the server did not start")
        line = process.stdout.readline().decode()
        url = line.removeprefix("listening on ").strip()
        if not url:
            raise RuntimeError(f"the server did not start; see {log.name}")
        server.urls = {"http": url, "h1": url, "h2": url}
        yield server
    finally:
        server.stop()


_NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; gzip off; etag on;
  default_type text/plain; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{http}; {every}
  }}
  server {{
    listen 127.0.0.1:{tls} ssl http2; http2_max_concurrent_streams 256;
    ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;
    {every}
  }}
  server {{
    listen 127.0.0.1:{open_file_cache}; open_file_cache max=100000; {every}
  }}
}}
"""


@contextlib.contextmanager
def nginx(
    root: Path,
    folder: Path,
    certificate: Path,
    private_key: Path,
    listen: str = "127.0.0.1",
    core: int | None = 0,
    prefix: Sequence[str] = (),
    secure: bool = True,
) -> Iterator[Server]:
    """Run nginx on the same files, as the targets describe it; `secure` is whether cargo is to download by TLS."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = {"http": free_port(), "tls": free_port(), "open_file_cache": free_port()}
    key = "{lowerprefix}/{crate}/{crate}-{version}-{sha256-checksum}.crate"
    site = f"https://{listen}:{ports['tls']}" if secure else f"http://{listen}:{ports['http']}"
    dl = f"{site}/crates/main/{key}"
    every = (
        f'location = /index/config.json {{ return 200 \'{{"dl":"{dl}"}}\'; }} '
        f"location /index/ {{ alias {root}/index_data/main/; }} "
        f"location /crates/ {{ alias {root}/crates_storage/; }}"
    )
    config = folder / "nginx.conf"
    text = _NGINX.format(folder=folder, certificate=certificate, key=private_key, every=every, **ports)
    config.write_text(("user root;" if os.getuid() == 0 else "") + text.replace("127.0.0.1", listen))
    command = [*prefix, *pinned(core, ["nginx", "-c", str(config), "-p", str(folder)])]
    process = subprocess.Popen(command)
    urls = {
        "http": f"http://{listen}:{ports['http']}",
        "h1": f"https://{listen}:{ports['tls']}",
        "h2": f"https://{listen}:{ports['tls']}",
        "open_file_cache": f"http://{listen}:{ports['open_file_cache']}",
    }
    server = Server(process, urls)
    try:
        time.sleep(0.5)
        if process.poll() is not None:
            raise RuntimeError("nginx did not start; it says why above")
        yield server
    finally:
        server.stop()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
