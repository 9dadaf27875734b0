"""`serve` as an operator meets it: hints, the first user, refusals. Signals and workers are `web/test_server.py`'s."""

import os
import re
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import Cli
from tests.programs import until


class Serving:
    """`cargo-registry serve` in a folder, with options."""

    def __init__(self, root: Path, *options: str, env: dict[str, str] | None = None) -> None:
        self.errors = root / "stderr"
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("CRG_")}
        with self.errors.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cargo_registry", "serve", *options],
                cwd=root,
                env={**inherited, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )

    def line(self) -> str:
        """Return the one line on stdout."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], 20)
        assert readable, self.stderr()
        return os.read(self.process.stdout.fileno(), 1000).decode()

    def stderr(self) -> str:
        return self.errors.read_text()

    def ends(self) -> tuple[int, bytes]:
        """Return the exit code, and what else is on stdout."""
        assert self.process.stdout is not None
        return self.process.wait(20), self.process.stdout.read()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.ends() == (0, b""), self.stderr()
        assert "Traceback" not in self.stderr()


@contextmanager
def serving(root: Path, *options: str, env: dict[str, str] | None = None) -> Iterator[Serving]:
    server = Serving(root, *options, env=env)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            os.killpg(server.process.pid, signal.SIGKILL)
        server.process.communicate()


def test_empty_data_gets_a_hint_and_stdout_one_line(cli: Cli, tmp_path: Path) -> None:
    with serving(tmp_path, "--port", "0") as server:
        assert re.fullmatch(r"listening on http://127\.0\.0\.1:\d+\n", server.line())
        until(lambda: "cargo-registry user add LOGIN --role admin" in server.stderr())
        assert "cargo-registry token create LOGIN" in server.stderr()
        server.stop()
    assert {path.name for path in tmp_path.iterdir()} >= {"registry.db", "index_data", "crates_storage"}
    cli.ok("user", "add", "alice")
    with serving(tmp_path, "--port", "0") as server:
        server.line()
        server.stop()
        assert "user add" not in server.stderr()


def test_bootstrap_makes_the_first_admin_and_shows_what_to_paste(cli: Cli, tmp_path: Path) -> None:
    with serving(tmp_path, "--port", "0", "--bootstrap", "Me.Myself", "--workers", "2") as server:
        url = server.line().removeprefix("listening on ").strip()
        until(lambda: "cargo publish" in server.stderr())
        said = server.stderr()
        (token,) = re.findall(r"crg_\S+", said)
        assert "cargo login --registry main" in said
        assert "cargo publish --registry main" in said
        lines = [line.strip() for line in said.splitlines() if "[registries" in line or "index =" in line]
        assert tomllib.loads("\n".join(lines))["registries"]["main"]["index"] == f"sparse+{url}/index/"
        answered = httpx.put(
            f"{url}/api/v1/crates/new", content=b"", headers={"authorization": token}, trust_env=False
        )
        assert answered.status_code == 400, "not 401: the token is good"
        server.stop()
        # Not in any file but the one that holds stderr.
        for file in tmp_path.rglob("*"):
            if file.is_file() and file != server.errors:
                assert token.encode() not in file.read_bytes()
    assert '"admin"' in cli.ok("user", "list", "--json").stdout


def test_bootstrap_of_data_with_users_makes_nobody(cli: Cli, tmp_path: Path) -> None:
    cli.ok("user", "add", "alice", "--role", "reader")
    with serving(tmp_path, "--port", "0", "--bootstrap", "mallory") as server:
        server.line()
        server.stop()
        assert "crg_" not in server.stderr()
    assert "mallory" not in cli.ok("user", "list").stdout


@pytest.mark.parametrize("login", ["a b", "", "-x", "é", "../x"])
def test_bootstrap_of_what_is_no_login_is_refused_before_it_listens(tmp_path: Path, login: str) -> None:
    with serving(tmp_path, "--port", "0", f"--bootstrap={login}") as server:
        code, stdout = server.ends()
        assert (code, stdout) == (1, b"")
        assert "is not allowed" in server.stderr()


@pytest.mark.parametrize(
    ("options", "env", "warns"),
    [
        (("--host", "0.0.0.0"), {}, True),
        (("--host", "0.0.0.0"), {"CRG_SERVER__URL": "https://crates.example.org"}, False),
        (("--host", "127.0.0.2"), {}, False),
        (("--host", "localhost"), {}, False),
        ((), {"CRG_SERVER__HOST": "0.0.0.0"}, True),
    ],
)
def test_listening_beyond_loopback_without_a_url_is_warned_of(
    tmp_path: Path, options: tuple[str, ...], env: dict[str, str], warns: bool
) -> None:
    with serving(tmp_path, "--port", "0", *options, env=env) as server:
        server.line()
        server.stop()
        assert ("`server.url`" in server.stderr()) is warns


def test_taken_port_is_refused_in_one_sentence(cli: Cli, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cli.ok("user", "add", "alice")
        with serving(tmp_path, "--port", str(port)) as server:
            assert server.ends() == (1, b"")
            (line,) = server.stderr().splitlines()
            assert line.startswith("error: ")
            assert str(port) in line
            assert "taken" in line


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("[server]\nprot = 1\n", "`server.prot`"),
        ('[registries.a]\n[registries.b]\n[server]\ndefault_registry = "x y"\n', "default_registry"),
        ("nonsense", "line 1"),
    ],
)
def test_wrong_configuration_is_refused_before_anything_is_made(tmp_path: Path, toml: str, says: str) -> None:
    (tmp_path / "config.toml").write_text(toml)
    with serving(tmp_path, "--port", "0") as server:
        assert server.ends() == (1, b"")
        (line,) = server.stderr().splitlines()
        assert line.startswith("error: ")
        assert says in line
    assert {path.name for path in tmp_path.iterdir()} == {"config.toml", "stderr"}


def test_data_of_a_newer_release_is_refused_before_it_listens(cli: Cli, tmp_path: Path) -> None:
    cli.ok("user", "list")
    with closing(sqlite3.connect(tmp_path / "registry.db")) as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
        db.commit()
    with serving(tmp_path, "--port", "0") as server:
        assert server.ends() == (1, b"")
        (line,) = server.stderr().splitlines()
        assert "newer release" in line


@pytest.mark.parametrize("implementation", ["granian", "uvicorn"])
def test_options_go_before_the_configuration(tmp_path: Path, implementation: str) -> None:
    other = {"granian": "uvicorn", "uvicorn": "granian"}[implementation]
    (tmp_path / "settings.toml").write_text(
        f'[server]\nhost = "0.0.0.0"\nport = 1\nimplementation = "{other}"\n'
    )
    options = ["--config", "settings.toml", "--host", "127.0.0.1", "--port", "0", "--server", implementation]
    with serving(tmp_path, *options, "--data-dir", "data") as server:
        url = server.line().removeprefix("listening on ").strip()
        assert url.startswith("http://127.0.0.1:")
        config = httpx.get(f"{url}/index/config.json", trust_env=False).json()
        assert config == {"dl": f"{url}/api/v1/crates", "api": url}
        server.stop()
    assert {path.name for path in tmp_path.iterdir()} == {"settings.toml", "data", "stderr"}


def test_server_starts_again_on_its_port_after_a_kill(tmp_path: Path) -> None:
    """With a connection open, which would keep the port for a minute."""
    with serving(tmp_path, "--port", "0") as server:
        url = server.line().removeprefix("listening on ").strip()
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as open_one:
            open_one.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            open_one.recv(1000)
            os.killpg(server.process.pid, signal.SIGKILL)
            server.process.wait()
            with serving(tmp_path, "--port", str(port)) as again:
                assert again.line() == f"listening on {url}\n"
                assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
                again.stop()
