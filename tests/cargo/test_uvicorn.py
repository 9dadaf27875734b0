"""The second HTTP server: the commands with a body, which some parsers lose, and the rest once each."""

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.programs import Cargo, Server

CONFIG = '[registries.main]\n[registries.secret]\naccess = "auth-required"\n'


@pytest.fixture(scope="session")
def server(toolchain: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on uvicorn, with two processes that answer."""
    root = tmp_path_factory.mktemp(f"uvicorn-{toolchain}")
    with Server(root, CONFIG, implementation="uvicorn", workers=2) as server:
        yield server


@pytest.fixture
def user(cargo: Cargo, server: Server) -> Cargo:
    """Cargo of alice, who knows the registry `main` as `test`."""
    cargo.use(server, token=server.token("alice"))
    return cargo


def test_crates_are_published_used_yanked_and_owned(user: Cargo, server: Server) -> None:
    server.user("bob")
    for version in ("1.0.0", "1.1.0"):
        user.publish(user.new("base", version, lib="pub const N: u8 = 1;"))
    middle = user.new("middle", deps={"base": "1"}, lib="pub use base::N;")
    user("publish", "--registry", "test", cwd=middle)
    app = user.new("app", main='fn main() { println!("n={}", middle::N) }')
    user("add", "middle", "--registry", "test", cwd=app)
    assert "n=1" in user("run", cwd=app)
    user("yank", "--registry", "test", "base@1.1.0")
    user("update", cwd=app)
    assert 'name = "base"\nversion = "1.0.0"' in (app / "Cargo.lock").read_text()
    user("owner", "--add", "bob", "middle", "--registry", "test")
    user("owner", "--remove", "alice", "middle", "--registry", "test")
    assert "bob" in user("owner", "--list", "middle", "--registry", "test")
    assert 'middle = "1.0.0"' in user("search", "mid", "--registry", "test")
    assert "version: 1.0.0" in user("info", "middle", "--registry", "test")


def test_large_crate_arrives_whole(user: Cargo, server: Server) -> None:
    crate = user.new("heavy", lib='pub static WEIGHTS: &[u8] = include_bytes!("../weights.bin");')
    (crate / "weights.bin").write_bytes(os.urandom(3_000_000))
    user.publish(crate)
    app = user.new(
        "heavy-app", deps={"heavy": "1"}, main='fn main() { println!("n={}", heavy::WEIGHTS.len()) }'
    )
    assert "n=3000000" in user("run", cwd=app)


def test_private_registry_asks_for_a_token(cargo: Cargo, server: Server) -> None:
    cargo.configure(server.cli("client-config", "secret").stdout)
    crate = cargo.new("guarded")
    assert "no token found for `secret`" in cargo.publish(crate, registry="secret", fails=True)
    cargo("login", "--registry", "secret", stdin=server.token("alice"))
    cargo.publish(crate, registry="secret")
    shutil.rmtree(cargo.home / "registry")
    cargo("fetch", cwd=cargo.new("guarded-app", deps={"guarded": "1"}, registry="secret"))
