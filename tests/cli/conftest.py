import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cargo_registry.cli.main import main
from tests.crates import crate_file


@dataclass(frozen=True, slots=True)
class Done:
    """What a command left: its exit code, and what it printed where."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        return json.loads(self.stdout)


class Cli:
    """The command line on a data folder of its own.

    A call runs `main` in the test's process, arguments and exit code included, as a start of Python takes half
    a second; `process` starts it for real.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.monkeypatch = monkeypatch
        for variable in [name for name in os.environ if name.startswith("CRG_")]:
            monkeypatch.delenv(variable)
        monkeypatch.chdir(root)

    def __call__(self, *arguments: str | Path, program: str = "cargo-registry") -> Done:
        self.monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
        code: Any = 0
        with redirect_stdout(io.StringIO()) as stdout, redirect_stderr(io.StringIO()) as stderr:
            try:
                main()
            except SystemExit as ended:
                code = ended.code or 0
        done = Done(code, stdout.getvalue(), stderr.getvalue())
        assert "Traceback" not in done.stderr
        return done

    def ok(self, *arguments: str | Path) -> Done:
        done = self(*arguments)
        assert done.code == 0, done
        return done

    def fails(self, *arguments: str | Path, code: int = 1) -> str:
        """Run what must fail, and return what it said on stderr: a sentence, nothing on stdout."""
        done = self(*arguments)
        assert (done.code, done.stdout) == (code, ""), done
        assert done.stderr
        return done.stderr

    def process(
        self, *arguments: str | Path, command: tuple[str, ...] = (), env: Mapping[str, str] | None = None
    ) -> Done:
        done = subprocess.run(
            [*(command or (sys.executable, "-m", "cargo_registry")), *map(str, arguments)],
            cwd=self.root,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def crate(self, name: str, vers: str = "1.0.0", data: bytes | None = None) -> Path:
        """Write a `.crate` file."""
        file = self.root / f"{name}-{vers}.crate"
        file.write_bytes(crate_file(name, vers) if data is None else data)
        return file

    def publish(self, name: str, *versions: str, login: str = "alice") -> None:
        """Publish, as a user who is made if need be."""
        self("user", "add", login)
        files = [self.crate(name, vers) for vers in versions or ("1.0.0",)]
        self.ok("publish", *files, "--as", login)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(tmp_path, monkeypatch)
