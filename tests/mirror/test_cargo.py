"""Real cargo through a mirror: the real crates, cold and warm, with and without an upstream, and under rules."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.mirror.conftest import MakeMirror
from tests.mirror.nginx import Nginx
from tests.mirror.upstream import Upstream
from tests.programs import Cargo, Server


def replace(cargo: Cargo, mirror: Server) -> None:
    """Ask the mirror whenever cargo would ask crates.io, as the docs say."""
    cargo.configure(mirror.cli("client-config", "--replace-crates-io").stdout)


def anew(cargo: Cargo) -> None:
    """Forget all that cargo has fetched."""
    shutil.rmtree(cargo.home / "registry", ignore_errors=True)


def fetched(cargo: Cargo) -> int:
    return len(list(cargo.home.glob("registry/cache/*/*.crate")))


def test_real_crates_cold_warm_without_upstream_and_offline(
    cargo: Cargo, data: Path, tmp_path: Path, make_mirror: MakeMirror
) -> None:
    large = Path(shutil.copytree(data / "apps/large", tmp_path / "large"))
    small = Path(shutil.copytree(data / "apps/small", tmp_path / "small"))
    with Nginx(tmp_path / "nginx", data) as upstream:
        mirror = make_mirror(upstream.index_url)
        replace(cargo, mirror)
        cargo("fetch", "--locked", cwd=large)
        assert fetched(cargo) == 338
        # Half of the small program's crates are not in the large one's lock: that half comes now.
        cargo("fetch", "--locked", cwd=small)
        asked = upstream.asked()
        assert max(asked.values()) == 1, asked.most_common(3)

        anew(cargo)
        cargo("fetch", "--locked", cwd=large)
        assert fetched(cargo) == 338
        tarballs = {path: count for path, count in upstream.asked().items() if path.startswith("/crates/")}
        assert set(tarballs.values()) == {1}

    anew(cargo)
    cargo("build", "--locked", cwd=small)
    done = subprocess.run(
        [small / "target/debug/tally"],
        input='{"name": "a", "amount": 3}\n',
        capture_output=True,
        text=True,
        check=True,
    )
    assert "3" in done.stdout
    mirror.stop()

    mirror = make_mirror(upstream.index_url, "offline = true")
    cargo.home.joinpath("config.toml").unlink()
    replace(cargo, mirror)
    anew(cargo)
    cargo("fetch", "--locked", cwd=large)
    assert fetched(cargo) == 338


def test_upstream_killed_half_way(cargo: Cargo, data: Path, tmp_path: Path, make_mirror: MakeMirror) -> None:
    app = Path(shutil.copytree(data / "apps/small", tmp_path / "small"))
    with Nginx(tmp_path / "nginx", data) as upstream:
        mirror = make_mirror(upstream.index_url, "max_age = 0")
        replace(cargo, mirror)
        mirror.cli("mirror", "prefetch", "serde", "libc")
    failed = cargo("fetch", "--locked", cwd=app, fails=True, env={"CARGO_NET_RETRY": "0"})
    assert "503" in failed
    with Nginx(tmp_path / "nginx", data, port=upstream.port):
        # No waiting but what cargo does by itself.
        cargo("fetch", "--locked", cwd=app)


def test_rules_and_takedowns_seen_through_cargo(
    cargo: Cargo, upstream: Upstream, make_mirror: MakeMirror
) -> None:
    for vers in ("1.0.0", "1.1.0", "1.2.0"):
        upstream.add("dep", vers)
    upstream.add("young", "0.1.0")
    upstream.add("young", "0.2.0", pubtime="2999-01-01T00:00:00Z")
    mirror = make_mirror(upstream, "max_age = 0", 'min_age = 86400\ndeny = ["dep@=1.2.0"]')
    replace(cargo, mirror)
    app = cargo.new("app", deps={"dep": "{ version = '1' }", "young": "{ version = '>=0.1' }"})

    cargo("fetch", cwd=app)
    lock = (app / "Cargo.lock").read_text()
    assert (
        'name = "dep"\nversion = "1.1.0"\nsource = "registry+https://github.com/rust-lang/crates.io-index"'
        in lock
    )
    assert 'name = "young"\nversion = "0.1.0"' in lock

    # Upstream yanks it: no new resolution takes it. Then it is removed, as malicious crates are.
    upstream.change("dep", "1.1.0", yanked=True)
    (app / "Cargo.lock").unlink()
    cargo("fetch", cwd=app)
    assert 'name = "dep"\nversion = "1.0.0"' in (app / "Cargo.lock").read_text()
    upstream.remove("dep", "1.0.0")
    anew(cargo)
    assert "dep" in cargo("fetch", "--locked", cwd=app, fails=True)
    # Who has it in the lock file and asks for the tarball is told the rule and whom to ask.
    answer = mirror.http.get("/api/v1/crates/dep/1.0.0/download")
    assert answer.status_code == 403


def test_upstream_is_another_of_our_registries_that_wants_a_token(
    cargo: Cargo, tmp_path: Path, make_mirror: MakeMirror
) -> None:
    with Server(tmp_path / "up", '[registries.main]\naccess = "auth-required"') as upstream:
        cargo.configure('[registry]\nglobal-credential-providers = ["cargo:token"]')
        cargo.use(upstream, token=upstream.token("ada"))
        cargo.publish(cargo.new("Their_Lib", lib="pub fn answer() -> u8 { 42 }"))
        mirror = make_mirror(upstream.index_url(), f'upstream_token = "{upstream.token("ada")}"\nmax_age = 0')
        replace(cargo, mirror)
        app = cargo.new(
            "app",
            deps={"Their_Lib": "{ version = '1' }"},
            main='fn main() { println!("{}", Their_Lib::answer()) }',
        )

        assert "42" in cargo("run", cwd=app)
        cargo("yank", "Their_Lib@1.0.0", "--registry", "test", cwd=app)
        assert mirror.http.get("/index/th/ei/their_lib").json()["yanked"] is True


@pytest.fixture
def private_mirror(upstream: Upstream, make_mirror: MakeMirror) -> Server:
    upstream.add("dep", "1.0.0")
    return make_mirror(upstream, 'access = "auth-required"')


def test_private_mirror_wants_its_own_token(cargo: Cargo, upstream: Upstream, private_mirror: Server) -> None:
    replace(cargo, private_mirror)
    app = cargo.new("app", deps={"dep": "{ version = '1' }"})
    assert private_mirror.http.get("/index/3/d/dep").status_code == 401
    assert upstream.asked == []

    token = private_mirror.token("ada")
    cargo("fetch", cwd=app, env={"CARGO_REGISTRIES_CRATES_IO_MIRROR_TOKEN": token})
    assert all("authorization" not in asked.headers for asked in upstream.asked)
