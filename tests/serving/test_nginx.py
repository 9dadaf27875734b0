"""`deploy/nginx.conf` as it is, in a real nginx, with real cargo; and the counts from its log."""

import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving.served import Cargo, Serve, Served, package, run, until

CONF = Path(__file__).parents[2] / "deploy" / "nginx.conf"
SETTINGS = """
[server]
url = "https://localhost:{port}"
trusted_proxies = ["127.0.0.1"]
[registries.main]
[registries.secret]
access = "auth-required"
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Site:
    """nginx with a server behind it."""

    def __init__(self, served: Served, port: int, folder: Path, data: Path, certificate: Path) -> None:
        self.served, self.port, self.data, self.certificate = served, port, data, certificate
        self.url = f"https://localhost:{port}"
        self.log = folder / "log" / "downloads.log"
        self.http = httpx.Client(base_url=self.url, verify=False)


@pytest.fixture
def site(serve: Serve, tmp_path: Path) -> Iterator[Site]:
    if shutil.which("nginx") is None:
        pytest.skip("no nginx here")
    port, folder, data = free_port(), tmp_path / "nginx", tmp_path / "data"
    (folder / "log").mkdir(parents=True)
    served = serve("--bootstrap", "ann", "--self-signed", settings=SETTINGS.format(port=port))
    served.token()
    served.process.terminate()  # that was for the certificate
    assert served.process.wait(10) == 0
    behind = serve(settings=SETTINGS.format(port=port))
    certificate = data / "tls" / "self-signed.pem"
    text = CONF.read_text()
    for old, new in {
        "listen 443": f"listen 127.0.0.1:{port}",
        "https://crates.example.org": f"https://localhost:{port}",
        "/etc/letsencrypt/live/crates.example.org/fullchain.pem": str(certificate),
        "/etc/letsencrypt/live/crates.example.org/privkey.pem": str(certificate.with_suffix(".key")),
        "127.0.0.1:8000": f"127.0.0.1:{behind.port}",
        "/var/lib/cargo-registry": str(data),
        "/var/log/nginx": str(folder / "log"),
    }.items():
        assert old in text
        text = text.replace(old, new)
    dl = f"https://localhost:{port}/crates/secret/{{lowerprefix}}/{{crate}}/{{crate}}-{{version}}-{{sha256-checksum}}.crate"
    (data / "secret-config.json").write_text(
        json.dumps({"dl": dl, "api": f"https://localhost:{port}/secret", "auth-required": True})
    )
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi"))
    temporary += "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("uwsgi", "scgi"))
    user = "user root;" if os.getuid() == 0 else ""
    conf = folder / "nginx.conf"
    conf.write_text(
        f"{user} daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{text}\n}}"
    )
    process = subprocess.Popen(["nginx", "-c", str(conf), "-p", str(folder)], start_new_session=True)
    try:
        found = Site(behind, port, folder, data, certificate)
        found.served.token = served.token  # type: ignore[method-assign]
        until(lambda: can_connect(port))
        yield found
        found.http.close()
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def cargo_for(site: Site, folder: Path, path: str) -> Cargo:
    trust = f'[http]\ncainfo = "{site.certificate}"\n'
    return Cargo(folder, f"sparse+{site.url}{path}/index/", site.served.token(), more=trust)


@pytest.mark.parametrize("path", ["", "/secret"], ids=["public", "private"])
def test_cargo_publishes_through_nginx_and_reads_from_disk(site: Site, tmp_path: Path, path: str) -> None:
    cargo = cargo_for(site, tmp_path / "cargo", path)
    cargo.publish(tmp_path / "one", "one")
    two = tmp_path / "two"
    package(two, "two", '[dependencies]\none = { version = "1", registry = "main" }\n')
    # Neither index nor tarball comes from the server behind: with public ones it may be away.
    if not path:
        os.kill(site.served.process.pid, signal.SIGSTOP)
    cargo.run("fetch", at=two)
    os.kill(site.served.process.pid, signal.SIGCONT)
    registry = path.strip("/") or "main"
    until(lambda: f"/crates/{registry}/3/o/one/one-1.0.0-" in site.log.read_text())

    at = f"{path}/index/3/o/one"
    headers = {"authorization": site.served.token()} if path else {}
    before = site.http.get(at, headers=headers)
    assert before.status_code == 200
    unchanged = site.http.get(at, headers=headers | {"if-none-match": before.headers["etag"]})
    assert unchanged.status_code == 304
    config = ("--config", str(site.data.parent / "config.toml"))
    for command, said in (("yank", '"yanked":true'), ("unyank", '"yanked":false')):
        run(site.data, "crate", command, "one@1.0.0", "--registry", registry, *config)
        now = site.http.get(at, headers=headers | {"if-none-match": before.headers["etag"]})
        assert (now.status_code, said in now.text) == (200, True)
        before = now


def test_private_registry_is_closed_to_others(site: Site, tmp_path: Path) -> None:
    cargo_for(site, tmp_path / "cargo", "/secret").publish(tmp_path / "one", "one")
    (tarball,) = (site.data / "crates_storage" / "secret").rglob("*.crate")
    key = tarball.relative_to(site.data / "crates_storage").as_posix()
    for path in ("/secret/index/3/o/one", "/secret/index/config.json", f"/crates/{key}"):
        refused = site.http.get(path)
        assert refused.status_code == 401, path
        assert "login_url" in refused.headers["www-authenticate"]
        assert site.http.get(path, headers={"authorization": "wrong"}).status_code == 401
        assert site.http.get(path, headers={"authorization": site.served.token()}).status_code == 200
    for path in (
        "/index/../secret/index/3/o/one",
        "/crates/main/../secret/x",
        "/index/.locks/00",
        "/secret/admitted",
    ):
        assert site.http.get(path).status_code in (400, 401, 404), path
    run(site.data, "token", "revoke", "1", "--config", str(site.data.parent / "config.toml"))
    assert site.http.get(f"/crates/{key}", headers={"authorization": site.served.token()}).status_code == 401


def test_downloads_are_counted_from_the_log_once(site: Site, tmp_path: Path) -> None:
    cargo_for(site, tmp_path / "cargo", "").publish(tmp_path / "one", "one")
    (tarball,) = (site.data / "crates_storage" / "main").rglob("*.crate")
    path = "/crates/" + tarball.relative_to(site.data / "crates_storage").as_posix()
    for _ in range(3):
        assert site.http.get(path).status_code == 200
    site.http.head(path)
    site.http.get(path, headers={"range": "bytes=0-3"})
    site.http.get(path.replace("one-1.0.0", "one-1.0.1"))
    until(lambda: site.log.read_text().count("\n") == 6)
    gone = site.log.read_text().splitlines()[0].replace("one-1.0.0", "one-9.9.9")
    rotated = tmp_path / "downloads.log.1.gz"
    rotated.write_bytes(gzip.compress((site.log.read_text() + gone + "\nnot a line\n").encode()))

    config = ("--config", str(site.data.parent / "config.toml"))
    said = json.loads(run(site.data, "downloads", "import-log", str(rotated), "--json", *config))
    assert said == {"downloads": 3, "unknown": 1}
    shown = site.http.get("/api/v1/crates/one").json()
    assert shown["crate"]["downloads"] == 3
    again = subprocess.run(
        [
            *[sys.executable, "-m", "cargo_registry", "downloads", "import-log"],
            str(rotated),
            "--data-dir",
            str(site.data),
            *config,
        ],
        capture_output=True,
        text=True,
    )
    assert (again.returncode, "counted before" in again.stderr) == (1, True)


def test_days_are_those_of_utc(serve: Serve, tmp_path: Path) -> None:
    served = serve("--bootstrap", "ann")
    Cargo(tmp_path / "cargo", f"sparse+{served.url}/index/", served.token()).publish(tmp_path / "one", "one")
    day = time.strftime("%d/%b/%Y", time.gmtime())
    yesterday = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 86400))
    log = tmp_path / "access.log"
    request = f'"GET /x/main/3/o/one/one-1.0.0-{"a" * 64}.crate HTTP/2.0" 200 900'
    log.write_text(f'1.2.3.4 - - [{day}:00:30:00 +0100] {request} "-" "cargo/1.95.0"\n')
    assert run(tmp_path / "data", "downloads", "import-log", str(log)).startswith("1 downloads counted; 0 ")
    counts = json.loads(served.ask("/api/v1/crates/one/downloads")[2])
    assert [each["date"] for each in counts["version_downloads"]] == [yesterday]
