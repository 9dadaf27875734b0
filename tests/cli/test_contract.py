"""What scripts rely on: exit codes, which stream says what, JSON, data folders, the ways to call it."""

import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.crates import crate_file

# --- Exit codes and streams ---


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
        ("user",),
        ("user", "nothing"),
        ("user", "add"),
        ("user", "add", "alice", "bob"),
        ("user", "add", "alice", "--role", "king"),
        ("user", "set-role", "alice", "king"),
        ("user", "list", "--unknown"),
        ("token", "create"),
        ("token", "create", "alice", "--scope", "everything"),
        ("token", "create", "alice", "--expires", "soon"),
        ("token", "create", "alice", "--expires", "0d"),
        ("token", "create", "alice", "--expires", "-1d"),
        ("token", "create", "alice", "--expires", "99999y"),
        ("token", "create", "alice", "--expires", "\u0661d"),
        ("token", "revoke", "one"),
        ("crate", "yank", "foo"),
        ("crate", "yank", "foo@"),
        ("crate", "yank", "@1.0.0"),
        ("publish", "--as", "alice"),
        ("publish", "a.crate"),
        ("serve", "--port", "65536"),
        ("serve", "--port", "-1"),
        ("serve", "--port", "http"),
        ("serve", "--workers", "0"),
        ("serve", "--server", "gunicorn"),
        ("serve", "extra"),
    ],
)
def test_wrong_usage_is_2_and_said_on_stderr(cli: Cli, arguments: tuple[str, ...]) -> None:
    assert cli.fails(*arguments, code=2)
    assert not (cli.root / "registry.db").exists() or arguments[0] == "token"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("user", "add", "a b"), "login `a b` is not allowed"),
        (("user", "add", ""), "login `` is not allowed"),
        (("user", "add", "../x"), "login `../x` is not allowed"),
        (("user", "add", "é"), "login `é` is not allowed"),
        (("user", "add", "x" * 65), "is not allowed"),
        (("user", "add", "\x1b[31m"), "is not allowed"),
        (("user", "add", "\udcff"), "is not allowed"),
        (("user", "add", "alice", "--name", "\udcff"), "is not allowed"),
        (("user", "add", "alice", "--name", "red\x1b[31m"), "is not allowed"),
        (("user", "disable", "nobody"), "no user `nobody`"),
        (("user", "set-role", "nobody", "admin"), "no user `nobody`"),
        (("token", "create", "nobody"), "no user `nobody`"),
        (("token", "list", "nobody"), "no user `nobody`"),
        (("token", "revoke", "1"), "no token 1"),
        (("token", "revoke", "99999999999999999999"), "no token 99999999999999999999"),
        (("team", "remove", "none"), "no team `none`"),
        (("team", "add", "core", "nobody"), "no user `nobody`"),
        (("team", "add", "a b"), "`a b` is not allowed"),
        (("owner", "list", "none"), "crate `none` does not exist"),
        (("owner", "add", "none", "alice"), "crate `none` does not exist"),
        (("crate", "show", "none"), "crate `none` does not exist"),
        (("crate", "show", "none\udcff"), "does not exist"),
        (("crate", "yank", "none@1.0.0"), "crate `none` does not exist"),
        (("crate", "list", "--registry", "none"), "no registry `none`; the configuration has `main`"),
        (("index", "verify", "--registry", "none"), "no registry `none`"),
        (("client-config", "none"), "no registry `none`"),
        (("publish", "x.crate", "--as", "nobody"), "no user `nobody`"),
        (("config", "show", "--config", "none.toml"), "`none.toml` cannot be read"),
        (("user", "list", "--config", "none.toml"), "`none.toml` cannot be read"),
    ],
)
def test_refusal_is_1_and_one_sentence_on_stderr(cli: Cli, arguments: tuple[str, ...], says: str) -> None:
    cli.ok("user", "list")
    said = cli.fails(*arguments)
    assert said.startswith("error: ")
    assert says in said
    assert said.count("\n") == 1
    assert "\x1b" not in said


def test_name_that_is_taken_is_refused(cli: Cli) -> None:
    cli.ok("user", "add", "Alice")
    assert "already a user `alice`" in cli.fails("user", "add", "alice")


def test_help_is_0_and_says_what_each_command_is_for(cli: Cli) -> None:
    commands = [
        (),
        ("serve",),
        ("user",),
        ("token", "create"),
        ("publish",),
        ("index", "verify"),
        ("crate", "yank"),
    ]
    for command in commands:
        for option in ("--help", "-h"):
            done = cli(*command, option)
            assert done.code == 0
            assert "Usage: cargo-registry" in done.stdout
            assert len(done.stdout.splitlines()) > 5
    assert not list(cli.root.iterdir())


def test_no_command_shows_the_help(cli: Cli) -> None:
    done = cli()
    assert "serve" in done.stdout + done.stderr


