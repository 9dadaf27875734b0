"""HTTPS by the server itself: `[server.tls]`, `serve --self-signed`, renewed certificates, real cargo over HTTP/2."""

import contextlib
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

BOTH = pytest.mark.parametrize("implementation", ["granian", "uvicorn"])
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
needs_cargo = pytest.mark.skipif(shutil.which("cargo") is None, reason="no cargo here")


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


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, settings: str = "") -> Served:
        config = tmp_path / "config.toml"
        config.write_text(settings)
        stderr = tmp_path / f"stderr {len(started)}"
        command = [sys.executable, "-m", "cargo_registry", "serve", "--port", "0", "--config", str(config)]
        with stderr.open("wb") as file:
            process = subprocess.Popen(
                [*command, "--data-dir", str(tmp_path / "data"), *arguments],
                stdout=subprocess.PIPE,
                stderr=file,
                start_new_session=True,
            )
        started.append(process)
        return Served(process, stderr)

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


# What certbot, older openssl and `openssl ecparam` write.
KEYS = {
    "pkcs8 ec": "openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt",
    "sec1": "openssl ecparam -name prime256v1 -genkey -noout",
    "pkcs1": "openssl genrsa -traditional 2048",
    "pkcs8 rsa": "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048",
}


def make_pair(folder: Path, key: str = KEYS["sec1"], name: str = "server") -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    made = subprocess.run(key, shell=True, check=True, capture_output=True)
    paths[1].write_bytes(made.stdout)
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        ["openssl", "req", "-x509", "-days", "3", "-key", str(paths[1]), "-out", str(paths[0]), *subject],
        check=True,
        capture_output=True,
    )
    return paths


def tls_settings(certificate: Path, key: Path, more: str = "") -> str:
    return f'[server.tls]\ncertificate = "{certificate}"\nkey = "{key}"\n{more}\n'


def until(claim: Callable[[], bool], within_s: float = 25) -> None:
    end = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.05)


@needs_openssl
@BOTH
@pytest.mark.parametrize("kind", KEYS)
def test_any_kind_of_key_serves(serve: Serve, tmp_path: Path, implementation: str, kind: str) -> None:
    certificate, key = make_pair(tmp_path / "pair", KEYS[kind])
    served = serve("--server", implementation, settings=tls_settings(certificate, key))
    assert served.url.startswith("https://127.0.0.1:"), served.stderr()
    with served.handshake(["h2", "http/1.1"], trusted=certificate) as connection:
        assert connection.selected_alpn_protocol() == ("h2" if implementation == "granian" else "http/1.1")
    with served.handshake(["http/1.1"]) as connection:
        assert connection.selected_alpn_protocol() == "http/1.1"
        connection.sendall(b"GET /index/config.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(9999), b""))
    assert served.url.encode() in answer


@needs_openssl
@BOTH
@pytest.mark.parametrize(("oldest", "may"), [("1.2", True), ("1.3", False)])
def test_oldest_version_is_as_set(
    serve: Serve, tmp_path: Path, implementation: str, oldest: str, may: bool
) -> None:
    settings = tls_settings(*make_pair(tmp_path / "pair"), f'min_version = "{oldest}"')
    served = serve("--server", implementation, settings=settings)
    with contextlib.ExitStack() as stack:
        if not may:
            stack.enter_context(pytest.raises(ssl.SSLError))
        served.handshake(newest=ssl.TLSVersion.TLSv1_2).close()
    served.handshake().close()


@needs_openssl
@BOTH
@pytest.mark.parametrize("asked", [True, False], ids=["SIGHUP", "file change"])
def test_renewed_certificate_is_shown_without_a_restart(
    serve: Serve, tmp_path: Path, implementation: str, asked: bool
) -> None:
    certificate, key = make_pair(tmp_path / "pair")
    served = serve("--server", implementation, "--workers", "2", settings=tls_settings(certificate, key))
    old = served.certificate()
    # It waits for a request of its own while the certificate changes, and is answered.
    waiting = served.handshake(["http/1.1"])
    waiting.sendall(b"GET /index/config.json HTTP/1.1\r\nHost: x\r\n")

    new = make_pair(tmp_path / "pair", name="new")
    new[0].replace(certificate)
    if asked:
        # Half a renewal is not used, and does no harm.
        os.kill(served.process.pid, signal.SIGHUP)
        until(lambda: "the old one stays in use" in served.stderr())
        assert served.certificate() == old
    new[1].replace(key)
    if asked:
        os.kill(served.process.pid, signal.SIGHUP)
    until(lambda: served.stderr().count("is used from now on") == 2)
    until(lambda: all(served.certificate() != old for _ in range(8)))

    waiting.sendall(b"Connection: close\r\n\r\n")
    assert waiting.recv(100).startswith(b"HTTP/1.1 200")
    waiting.close()
    served.process.terminate()
    assert served.process.wait(10) == 0
    assert "Traceback" not in served.stderr()


@needs_openssl
def test_what_cannot_be_used_is_refused_in_one_sentence(serve: Serve, tmp_path: Path) -> None:
    certificate, key = make_pair(tmp_path / "pair")
    other, _ = make_pair(tmp_path / "pair", name="other")
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "pkey", "-in", key, "-aes128", "-passout", "pass:x", "-out", locked], check=True
    )
    empty = tmp_path / "empty.pem"
    empty.touch()
    for pair, words in [
        ((other, key), "does not belong to the certificate"),
        ((certificate, locked), "is encrypted"),
        ((certificate, empty), "holds no private key"),
        ((empty, key), "holds no certificate"),
        ((tmp_path / "missing", key), "No such file"),
    ]:
        served = serve(settings=tls_settings(*pair))
        assert served.process.wait(10) == 1
        error = served.stderr()
        assert words in error
        assert "Traceback" not in error
        assert error.count("\n") == 1


