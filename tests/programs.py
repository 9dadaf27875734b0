"""The programs that tests run: the server under test with its command line, and cargo as its user."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tests.recorder import Exchange, Recorder

_START_S = 20
_COMMAND_S = 120


class Server:
    """`cargo-registry serve` in a process of its own, on a free port (or `port`). Use as a context manager.

    `root` is its folder: `config.toml`, `registry.db`, `index_data/`, `crates_storage/`. With `recorded`, what
    cargo sends passes a recorder, and `url` is the recorder's.
    """

    def __init__(
        self,
        root: Path,
        config: str = "",
        *,
        implementation: str = "granian",
        workers: int = 1,
        port: int = 0,
        recorded: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        root.mkdir(parents=True, exist_ok=True)
        if config:
            (root / "config.toml").write_text(config)
        self.data_dir = root
        self.implementation = implementation
        self._recorder = Recorder() if recorded else None
        # No setting of whoever runs the tests may reach the server.
        self._env = {key: value for key, value in os.environ.items() if not key.startswith(("CRG_", "CARGO"))}
        if self._recorder:
            self._env["CRG_SERVER__URL"] = self._recorder.url
        self._env |= env or {}
        self._users: set[str] = set()
        self._tokens: dict[tuple[str, ...], str] = {}
        self._stderr_file = root / "stderr"
        command = [sys.executable, "-m", "cargo_registry", "serve", "--port", str(port)]
        command += ["--server", implementation, "--workers", str(workers)]
        with self._stderr_file.open("wb") as stderr:
            self.process = subprocess.Popen(
                command,
                cwd=root,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            self.direct_url = self._wait_until_ready()
        except BaseException:
            self.kill()
            raise
        if self._recorder:
            self._recorder.forward(int(self.direct_url.rpartition(":")[2]))
        self.url = self._recorder.url if self._recorder else self.direct_url
        # Past the recorder: it shall hold what cargo said.
        self.http = httpx.Client(base_url=self.direct_url, trust_env=False, timeout=30)

    def _wait_until_ready(self) -> str:
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], _START_S)
        line = os.read(self.process.stdout.fileno(), 1000).decode() if readable else "nothing"
        assert line.startswith("listening on http://"), f"stdout: {line}\nstderr: {self.stderr()}"
        assert line.count("\n") == 1
        return line.removeprefix("listening on ").strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self.kill()

    def stop(self) -> None:
        """Stop the server as an init system does, and check that it ended well. Once more does nothing."""
        assert self.process.stdout is not None
        if self.process.stdout.closed:
            return
        try:
            self.process.send_signal(signal.SIGTERM)
            code = self.process.wait(30)
            said = self.process.stdout.read()
        finally:
            self.kill()
        assert "Traceback" not in self.stderr(), self.stderr()
        assert (code, said) == (0, b""), self.stderr()

    def kill(self) -> None:
        """End the server and what it started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        if hasattr(self, "http"):
            self.http.close()
        if self._recorder:
            self._recorder.close()

    def stderr(self) -> str:
        """Return what the server has written on stderr so far."""
        return self._stderr_file.read_text()

    def cli(
        self, *arguments: str | Path, fails: bool = False, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line on the same data, as in the server's own folder."""
        done = subprocess.run(
            [sys.executable, "-m", "cargo_registry", *map(str, arguments)],
            cwd=self.data_dir,
            # Its URLs shall be those of this server, whose port is not in the configuration.
            env={"CRG_SERVER__URL": self.url, **self._env},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=False,
        )
        assert (done.returncode != 0) is fails, f"{done.args}\n{done.stdout}{done.stderr}"
        return done

    def user(self, login: str, *options: str) -> None:
        """Make a user, if there is none of this login."""
        if login not in self._users:
            self._users.add(login)
            self.cli("user", "add", login, *options)

    def token(self, login: str, *options: str) -> str:
        """Return a token of this user, who is made if need be; the same one for the same options."""
        self.user(login)
        if (login, *options) not in self._tokens:
            created = self.cli("token", "create", login, *options)
            self._tokens[(login, *options)] = created.stdout.strip()
        return self._tokens[(login, *options)]

    def index_url(self, registry: str = "main") -> str:
        """Return the index URL that cargo's configuration takes. Registry `main` is the one at the root."""
        return f"sparse+{self.url}{'' if registry == 'main' else f'/{registry}'}/index/"

    @property
    def requests(self) -> list[Exchange]:
        """What cargo asked and was answered. Only with `recorded`."""
        assert self._recorder is not None, "this server is not recorded"
        return self._recorder.exchanges()

    @property
    def puts(self) -> list[bytes]:
        """The bodies that `cargo publish` sent. Only with `recorded`."""
        return [
            exchange.body
            for exchange in self.requests
            if exchange.method == "PUT" and exchange.target.endswith("/api/v1/crates/new")
        ]

    def forget(self) -> None:
        """Forget what was recorded so far."""
        assert self._recorder is not None, "this server is not recorded"
        self._recorder.forget()


class Cargo:
    """One toolchain's cargo with a home and an environment of its own, knowing nothing of the user's."""

    def __init__(self, root: Path, toolchain: str) -> None:
        self.root = root
        self.toolchain = toolchain
        self.home = root / "cargo-home"
        self.home.mkdir(parents=True)
        keep = ("PATH", "TMPDIR", "LANG", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
        self.env = {key: os.environ[key] for key in keep if key in os.environ}
        self.env |= {
            "HOME": str(root),
            "CARGO_HOME": str(self.home),
            "RUSTUP_HOME": os.environ.get("RUSTUP_HOME") or str(Path.home() / ".rustup"),
            "RUSTUP_AUTO_INSTALL": "0",
            # Nothing is compiled twice here, and nobody debugs it: a quarter of the time.
            "CARGO_INCREMENTAL": "0",
            "CARGO_PROFILE_DEV_DEBUG": "0",
        }

    @property
    def version(self) -> tuple[int, int]:
        """As in (1, 95)."""
        major, minor, _ = self("--version").split()[1].split(".", 2)
        return int(major), int(minor)

    def __call__(
        self,
        *arguments: str | Path,
        cwd: Path | None = None,
        fails: bool = False,
        stdin: str = "",
        typed: str = "",
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Run cargo and return all that it printed, stdout and stderr as they came.

        `stdin` comes from a pipe, `typed` from a terminal, where cargo says what it waits for.
        """
        keyboard, terminal = os.openpty()
        os.write(keyboard, typed.encode())
        with tempfile.TemporaryFile() as pipe:
            pipe.write(stdin.encode())
            pipe.seek(0)
            done = subprocess.run(
                ["cargo", f"+{self.toolchain}", *map(str, arguments)],
                cwd=cwd or self.root,
                env={**self.env, **(env or {})},
                stdin=terminal if typed else pipe,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_COMMAND_S,
                check=False,
            )
        os.close(keyboard)
        os.close(terminal)
        wanted = "failure" if fails else "success"
        assert (done.returncode != 0) is fails, f"not a {wanted}: cargo {arguments}\n{done.stdout}"
        return done.stdout

    def configure(self, text: str) -> None:
        """Add lines to `config.toml` in cargo's home."""
        with (self.home / "config.toml").open("a") as file:
            file.write(text + "\n")

    def use(self, server: Server, registry: str = "main", *, name: str = "test", token: str = "") -> None:
        """Make a registry of a server known under a name, and store a token for it."""
        self.configure(f'[registries.{name}]\nindex = "{server.index_url(registry)}"')
        if token:
            with (self.home / "credentials.toml").open("a") as file:
                file.write(f'[registries.{name}]\ntoken = "{token}"\n')

    def new(
        self,
        name: str,
        version: str = "1.0.0",
        *,
        deps: Mapping[str, str] | None = None,
        features: Mapping[str, Sequence[str]] | None = None,
        more: str = "",
        package: str = "",
        lib: str = "",
        main: str | None = None,
        registry: str = "test",
        folder: Path | None = None,
    ) -> Path:
        """Write a package, in place of any other version of it, and return its folder.

        `deps` are requirements in `registry`, or whole TOML values in braces; `package` are more lines for
        `[package]`, `more` whole tables. With `main` it is a program, else a library.
        """
        folder = folder or self.root / name
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "src").mkdir(parents=True)
        lines = ["[package]", f'name = "{name}"', f'version = "{version}"', 'edition = "2021"', package]
        lines.append("[dependencies]")
        for dep, value in (deps or {}).items():
            value = value if value.startswith("{") else f'{{ version = "{value}", registry = "{registry}" }}'
            lines.append(f"{dep} = {value}")
        if features:
            lines.append("[features]")
            lines += [
                f"{feature} = {list(values)!r}".replace("'", '"') for feature, values in features.items()
            ]
        (folder / "Cargo.toml").write_text("\n".join([*lines, more, ""]))
        source = folder / "src" / ("lib.rs" if main is None else "main.rs")
        source.write_text(lib if main is None else main)
        return folder

    def publish(self, package: Path, *options: str, registry: str = "test", fails: bool = False) -> str:
        """Publish without compiling first, which adds nothing here but seconds. Return what cargo printed."""
        return self("publish", "--registry", registry, "--no-verify", *options, cwd=package, fails=fails)


def until(claim: Callable[[], bool], within_s: float = 10) -> None:
    """Wait until something is so; fail if it does not become so in time."""
    end = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.01)
