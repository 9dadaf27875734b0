import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.served import Serve, Served


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, settings: str = "") -> Served:
        config = tmp_path / "config.toml"
        config.write_text(settings)
        stderr = tmp_path / f"stderr {len(started)}"
        command = [sys.executable, "-m", "cargo_registry", "serve", "--port", "0", "--config", str(config)]
        with stderr.open("wb") as file:
            process = subprocess.Popen(
                [*command, "--data-dir", str(tmp_path / "data"), *arguments],
                stdout=subprocess.PIPE,
                stderr=file,
                start_new_session=True,
            )
        started.append(process)
        return Served(process, stderr)

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
