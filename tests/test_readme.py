"""The README's tour, typed by a stranger into a shell, line by line, with each cargo."""

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs import until

README = Path(__file__).parents[1] / "README.md"

_LINE_S = 120


class Shell:
    """A bash that is given one command after the other, as at a terminal."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        script, self._typing = os.pipe()
        # Not by stdin: a command that reads would get the next lines.
        self._process = subprocess.Popen(
            ["bash", f"/dev/fd/{script}"],
            pass_fds=[script],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        os.close(script)

    def run(self, command: str) -> tuple[int, str]:
        """Return the exit code and what was printed."""
        assert self._process.stdout is not None
        os.write(self._typing, f"{command}\nprintf '\\n[exit %d]\\n' $?\n".encode())
        said = b""
        end = time.monotonic() + _LINE_S
        while (ended := re.search(rb"\n\[exit (\d+)\]\n$", said)) is None:
            readable, _, _ = select.select([self._process.stdout], [], [], max(0, end - time.monotonic()))
            piece = os.read(self._process.stdout.fileno(), 65536) if readable else b""
            assert piece, f"no end of: {command}\n{said.decode()}"
            said += piece
        return int(ended[1]), said[: ended.start()].decode()

    def close(self) -> None:
        os.close(self._typing)
        self._process.communicate(timeout=10)


class FirstTerminal:
    """Where `make run` is typed: the command that it ends in, without installing it again."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self._folder = folder
        self._env = env
        self.port = env["CRG_SERVER__PORT"]
        self._process: subprocess.Popen[bytes] | None = None

    def make_run(self) -> None:
        """Press Ctrl-C if it runs, and start it."""
        self.press_ctrl_c()
        # The Makefile's line but for `ARGS`.
        command = 'exec .venv/bin/cargo-registry serve --bootstrap "$(id -un)"'
        with (self._folder / "stderr").open("wb") as stderr:
            self._process = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], 20)[0]
        line = self._process.stdout.readline().decode()
        assert line == f"listening on http://127.0.0.1:{self.port}\n", self.stderr()

    def stderr(self) -> str:
        return (self._folder / "stderr").read_text()

    def press_ctrl_c(self) -> None:
        """End it as a terminal does, with all that it started."""
        if self._process is None or self._process.returncode is not None:
            return
        os.killpg(self._process.pid, signal.SIGINT)
        self._process.communicate(timeout=30)
        assert self._process.returncode == 0, self.stderr()
        assert "Traceback" not in self.stderr()


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield the language and the text of each block that is fenced."""
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


def commands(block: str) -> Iterator[str]:
    """Yield the commands of a block: its lines, a here-document as one."""
    lines = iter(block.splitlines())
    for line in lines:
        command = line
        if here := re.search(r"<<'(\w+)'", line):
            for further in lines:
                command += f"\n{further}"
                if further == here[1]:
                    break
        yield command


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


Terminals = tuple[FirstTerminal, Shell]


@pytest.fixture
def terminals(toolchain: str, tmp_path: Path) -> Iterator[Terminals]:
    """Both in the project's folder, of somebody who has an empty home."""
    home, folder = tmp_path / "home", tmp_path / "cargo-registry"
    for path in (home, folder / ".venv"):
        path.mkdir(parents=True)
    (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "RUSTUP_HOME": os.environ.get("RUSTUP_HOME") or str(Path.home() / ".rustup"),
        "RUSTUP_TOOLCHAIN": toolchain,
        "CRG_SERVER__PORT": str(free_port()),
    }
    first, second = FirstTerminal(folder, env), Shell(folder, env)
    try:
        yield first, second
    finally:
        second.close()
        first.press_ctrl_c()


def test_tour_works_as_it_is_typed(terminals: Terminals) -> None:
    first, second = terminals
    said, ran = "", 0
    for language, block in blocks(README.read_text().replace("8000", first.port)):
        if language == "text":
            for line in block.splitlines():
                assert line in said, f"the README promises: {line}\nbut it was:\n{said}"
            continue
        assert language == "sh"
        said = ""
        for command in commands(block):
            if command == "make run":
                first.make_run()
                continue
            code, printed = second.run(command)
            said += printed
            ran += 1
            assert (code != 0) is ("# refused" in command), f"$ {command}\n{printed}\nexit {code}"
    assert ran > 50


def test_what_the_first_make_run_says_is_enough_to_publish(terminals: Terminals) -> None:
    first, second = terminals
    first.make_run()
    until(lambda: "cargo publish" in first.stderr())
    hint = first.stderr()
    (token,) = set(re.findall(r"crg_\w+", hint))
    config = re.search(r"^ *(\[registries\.main\])\n *(index = .*)$", hint, re.MULTILINE)
    assert config is not None
    for command in (
        f"mkdir -p ~/.cargo && printf '%s\\n' '{config[1]}' '{config[2]}' > ~/.cargo/config.toml",
        f"echo {token} | cargo login --registry main",
        "cd && cargo new --vcs none --lib first && cd first",
        "cargo publish --registry main",
    ):
        code, printed = second.run(command)
        assert code == 0, f"$ {command}\n{printed}"
    # Never twice.
    first.make_run()
    first.press_ctrl_c()
    assert "crg_" not in first.stderr()
