"""Fixtures that all tests share: the server in a real process, real cargo, real crates."""

import functools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs import Cargo, Server

DATA = Path(__file__).parents[1].parent / "shared" / "data"


def missing(what: str) -> None:
    """Skip the test as something is not on this machine; in CI, where all must be there, fail."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}, and CI is set")
    pytest.skip(what)


@functools.cache
def _has_cargo(toolchain: str) -> bool:
    try:
        return not subprocess.run(
            ["cargo", f"+{toolchain}", "--version"],
            env={**os.environ, "RUSTUP_AUTO_INSTALL": "0"},
            capture_output=True,
            timeout=60,
            check=False,
        ).returncode
    except FileNotFoundError:
        return False


@pytest.fixture(scope="session", params=["stable", "nightly"])
def toolchain(request: pytest.FixtureRequest) -> str:
    """A toolchain of rustup; what uses it runs once for each."""
    name: str = request.param
    if not _has_cargo(name):
        missing(f"`cargo +{name}` is missing; install it with `rustup toolchain install {name}`")
    return name


@pytest.fixture
def cargo(toolchain: str, tmp_path: Path) -> Cargo:
    """Cargo with an empty home; no registry is configured."""
    return Cargo(tmp_path / "cargo", toolchain)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one public registry and no users, shared by the tests of a module."""
    with Server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real crates, which lies beside the project where there is one."""
    if not DATA.is_dir():
        missing("the real crates are not on this machine (`shared/data` beside the project)")
    return DATA
