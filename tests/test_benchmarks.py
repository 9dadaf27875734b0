"""`make bench` where that is quick: another registry by its URL, and that nothing is left behind. Never how fast."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import cargo, tools
from tests import crates
from tests.conftest import missing
from tests.programs import Server, until

PROJECT = Path(__file__).parents[1]


@pytest.fixture
def load_tools() -> None:
    """The load tools and nginx."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if absent := [tool for tool in tools.ALL if not shutil.which(tool, path=path)]:
        missing(f"{', '.join(absent)} are not here; `make bench` installs them")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A registry with two crates, which takes publishes as fast as they come."""
    root = tmp_path_factory.mktemp("registry")
    with Server(root, "[registries.main]\n[limits]\nrate_limits = false\n") as server:
        for name in ("first", "second"):
            body = crates.publish_body(crates.metadata(name, "1.0.0"), crates.crate_file(name, "1.0.0"))
            answer = server.http.put(
                "/api/v1/crates/new", content=body, headers={"Authorization": server.token("alice")}
            )
            assert answer.status_code == 200, answer.text
        yield server


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.usefixtures("load_tools")
def test_other_registry_is_measured_by_its_url(registry: Server, tmp_path: Path) -> None:
    done = bench(
        *(
            "--url",
            registry.index_url(),
            "--token",
            registry.token("alice"),
            "--pid",
            str(registry.process.pid),
        ),
        *("--quick", "--cases", "index 304", "--folder", tmp_path, "--out", tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    said = json.loads((tmp_path / "out/peer.json").read_text())
    ((row,),) = said["results"].values()
    assert row["name"] == "index 304"
    for sample in (row["samples"][0], row["others"][0]):
        assert sample["requests_per_s"] > 0
        assert sample["cpu_us"] > 0
        assert sample["failed"] == 0
    figures = {figure["name"]: figure["value"] for figure in said["figures"]}
    assert figures["publish 30 KiB, 8 at once"].endswith("/s")
    assert "ms" in figures["search, exact name, p99"]
    assert "| index 304 | nginx |" in (tmp_path / "out/peer.md").read_text()
    assert "| index 304 | nginx |" in done.stdout


@pytest.mark.usefixtures("load_tools")
def test_what_is_no_registry_is_said_to_be_none(registry: Server) -> None:
    done = bench("--url", f"{registry.url}/nothing/index/")
    assert done.returncode == 1
    assert done.stderr == f"{registry.url}/nothing/index/config.json answers 404\n"


@pytest.mark.usefixtures("load_tools")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_when_interrupted(tmp_path: Path, number: signal.Signals) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "--quick",
        "--only",
        "publishing",
        "--folder",
        str(tmp_path),
    ]
    process = subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    until(lambda: any(tmp_path.glob("*/publish.log")), within_s=60)
    os.killpg(process.pid, number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert list(tmp_path.iterdir()) == []
    until(lambda: not alive_in(process.pid), within_s=10)


def alive_in(group: int) -> list[str]:
    """Return what `/proc` says of the processes of a group; a zombie of an orphan waits for init."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                found.append(str(stat))
    return found


def test_without_real_crates_they_are_generated(tmp_path: Path) -> None:
    program = cargo.program(tmp_path / "program", tmp_path / "not-there")
    assert program.what == "150 generated crates (no real ones here)"
    assert len(list(program.tarballs.glob("*.crate"))) == 150
