"""Ahead of time: what a lock file, a vendor folder or a list names is there before anybody asks."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.mirror.conftest import MakeMirror
from tests.mirror.upstream import Upstream
from tests.programs import Server

CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"


def lock(upstream: Upstream, *packages: tuple[str, str], source: str = CRATES_IO) -> str:
    """Return a lock file as cargo writes it."""
    text = 'version = 4\n\n[[package]]\nname = "app"\nversion = "0.1.0"\n'
    for name, vers in packages:
        line = json.loads(upstream.lines[name].get(vers, b'{"cksum": "%s"}' % (b"0" * 64)))
        text += f'\n[[package]]\nname = "{name}"\nversion = "{vers}"\nsource = "{source}"\n'
        text += f'checksum = "{line["cksum"]}"\n'
    return text


def dep(name: str, req: str = "^1", **more: object) -> dict[str, object]:
    return {
        "name": name,
        "req": req,
        "features": [],
        "optional": False,
        "default_features": True,
        "target": None,
        "kind": "normal",
    } | more


def stored(mirror: Server) -> set[str]:
    return {
        file.name.rpartition("-")[0] for file in mirror.data_dir.glob("crates_storage/crates-io/**/*.crate")
    }


@pytest.fixture
def mirror(upstream: Upstream, make_mirror: MakeMirror) -> Server:
    upstream.add("a", "1.0.0", deps=[dep("b"), dep("dev", kind="dev"), dep("build", kind="build")])
    upstream.add("b", "1.0.0")
    upstream.add("b", "1.2.0", deps=[dep("win", target="cfg(windows)"), dep("alias", package="real")])
    upstream.add("b", "1.3.0", yanked=True)
    upstream.add("b", "2.0.0")
    for name in ("dev", "build", "win", "real"):
        upstream.add(name, "1.0.0")
    return make_mirror(upstream)


def test_lock_file_is_fetched_and_a_second_run_has_it(
    upstream: Upstream, mirror: Server, tmp_path: Path
) -> None:
    file = tmp_path / "Cargo.lock"
    file.write_text(lock(upstream, ("a", "1.0.0"), ("b", "1.0.0")))

    first = json.loads(mirror.cli("mirror", "prefetch", "--lockfile", file, "--json").stdout)
    second = json.loads(mirror.cli("mirror", "prefetch", "--lockfile", file, "--json").stdout)

    assert (first["had"], first["fetched"], first["missing"]) == (0, 2, [])
    assert (second["had"], second["fetched"], second["missing"]) == (2, 0, [])
    assert stored(mirror) == {"a-1.0.0", "b-1.0.0"}
    assert upstream.count("/download") == 2
    # And the server serves them, without asking.
    upstream.asked.clear()
    mirror.http.get("/api/v1/crates/a/1.0.0/download").raise_for_status()
    assert upstream.asked == []


def test_what_is_missing_is_told_with_why(upstream: Upstream, mirror: Server, tmp_path: Path) -> None:
    file = tmp_path / "Cargo.lock"
    text = lock(upstream, ("a", "1.0.0"), ("b", "7.0.0"), ("nowhere", "1.0.0"), ("real", "1.0.0"))
    cksum = json.loads(upstream.lines["real"]["1.0.0"])["cksum"]
    file.write_text(text.replace(cksum, "f" * 64))
    mirror.cli("mirror", "deny", "a", "--reason", "tested")

    report = mirror.cli("mirror", "prefetch", "--lockfile", file, fails=True)

    assert "missing a 1.0.0: " in report.stdout
    assert "mirror deny" in report.stdout
    assert "missing b 7.0.0: " in report.stdout
    assert "missing nowhere 1.0.0: " in report.stdout
    assert "missing real 1.0.0: " in report.stdout
    assert "checksum" in report.stdout
    assert "had 0, fetched 0 " in report.stderr
    assert "missing 4" in report.stderr


def test_crate_with_dependencies(mirror: Server) -> None:
    mirror.cli("mirror", "prefetch", "b@1.0")
    assert stored(mirror) == {"b-1.2.0"}
    mirror.cli("mirror", "prefetch", "a", "--with-dependencies")

    assert stored(mirror) == {"a-1.0.0", "b-1.2.0", "build-1.0.0", "win-1.0.0", "real-1.0.0"}


def test_optional_dependency_that_is_missing_is_no_failure(upstream: Upstream, mirror: Server) -> None:
    upstream.add("c", "1.0.0", deps=[dep("nowhere", optional=True), dep("real", optional=True)])

    report = json.loads(mirror.cli("mirror", "prefetch", "c", "--with-dependencies", "--json").stdout)

    assert [(each["name"], each["optional"]) for each in report["missing"]] == [("nowhere", True)]
    assert stored(mirror) == {"c-1.0.0", "real-1.0.0"}


def test_vendor_folder(upstream: Upstream, mirror: Server, tmp_path: Path) -> None:
    for name in ("a", "real"):
        folder = tmp_path / "vendor" / name
        folder.mkdir(parents=True)
        (folder / "Cargo.toml").write_text(f'[package]\nname = "{name}"\nversion = "1.0.0"\n')
        cksum = json.loads(upstream.lines[name]["1.0.0"])["cksum"]
        (folder / ".cargo-checksum.json").write_text(json.dumps({"files": {}, "package": cksum}))

    mirror.cli("mirror", "prefetch", "--vendor", tmp_path / "vendor")

    assert stored(mirror) == {"a-1.0.0", "real-1.0.0"}


def test_lock_file_can_be_uploaded(upstream: Upstream, mirror: Server) -> None:
    text = lock(upstream, ("a", "1.0.0"), ("nowhere", "1.0.0"))
    url = "/api/v1/mirror/prefetch"

    assert mirror.http.post(url, content=text).status_code == 401
    token = {"authorization": mirror.token("ada")}
    answer = mirror.http.post(url, content=text, headers=token)
    assert answer.status_code == 200
    assert (answer.json()["had"], answer.json()["fetched"]) == (0, 1)
    assert [each["name"] for each in answer.json()["missing"]] == ["nowhere"]
    assert mirror.http.post(url, content="no lock file = =", headers=token).status_code == 400


def test_refresh_by_command_and_api_does_not_wait_for_max_age(upstream: Upstream, mirror: Server) -> None:
    mirror.http.get("/index/3/w/win").raise_for_status()
    upstream.add("win", "1.0.1")
    mirror.cli("mirror", "refresh", "win")
    assert mirror.http.get("/index/3/w/win").content == upstream.index_file("win")
    upstream.add("win", "1.0.2")
    token = {"authorization": mirror.token("ada")}
    answer = mirror.http.post("/api/v1/mirror/refresh", json={"crates": ["win"]}, headers=token)
    assert answer.json() == {"refreshed": ["win"], "failed": []}
    assert mirror.http.get("/index/3/w/win").content == upstream.index_file("win")

    upstream.stop()
    assert "win" in mirror.cli("mirror", "refresh", "win", fails=True).stdout
    upstream.start()


def test_verify_finds_wrong_bytes_which_are_not_served_and_fetched_again(
    upstream: Upstream, mirror: Server
) -> None:
    mirror.cli("mirror", "prefetch", "a", "b")
    assert "2 tarballs read, 0 are wrong" in mirror.cli("mirror", "verify").stderr
    (file,) = mirror.data_dir.glob("crates_storage/crates-io/1/a/*.crate")
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    assert "a@1.0.0" in mirror.cli("mirror", "verify", fails=True).stdout
    assert mirror.http.get("/api/v1/crates/a/1.0.0/download").content == data
    assert "2 tarballs read, 0 are wrong" in mirror.cli("mirror", "verify").stderr


def test_gc_removes_what_is_longest_unused_and_it_comes_back(upstream: Upstream, mirror: Server) -> None:
    mirror.cli("mirror", "prefetch", "a", "real")
    (old,) = mirror.data_dir.glob("crates_storage/crates-io/1/a/*.crate")
    subprocess.run(["touch", "-d", "100 days ago", old], check=True)

    assert "would be removed" in mirror.cli("mirror", "gc", "--unused", "90d", "--dry-run").stderr
    assert stored(mirror) == {"a-1.0.0", "real-1.0.0"}
    mirror.cli("mirror", "gc", "--unused", "90d", "--max-size", "200G")
    assert stored(mirror) == {"real-1.0.0"}
    assert [crate["name"] for crate in mirror.http.get("/api/v1/crates").json()["crates"]] == ["real"]
    mirror.http.get("/api/v1/crates/a/1.0.0/download").raise_for_status()
    assert stored(mirror) == {"a-1.0.0", "real-1.0.0"}
    mirror.cli("mirror", "gc", "--max-size", "0K")
    assert stored(mirror) == set()

    status = json.loads(mirror.cli("mirror", "status", "--json").stdout)
    assert (status["crates"], status["tarballs"], status["bytes"]) == (2, 0, 0)