# --- Ways to call it ---


def test_installed_command_is_also_the_one_that_cargo_calls(cli: Cli) -> None:
    """cargo runs `cargo-registry registry …` for `cargo registry …`."""
    for arguments in (["--version"], ["registry", "--version"]):
        done = cli(*arguments)
        assert (done.code, done.stdout.split()[0]) == (0, "cargo-registry")
    assert cli("registry", "user", "add", "alice", program="/usr/bin/cargo-registry").code == 0
    assert cli("registry", "user", "list", program=r"cargo-registry.exe").code == 0
    # Only the first word is cargo's.
    assert cli("registry", "registry", "user", "list").code == 2


def test_installed_script_and_module_are_the_same(cli: Cli) -> None:
    script = Path(sys.executable).with_name("cargo-registry")
    if not script.exists():
        pytest.skip("the project is not installed in this environment, only importable")
    said = {
        cli.process("--version").stdout,
        cli.process("--version", command=(str(script),)).stdout,
        cli.process("registry", "--version", command=(str(script),)).stdout,
    }
    assert len(said) == 1
    assert said.pop().startswith("cargo-registry ")


def test_process_exits_with_the_same_codes(cli: Cli) -> None:
    cli.ok("user", "list")
    done = cli.process("crate", "show", "none")
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr == "error: crate `none` does not exist in registry `main`\n"
    assert cli.process("crate", "show").code == 2


def test_reader_that_has_enough_is_no_traceback(cli: Cli) -> None:
    cli.publish("foo")
    for arguments in ("crate list", "crate show foo --json"):
        command = f"{sys.executable} -m cargo_registry {arguments} | true"
        done = cli.process("-c", command, command=("sh",))
        assert "Traceback" not in done.stderr
        assert "BrokenPipe" not in done.stderr


# --- Data folders ---


def test_missing_folder_is_made_with_all_above_it(cli: Cli) -> None:
    folder = cli.root / "a" / "b c"
    cli.ok("user", "add", "alice", "--data-dir", folder)
    assert {path.name for path in folder.iterdir()} >= {"registry.db", "index_data", "crates_storage"}
    assert {path.name for path in cli.root.iterdir()} == {"a"}


def test_without_an_option_the_data_is_here(cli: Cli) -> None:
    cli.ok("user", "list")
    assert {path.name for path in cli.root.iterdir()} >= {"registry.db", "index_data", "crates_storage"}


def test_folder_that_was_made_is_named_once_on_stderr(cli: Cli) -> None:
    """Whoever stands in the wrong folder would take it for an empty registry."""
    first, second = (cli.ok("user", "list", "--json") for _ in range(2))
    assert first.stdout == second.stdout
    assert "made a new" in first.stderr
    assert str(cli.root) in first.stderr
    assert second.stderr == ""


def test_environment_can_say_where(cli: Cli) -> None:
    cli.monkeypatch.setenv("CRG_DATA_DIR", str(cli.root / "there"))
    cli.ok("user", "list")
    assert (cli.root / "there" / "registry.db").exists()
    assert not (cli.root / "registry.db").exists()


@pytest.mark.parametrize("folder", ["with space", "a?b", "a#b", "100%", "ü", "a&b=c"])
def test_any_folder_will_do(cli: Cli, folder: str) -> None:
    cli.ok("user", "add", "alice", "--data-dir", folder)
    assert [user["login"] for user in cli.ok("user", "list", "--json", "--data-dir", folder).json()] == [
        "alice"
    ]
    assert [path.name for path in cli.root.iterdir()] == [folder]


def test_folder_that_is_none_is_refused_in_a_sentence(cli: Cli) -> None:
    (cli.root / "file").write_text("mine")
    for folder in ("file", "file/below"):
        said = cli.fails("user", "list", "--data-dir", folder)
        assert said.startswith("error: ")
        assert said.count("\n") == 1
    assert (cli.root / "file").read_text() == "mine"


def test_file_that_is_no_database_is_refused_in_a_sentence(cli: Cli) -> None:
    (cli.root / "registry.db").write_text("mine, and longer than a hundred bytes" * 10)
    said = cli.fails("user", "list")
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert (cli.root / "registry.db").read_text().startswith("mine")


def test_secrets_of_the_data_are_not_for_other_accounts_to_write(cli: Cli) -> None:
    os.umask(os.umask(0o022))
    cli.publish("foo")
    for path in cli.root.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o002, path


# --- Configuration ---


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("[server]\nprot = 1\n", "`server.prot`; did you mean `server.port`?"),
        ("[nothing]\n", "no setting `nothing`"),
        ("[server\n", "line 1"),
        ('[server]\nport = "x"\n', "`server.port`"),
        ("[registries.main]\ncolor = 1\n", "`registries.main.color`"),
    ],
)
def test_wrong_configuration_stops_every_command(cli: Cli, toml: str, says: str) -> None:
    (cli.root / "config.toml").write_text(toml)
    for command in (("user", "list"), ("serve", "--port", "0"), ("config", "show"), ("index", "verify")):
        said = cli.fails(*command)
        assert "`config.toml`" in said
        assert says in said
    assert not (cli.root / "registry.db").exists()