def test_self_signed_certificate_is_kept_and_fits_this_machine(serve: Serve, tmp_path: Path) -> None:
    certificates = []
    for _ in range(2):
        served = serve("--self-signed")
        certificate = tmp_path / "data" / "tls" / "self-signed.pem"
        until(lambda: f'cainfo = "{certificate}"' in served.stderr())  # noqa: B023
        served.handshake(trusted=certificate).close()
        certificates.append(served.certificate())
    assert certificates[0] == certificates[1]
    assert (tmp_path / "data" / "tls" / "self-signed.key").stat().st_mode & 0o077 == 0


@needs_cargo
@pytest.mark.parametrize("toolchain", ["stable", "nightly"])
def test_cargo_publishes_and_fetches_over_http2(serve: Serve, tmp_path: Path, toolchain: str) -> None:
    rustup = shutil.which("rustup")
    if rustup is None or toolchain not in subprocess.check_output([rustup, "toolchain", "list"], text=True):
        pytest.skip(f"no {toolchain} toolchain here")
    served = serve("--self-signed", "--bootstrap", "ann")
    until(lambda: "crg_" in served.stderr())
    token = next(line.strip() for line in served.stderr().splitlines() if line.strip().startswith("crg_"))
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[registries.main]\nindex = "sparse+{served.url}/index/"\n'
        f'[http]\ncainfo = "{tmp_path}/data/tls/self-signed.pem"\ndebug = true\n'
    )
    environment = {
        **os.environ,
        "CARGO_HOME": str(home),
        "CARGO_REGISTRIES_MAIN_TOKEN": token,
        "CARGO_LOG": "network=debug",
    }

    def cargo(*arguments: str, at: Path) -> str:
        command = ["cargo", f"+{toolchain}", *arguments]
        done = subprocess.run(command, cwd=at, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr

    package(tmp_path / "one", "one", "")
    cargo("publish", "--registry", "main", "--no-verify", at=tmp_path / "one")
    package(tmp_path / "two", "two", '[dependencies]\none = { version = "1", registry = "main" }\n')
    said = cargo("fetch", at=tmp_path / "two")
    assert "HTTP/2" in said
    cargo("publish", "--registry", "main", "--no-verify", at=tmp_path / "two")


def package(folder: Path, name: str, more: str) -> None:
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "lib.rs").write_text("")
    (folder / "Cargo.toml").write_text(
        f'[package]\nname = "{name}"\nversion = "1.0.0"\nedition = "2021"\ndescription = "x"\nlicense = "MIT"\n'
        f"{more}"
    )
