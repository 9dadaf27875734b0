"""A registry that only those with a token may read, from the first command to the last."""

import json
from pathlib import Path

import pytest

from tests.programs import Cargo, Server


@pytest.fixture
def newcomer(cargo: Cargo, server: Server) -> Cargo:
    """Cargo that is configured as `client-config` says, without a token."""
    cargo.configure(server.cli("client-config", "secret").stdout)
    return cargo


@pytest.fixture
def user(newcomer: Cargo, server: Server) -> Cargo:
    """Cargo of alice, who is logged in."""
    newcomer("login", "--registry", "secret", stdin=server.token("alice"))
    return newcomer


def publish(cargo: Cargo, package: Path, *, fails: bool = False) -> str:
    return cargo.publish(package, registry="secret", fails=fails)


def test_without_a_token_cargo_says_how_to_log_in(newcomer: Cargo, server: Server) -> None:
    app = newcomer.new("hidden-app", deps={"hidden": "1"}, registry="secret")
    said = newcomer("check", cwd=app, fails=True)
    assert "no token found for `secret`, please run `cargo login --registry secret`" in said
    assert "CARGO_REGISTRIES_SECRET_TOKEN" in said
    said = newcomer("login", "--registry", "secret", typed=server.token("alice") + "\n")
    assert f"please paste the token found on {server.url}/secret/me below" in said
    page = server.http.get("/secret/me")
    assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (200, "text/html")
    assert "cargo login --registry secret" in page.text
    # Now it is only the crate that is missing.
    assert "no matching package named `hidden` found" in newcomer("check", cwd=app, fails=True)


def test_wrong_token_is_rejected_with_a_sentence(newcomer: Cargo) -> None:
    newcomer("login", "--registry", "secret", stdin="crg_wrong")
    app = newcomer.new("wrong-app", deps={"hidden": "1"}, registry="secret")
    said = newcomer("check", cwd=app, fails=True)
    assert "token rejected for `secret`, please run `cargo login --registry secret`" in said
    assert "the token is unknown, revoked or expired" in said


def test_everything_works_with_a_token(user: Cargo, server: Server) -> None:
    publish(user, user.new("vault", lib="pub const N: u8 = 42;"))
    vaulted = user.new("vaulted", deps={"vault": "1"}, registry="secret", lib="pub use vault::N;")
    user("publish", "--registry", "secret", cwd=vaulted)  # its verification reads the registry
    app = user.new("vault-app", main='fn main() { println!("n={}", vaulted::N) }')
    user("add", "vaulted", "--registry", "secret", cwd=app)
    assert "n=42" in user("run", cwd=app)

    assert "vaulted = " in user("search", "vaulted", "--registry", "secret")
    assert "version: 1.0.0" in user("info", "vaulted", "--registry", "secret")
    assert "alice" in user("owner", "--list", "vaulted", "--registry", "secret")
    user("yank", "vaulted@1.0.0", "--registry", "secret")
    user("yank", "--undo", "vaulted@1.0.0", "--registry", "secret")
    tool = user.new("vault-tool", deps={"vault": "1"}, registry="secret", main="fn main() {}")
    publish(user, tool)
    user("install", "vault-tool", "--registry", "secret")

    # Nobody else sees any of it.
    for path in (
        "index/config.json",
        "index/va/ul/vault",
        "index/no/ne/nonesuch",
        "api/v1/crates?q=vault",
        "api/v1/crates/vault/owners",
        "api/v1/crates/vault/1.0.0/download",
    ):
        answer = server.http.get(f"/secret/{path}")
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == f'Cargo login_url="{server.url}/secret/me"'
        assert "vault" not in answer.text
    assert server.http.get("/index/va/ul/vault").status_code == 404


def test_token_from_the_environment_opens_it(newcomer: Cargo, server: Server) -> None:
    publishing = {"CARGO_REGISTRIES_SECRET_TOKEN": server.token("alice")}
    crate = newcomer.new("by-variable")
    newcomer("publish", "--registry", "secret", "--no-verify", cwd=crate, env=publishing)
    server.user("reader", "--role", "reader")
    reading = {"CARGO_REGISTRIES_SECRET_TOKEN": server.token("reader")}
    app = newcomer.new("variable-app", deps={"by-variable": "1"}, registry="secret")
    newcomer("check", cwd=app, env=reading)
    said = newcomer(
        "publish",
        "--registry",
        "secret",
        "--no-verify",
        cwd=newcomer.new("by-reader"),
        env=reading,
        fails=True,
    )
    assert "`reader` has the role `reader`" in said


def test_token_that_may_only_publish_can_resolve(user: Cargo, server: Server) -> None:
    publish(user, user.new("for-ci"))
    token = {"CARGO_REGISTRIES_SECRET_TOKEN": server.token("alice", "--scope", "publish-new")}
    crate = user.new("from-ci", deps={"for-ci": "1"}, registry="secret")
    user("publish", "--registry", "secret", cwd=crate, env=token)
    assert "lacks the scope `yank`" in user(
        "yank", "from-ci@1.0.0", "--registry", "secret", env=token, fails=True
    )


def test_revoked_token_and_disabled_user_are_out_at_once(newcomer: Cargo, server: Server) -> None:
    app = newcomer.new("out-app", deps={"hidden": "1"}, registry="secret")
    newcomer("login", "--registry", "secret", stdin=server.token("alice", "--name", "lost laptop"))
    assert "no matching package" in newcomer("check", cwd=app, fails=True)
    issued = json.loads(server.cli("token", "list", "alice", "--json").stdout)
    (lost,) = (token["id"] for token in issued if token["name"] == "lost laptop")
    server.cli("token", "revoke", str(lost))
    assert "token rejected" in newcomer("check", cwd=app, fails=True)

    newcomer("login", "--registry", "secret", stdin=server.token("leaver"))
    assert "no matching package" in newcomer("check", cwd=app, fails=True)
    server.cli("user", "disable", "leaver")
    assert "token rejected" in newcomer("check", cwd=app, fails=True)


def test_token_for_another_registry_does_not_open_it(newcomer: Cargo, server: Server) -> None:
    newcomer("login", "--registry", "secret", stdin=server.token("alice", "--registry", "main"))
    app = newcomer.new("elsewhere-app", deps={"hidden": "1"}, registry="secret")
    assert "this token is not for registry `secret`" in newcomer("check", cwd=app, fails=True)
