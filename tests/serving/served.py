"""`cargo-registry serve` as people run it: a process on a free port, and real cargo."""

import contextlib
import http.client
import os
import select
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest


class Served:
    """`cargo-registry serve` on a free port."""

    def __init__(self, process: subprocess.Popen[bytes], stderr: Path) -> None:
        self.process = process
        self._stderr = stderr
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], 20)
        line = os.read(process.stdout.fileno(), 1000).decode() if readable else ""
        self.url = line.removeprefix("listening on ").strip()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stderr(self) -> str:
        return self._stderr.read_text()

    def token(self) -> str:
        """Return the token that `--bootstrap` showed."""
        until(lambda: "crg_" in self.stderr())
        return next(line.strip() for line in self.stderr().splitlines() if line.strip().startswith("crg_"))

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, /, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers in lower case, and body; over plain HTTP."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders() if name.lower() != "date"}
            return response.status, fields, response.read()

    def handshake(
        self,
        alpn: list[str] | None = None,
        trusted: Path | None = None,
        newest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
    ) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=trusted)
        if trusted is None:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = newest
        if alpn:
            context.set_alpn_protocols(alpn)
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        return context.wrap_socket(plain, server_hostname="127.0.0.1")

    def certificate(self) -> bytes:
        with self.handshake() as connection:
            return connection.getpeercert(binary_form=True) or b""


Serve = Callable[..., Served]


def until(claim: Callable[[], bool], within_s: float = 25) -> None:
    end = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.05)


def package(folder: Path, name: str, more: str = "", vers: str = "1.0.0") -> None:
    """Make a package for cargo."""
    (folder / "src").mkdir(parents=True, exist_ok=True)
    (folder / "src" / "lib.rs").write_text("")
    (folder / "Cargo.toml").write_text(
        f'[package]\nname = "{name}"\nversion = "{vers}"\nedition = "2021"\ndescription = "x"\nlicense = "MIT"\n'
        f"{more}"
    )


def run(data: Path, *arguments: str) -> str:
    """Run a command on the data beside a running server; return its stdout."""
    command = [sys.executable, "-m", "cargo_registry", *arguments, "--data-dir", str(data)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Cargo:
    """Real cargo with a home of its own, whose registry is `index`."""

    def __init__(
        self, folder: Path, index: str, token: str, *, more: str = "", toolchain: str = "stable"
    ) -> None:
        rustup = shutil.which("rustup")
        if rustup is None or toolchain not in subprocess.check_output(
            [rustup, "toolchain", "list"], text=True
        ):
            pytest.skip(f"no {toolchain} toolchain here")
        self._command = ["cargo", f"+{toolchain}"]
        home = folder / "home"
        home.mkdir(parents=True)
        (home / "config.toml").write_text(
            f'[registries.main]\nindex = "{index}"\n'
            f'[registry]\nglobal-credential-providers = ["cargo:token"]\n{more}'
        )
        self._environment = {**os.environ, "CARGO_HOME": str(home), "CARGO_REGISTRIES_MAIN_TOKEN": token}

    def run(self, *arguments: str, at: Path, **environment: str) -> str:
        """Return what it says on stderr."""
        done = subprocess.run(
            [*self._command, *arguments],
            cwd=at,
            env={**self._environment, **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    def publish(self, folder: Path, name: str, more: str = "", vers: str = "1.0.0") -> None:
        """Publish a small crate."""
        package(folder, name, more, vers)
        self.run("publish", "--registry", "main", "--no-verify", "--allow-dirty", at=folder)
