"""HTTPS by the server itself: `[server.tls]`, `serve --self-signed`, renewed certificates, real cargo over HTTP/2."""

import contextlib
import os
import shutil
import signal
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.serving.served import Cargo, Serve, package, until

BOTH = pytest.mark.parametrize("implementation", ["granian", "uvicorn"])
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
needs_cargo = pytest.mark.skipif(shutil.which("cargo") is None, reason="no cargo here")


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


def test_headers_over_http2_are_limited(serve: Serve) -> None:
    """As granian says itself in its first frame; those of 200 requests at a time could be 3 GiB otherwise."""
    served = serve("--self-signed")
    with served.handshake(["h2"]) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
        head = connection.recv(9)
        size, kind = int.from_bytes(head[:3], "big"), head[3]
        settings = connection.recv(size)
    assert kind == 4, "a server begins with SETTINGS"
    pairs = [settings[at : at + 6] for at in range(0, len(settings), 6)]
    said = {int.from_bytes(pair[:2], "big"): int.from_bytes(pair[2:], "big") for pair in pairs}
    assert said[6] == 64 * 1024


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
        assert sum(line.startswith("error: ") for line in error.splitlines()) == 1


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
    served = serve("--self-signed", "--bootstrap", "ann")
    trust = f'[http]\ncainfo = "{tmp_path}/data/tls/self-signed.pem"\ndebug = true\n'
    index = f"sparse+{served.url}/index/"
    cargo = Cargo(tmp_path / "cargo", index, served.token(), more=trust, toolchain=toolchain)
    cargo.publish(tmp_path / "one", "one")
    two = tmp_path / "two"
    package(two, "two", '[dependencies]\none = { version = "1", registry = "main" }\n')
    assert "HTTP/2" in cargo.run("fetch", at=two, CARGO_LOG="network=debug")
    cargo.run("publish", "--registry", "main", "--no-verify", at=two)