def test_unknown_variable_is_named(cli: Cli) -> None:
    cli.monkeypatch.setenv("CRG_SERVER__PROT", "1")
    said = cli.fails("user", "list")
    assert "`CRG_SERVER__PROT`" in said
    assert "`CRG_SERVER__PORT`" in said


def test_config_show_says_each_value_and_its_origin(cli: Cli) -> None:
    (cli.root / "config.toml").write_text("[server]\nport = 9000\n")
    cli.monkeypatch.setenv("CRG_SERVER__HOST", "127.0.0.2")
    shown = {row["key"]: (row["value"], row["origin"]) for row in cli.ok("config", "show", "--json").json()}
    assert shown["server.port"] == (9000, "config.toml")
    assert shown["server.host"] == ("127.0.0.2", "CRG_SERVER__HOST")
    assert shown["server.implementation"] == ("granian", "default")
    table = cli.ok("config", "show").stdout
    for key in shown:
        assert key in table
    assert not (cli.root / "registry.db").exists()


# --- JSON ---


def test_json_of_every_command_parses_and_is_all_of_stdout(cli: Cli) -> None:
    (cli.root / "config.toml").write_text("[registries.main]\n[registries.other]\n")
    file = cli.crate("foo")
    for command in (
        ("user", "add", "alice"),
        ("user", "add", "bob", "--name", "Bob É. ☃", "--role", "reader"),
        ("user", "list"),
        ("user", "set-role", "bob", "admin"),
        ("user", "disable", "bob"),
        ("user", "enable", "bob"),
        (
            "token",
            "create",
            "alice",
            "--name",
            "ci",
            "--scope",
            "yank",
            "--crate",
            "team-*",
            "--expires",
            "90d",
        ),
        ("token", "list"),
        ("token", "list", "ALICE"),
        ("token", "revoke", "1"),
        ("team", "add", "core", "alice", "bob"),
        ("team", "list"),
        ("publish", file, "--as", "alice"),
        ("owner", "list", "foo"),
        ("owner", "add", "foo", "bob", "team:core"),
        ("owner", "remove", "foo", "bob"),
        ("team", "remove", "core", "bob"),
        ("crate", "list"),
        ("crate", "list", "--registry", "other"),
        ("crate", "show", "FOO"),
        ("crate", "yank", "foo@1.0.0"),
        ("crate", "unyank", "foo@1.0.0"),
        ("index", "verify"),
        ("index", "rebuild"),
        ("client-config",),
        ("client-config", "other"),
        ("config", "show"),
    ):
        done = cli.ok(*command, "--json")
        assert isinstance(done.json(), dict | list), command
    (first, second) = cli.ok("user", "list", "--json").json()
    assert (first["login"], first["role"], first["disabled"]) == ("alice", "publisher", False)
    assert (second["name"], second["role"]) == ("Bob É. ☃", "admin")


def test_json_of_nothing_is_an_empty_list(cli: Cli) -> None:
    for command in (("user", "list"), ("token", "list"), ("team", "list"), ("crate", "list")):
        assert cli.ok(*command, "--json").json() == []
        done = cli.ok(*command)
        assert done.stdout == ""
        assert done.stderr


def test_errors_are_no_json(cli: Cli) -> None:
    cli.ok("user", "list")
    assert cli.fails("crate", "show", "none", "--json").startswith("error: ")


# --- Tables ---


def test_table_is_not_cut_where_a_script_reads(cli: Cli) -> None:
    name = "a-very-long-name-" + "x" * 47
    cli.publish(name)
    assert name in cli.ok("crate", "list").stdout
    shown = cli.ok("crate", "show", name).stdout
    assert cli.ok("crate", "show", name, "--json").json()["versions"][0]["cksum"] in shown
    assert shutil.get_terminal_size().columns < len(name) + 64


def test_control_characters_of_crates_do_not_reach_the_terminal(cli: Cli) -> None:
    manifest = (
        '[package]\nname = "evil"\nversion = "1.0.0"\ndescription = "\\u001b[31mred\\u0007 [bold]x[/bold]"\n'
    )
    cli.ok("user", "add", "alice")
    done = cli(
        "publish", cli.crate("evil", data=crate_file("evil", "1.0.0", manifest=manifest)), "--as", "alice"
    )
    if done.code == 0:
        for command in (("crate", "list"), ("crate", "show", "evil")):
            said = cli.ok(*command).stdout
            assert "\x1b" not in said
            assert "\x07" not in said
            assert "[bold]x[/bold]" in said
