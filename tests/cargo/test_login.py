"""`cargo login` and `cargo logout`, the token in the environment, and `cargo registry`."""

import sys
from pathlib import Path

from tests.programs import Cargo, Server


def test_login_stores_the_token_that_publish_then_uses(cargo: Cargo, server: Server) -> None:
    cargo.use(server)
    crate = cargo.new("log-in")
    said = cargo.publish(crate, fails=True)
    assert "no token found for `test`, please run `cargo login --registry test`" in said
    said = cargo("login", "--registry", "test", typed=server.token("alice") + "\n")
    assert f"please paste the token found on {server.url}/me below" in said
    assert server.http.get("/me").status_code == 200
    cargo.publish(crate)
    assert server.http.get("/index/lo/g-/log-in").status_code == 200

    cargo("logout", "--registry", "test")
    assert "no token found" in cargo("owner", "--list", "log-in", "--registry", "test", fails=True)


def test_token_from_the_environment_is_used(cargo: Cargo, server: Server) -> None:
    cargo.use(server)
    crate = cargo.new("log-env")
    token = {"CARGO_REGISTRIES_TEST_TOKEN": server.token("alice")}
    cargo("publish", "--no-verify", "--registry", "test", cwd=crate, env=token)
    assert server.http.get("/index/lo/g-/log-env").status_code == 200


def test_unknown_token_is_refused_with_what_to_do(cargo: Cargo, server: Server) -> None:
    cargo.use(server, token="crg_" + "0" * 48)
    said = cargo.publish(cargo.new("log-wrong"), fails=True)
    assert "status 401 Unauthorized" in said
    assert "the token is unknown, revoked or expired" in said
    assert "cargo login" in said
    assert server.http.get("/index/lo/g-/log-wrong").status_code == 404


def test_scoped_token_may_only_do_what_its_scopes_say(cargo: Cargo, server: Server) -> None:
    options = ["--scope", "publish-new", "--crate", "scoped-*"]
    cargo.use(server, token=server.token("alice", *options))
    assert "not for crate `log-scope`" in cargo.publish(cargo.new("log-scope"), fails=True)
    cargo.publish(cargo.new("scoped_crate"))
    said = cargo.publish(cargo.new("scoped_crate", "1.1.0"), fails=True)
    assert "lacks the scope `publish-update`" in said
    said = cargo("yank", "--registry", "test", "scoped_crate@1.0.0", fails=True)
    assert "lacks the scope `yank`" in said


def test_installed_command_is_a_subcommand_of_cargo(cargo: Cargo, server: Server, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{cargo.env['PATH']}"
    said = cargo("registry", "--help", env={"PATH": path})
    assert "serve" in said
    assert "client-config" in said
    server.user("alice")
    assert "alice" in cargo("registry", "user", "list", "--json", cwd=server.data_dir, env={"PATH": path})
