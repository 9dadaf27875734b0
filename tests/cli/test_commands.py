"""What the commands do, beside a running server or without one."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.crates import crate_file
from tests.programs import Server
from tests.web.conftest import SITE, ask, publish

# --- Tokens ---


def test_token_stands_alone_on_stdout(cli: Cli) -> None:
    cli.ok("user", "add", "alice")
    done = cli.ok("token", "create", "alice")
    assert re.fullmatch(r"crg_\S{27,}\n", done.stdout)
    assert cli.ok("token", "create", "alice", "--json").json()["token"].startswith("crg_")


def test_list_says_how_far_each_token_goes_and_never_the_secret(cli: Cli) -> None:
    cli.ok("user", "add", "alice")
    options = [
        "--name",
        "ci",
        "--scope",
        "yank",
        "--scope",
        "read",
        "--crate",
        "team-*",
        "--crate",
        "x",
        "--registry",
        "main",
        "--expires",
        "90d",
    ]
    secret = cli.ok("token", "create", "alice", *options).stdout.strip()
    plain = cli.ok("token", "create", "alice").stdout.strip()
    for command in (("token", "list"), ("token", "list", "--json")):
        said = cli.ok(*command).stdout
        assert secret not in said
        assert plain not in said
    limited, unlimited = cli.ok("token", "list", "--json").json()
    assert (limited["scopes"], limited["crates"], limited["registries"]) == (
        ["yank", "read"],
        ["team-*", "x"],
        ["main"],
    )
    assert limited["expires_at"] is not None
    assert (unlimited["scopes"], unlimited["crates"], unlimited["registries"]) == (None, None, None)
    assert (unlimited["expires_at"], unlimited["revoked_at"]) == (None, None)


@pytest.mark.parametrize(
    "options", [("--registry", "none"), ("--crate", "a b"), ("--crate", ""), ("--crate", "é*")]
)
def test_limit_that_can_fit_nothing_is_refused(cli: Cli, options: tuple[str, ...]) -> None:
    cli.ok("user", "add", "alice")
    assert cli.fails("token", "create", "alice", *options)
    assert cli.ok("token", "list", "--json").json() == []


# --- Publishing files ---


def test_each_file_is_published_or_refused_by_itself(cli: Cli) -> None:
    cli.ok("user", "add", "alice")
    files = [
        cli.crate("first"),
        cli.crate("broken", data=b"no tarball"),
        cli.crate("empty", data=b""),
        cli.root / "missing-1.0.0.crate",
        cli.root,
        cli.crate(
            "lying", data=crate_file("lying", "1.0.0", manifest='[package]\nname = "x"\nversion = "1.0.0"\n')
        ),
        cli.crate("last"),
        cli.root / "first-1.0.0.crate",
    ]
    done = cli("publish", *files, "--as", "alice")
    assert done.code == 1
    assert done.stdout.splitlines() == ["published first@1.0.0", "published last@1.0.0"]
    refusals = [line for line in done.stderr.splitlines() if line.startswith("refused ")]
    assert [line.split(": ")[0] for line in refusals] == [
        f"refused {files[number]}" for number in (1, 2, 3, 4, 5, 7)
    ]
    assert "already uploaded" in refusals[-1]
    assert "2 published, 6 refused" in done.stderr
    assert [crate["name"] for crate in cli.ok("crate", "list", "--json").json()] == ["first", "last"]
    assert [file.name for file in (cli.root / "crates_storage" / ".spool").iterdir()] == []


def test_publish_reports_in_json(cli: Cli) -> None:
    cli.ok("user", "add", "alice")
    done = cli("publish", cli.crate("good"), cli.crate("bad", data=b""), "--as", "alice", "--json")
    assert done.code == 1
    good, bad = json.loads(done.stdout)
    assert (good["crate"], good["vers"], good["error"]) == ("good", "1.0.0", None)
    assert bad["crate"] is None
    assert bad["error"]
    assert cli("publish", cli.crate("fine"), "--as", "alice", "--json").code == 0


def test_operator_publishes_through_the_same_checks(cli: Cli) -> None:
    cli.publish("owned", login="alice")
    cli.ok("user", "add", "bob")
    cli.ok("user", "add", "rita", "--role", "reader")
    assert "not one of its owners" in cli("publish", cli.crate("owned", "2.0.0"), "--as", "bob").stderr
    assert "reader" in cli("publish", cli.crate("other"), "--as", "rita").stderr
    assert cli.ok("owner", "list", "owned", "--json").json()[0]["login"] == "alice"


def test_disabled_user_publishes_nothing(cli: Cli) -> None:
    cli.ok("user", "add", "alice")
    cli.ok("user", "disable", "alice")
    done = cli("publish", cli.crate("foo"), "--as", "alice")
    assert done.code == 1
    assert "disabled" in done.stderr


# --- Owners and teams ---


def test_owners_are_changed_all_or_none(cli: Cli) -> None:
    cli.publish("foo")
    cli.ok("user", "add", "bob")
    cli.ok("team", "add", "core", "bob")
    assert "`nobody`" in cli.fails("owner", "add", "foo", "bob", "nobody")
    assert "without an owner" in cli.fails("owner", "remove", "foo", "alice")
    cli.ok("owner", "add", "foo", "bob", "team:core")
    cli.ok("owner", "remove", "foo", "alice", "bob")
    assert [owner["login"] for owner in cli.ok("owner", "list", "FOO", "--json").json()] == ["team:core"]
    assert "still owns" in cli.fails("team", "remove", "core")


# --- Yank ---


def test_yank_says_what_it_did(cli: Cli) -> None:
    cli.publish("foo")
    file = cli.root / "index_data/main/3/f/foo"
    before = file.read_bytes()
    assert "now yanked" in cli.ok("crate", "yank", "FOO@1.0.0").stderr
    assert "already yanked" in cli.ok("crate", "yank", "foo@1.0.0").stderr
    assert json.loads(file.read_bytes())["yanked"] is True
    assert "now not yanked" in cli.ok("crate", "unyank", "foo@1.0.0").stderr
    assert file.read_bytes() == before
    assert "does not have a version `2.0.0`" in cli.fails("crate", "yank", "foo@2.0.0")


# --- The index ---


def index_files(root: Path) -> dict[str, bytes]:
    folder = root / "index_data"
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.relative_to(folder).parts[0].startswith(".")
    }


@pytest.fixture
def three(cli: Cli) -> Cli:
    """Three crates, one with a yanked version."""
    cli.publish("foo", "1.0.0", "1.1.0")
    cli.publish("Foo-Bar")
    cli.publish("x")
    cli.ok("crate", "yank", "foo@1.0.0")
    return cli


DAMAGES = {
    "changed": ("main/3/f/foo", b'{"name":"foo"}\n', "foo"),
    "cut": ("main/3/f/foo", None, "foo"),
    "emptied": ("main/1/x", b"", "x"),
    "missing": ("main/fo/o-/foo-bar", ..., "Foo-Bar"),
    "of no crate": ("main/no/ne/none", b"stray\n", "main/no/ne/none"),
    "at another spelling": ("main/fo/o_/foo_bar", b"stray\n", "main/fo/o_/foo_bar"),
    "in capitals": ("main/Fo/o-/Foo-Bar", b"stray\n", "main/Fo/o-/Foo-Bar"),
    "in another folder": ("main/x/foo", b"stray\n", "main/x/foo"),
    "with a suffix": ("main/3/f/foo.gz", b"stray\n", "main/3/f/foo.gz"),
    "at the top": ("main/README.txt", b"stray\n", "main/README.txt"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_names_each_wrong_file_and_rebuild_puts_it_right(three: Cli, damage: str) -> None:
    path, data, named = DAMAGES[damage]
    three.ok("index", "verify")
    right = index_files(three.root)
    file = three.root / "index_data" / path
    if data is ...:
        file.unlink()
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(right[path][:-20] if data is None else data)

    done = three("index", "verify")
    assert done.code == 1
    assert f"`{named}`" in done.stdout
    assert done.stdout.count("\n") == 1
    as_json = three("index", "verify", "--json")
    assert as_json.code == 1
    assert json.loads(as_json.stdout)["wrong"] == [{"registry": "main", "crate": named}]

    assert three.ok("index", "rebuild", "--json").json()["changed"] == {"main": 1}
    assert index_files(three.root) == right
    assert three.ok("index", "verify").stdout == ""
    assert three.ok("index", "rebuild", "--json").json()["changed"] == {"main": 0}


def test_index_is_rebuilt_from_nothing_to_the_byte(three: Cli) -> None:
    right = index_files(three.root)
    assert len(right) == 3
    for path in right:
        (three.root / "index_data" / path).unlink()
    assert three("index", "verify").stdout.count("\n") == 3
    assert three.ok("index", "rebuild", "--json").json()["changed"] == {"main": 3}
    assert index_files(three.root) == right


def test_checks_are_for_all_registries_or_one(cli: Cli) -> None:
    (cli.root / "config.toml").write_text(SITE)
    cli.ok("user", "add", "alice")
    for registry in ("main", "other"):
        cli.ok("publish", cli.crate("foo"), "--as", "alice", "--registry", registry)
        (cli.root / f"index_data/{registry}/3/f/foo").unlink()
    assert cli("index", "verify").stdout.count("\n") == 2
    assert cli.ok("index", "rebuild", "--registry", "other", "--json").json()["changed"] == {"other": 1}
    assert cli("index", "verify", "--registry", "other").code == 0
    assert cli("index", "verify", "--registry", "main").code == 1


# --- What users put into their configuration ---


def test_client_config_is_toml_that_cargo_takes(cli: Cli) -> None:
    (cli.root / "config.toml").write_text('[server]\nurl = "https://crates.example.org/x"\n' + SITE)
    main = cli.ok("client-config").stdout
    assert tomllib.loads(main) == {
        "registries": {"main": {"index": "sparse+https://crates.example.org/x/index/"}}
    }
    secret = tomllib.loads(cli.ok("client-config", "secret").stdout)
    assert secret["registries"]["secret"]["index"] == "sparse+https://crates.example.org/x/secret/index/"
    # Without it, cargo refuses before it tries a token.
    assert secret["registry"]["global-credential-providers"] == ["cargo:token"]
    replaced = tomllib.loads(cli.ok("client-config", "secret", "--replace-crates-io").stdout)
    assert replaced["source"]["crates-io"]["replace-with"] == "secret"
    assert replaced["registries"] == secret["registries"]


# --- Beside a running server ---


def test_commands_beside_a_server_are_effective_at_once(cli: Cli) -> None:
    with Server(cli.root, SITE) as server:
        cli.ok("user", "add", "alice")
        token = cli.ok("token", "create", "alice").stdout.strip()
        assert publish(server, token, "by-http").status == 200
        cli.ok("publish", cli.crate("by-file"), "--as", "alice", "--registry", "secret")
        assert ask(server, "/secret/index/by/-f/by-file", token=token).status == 200
        download = ask(server, "/secret/api/v1/crates/by-file/1.0.0/download", token=token)
        assert download.body == crate_file("by-file", "1.0.0")
        cli.ok("crate", "yank", "by-http@1.0.0")
        assert json.loads(ask(server, "/index/by/-h/by-http").body)["yanked"] is True
        cli.ok("user", "add", "bob")
        cli.ok("owner", "add", "by-http", "bob")
        owners = ask(server, "/api/v1/crates/by-http/owners").json()["users"]
        assert [owner["login"] for owner in owners] == ["alice", "bob"]
        (server.data_dir / "index_data/main/by/-h/by-http").write_bytes(b"damaged\n")
        assert cli("index", "verify").code == 1
        cli.ok("index", "rebuild")
        assert json.loads(ask(server, "/index/by/-h/by-http").body)["vers"] == "1.0.0"
        cli.ok("index", "verify")
        cli.ok("token", "revoke", "1")
        assert ask(server, "/secret/index/config.json", token=token).status == 401
