"""The 339 real crates of `shared/data`: in by the command line, and out through both cargos."""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.programs import Cargo, Server

# The registry stands in for crates.io: a manifest that names no registry means this one.
CONFIG = """
[registries.main]
aliases = ["https://github.com/rust-lang/crates.io-index"]
"""

# What a line means that does not have the key (the Cargo book, "Index format").
LINE_DEFAULTS: dict[str, Any] = {"features2": None, "links": None, "rust_version": None, "v": 1}
DEP_DEFAULTS: dict[str, Any] = {
    "features": [],
    "optional": False,
    "default_features": True,
    "target": None,
    "kind": "normal",
    "registry": None,
    "package": None,
}


@pytest.fixture(scope="session")
def registry(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A registry that all the crates were published to, in alphabetical order."""
    files = sorted((data / "crates").glob("*.crate"))
    with Server(tmp_path_factory.mktemp("real"), CONFIG) as server:
        server.user("importer", "--role", "admin")
        published = server.cli("publish", *files, "--as", "importer").stdout.splitlines()
        assert len(published) == len(files) == 339
        yield server


def user(cargo: Cargo, server: Server) -> Cargo:
    cargo.configure(server.cli("client-config", "--replace-crates-io").stdout)
    return cargo


def copied(data: Path, app: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(data / "apps" / app, tmp_path / app))


def meaning(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line with every default written out, and without the time at which it was published."""
    spelled = {key: value for key, value in line.items() if value is not None and key != "pubtime"}
    deps = [
        DEP_DEFAULTS | {key: value for key, value in dep.items() if value is not None} for dep in line["deps"]
    ]
    return LINE_DEFAULTS | spelled | {"deps": deps}


def lines(text: str) -> dict[str, dict[str, Any]]:
    """Return the lines of an index file by version."""
    return {line["vers"]: line for line in map(json.loads, text.splitlines())}


def test_every_index_line_says_what_crates_io_says(registry: Server, data: Path) -> None:
    index = data / "index"
    paths = [path.relative_to(index) for path in sorted(index.rglob("*")) if path.is_file()]
    wrong, count = {}, 0
    for path in paths:
        ours = lines(registry.http.get(f"/index/{path}").text)
        theirs = lines((index / path).read_text())
        assert ours.keys() == theirs.keys(), path
        for vers, line in ours.items():
            assert line.keys() >= {"name", "vers", "deps", "cksum", "features", "yanked"}
            assert len(line["pubtime"]) == len("2026-11-25T12:00:00Z")
            count += 1
            if meaning(line) != meaning(theirs[vers]):
                wrong[f"{path} {vers}"] = (line, theirs[vers])
    assert not wrong
    assert count == 339


def test_every_tarball_comes_back_as_it_went_in(registry: Server, data: Path) -> None:
    for file in (path for path in (data / "index").rglob("*") if path.is_file()):
        for vers, line in lines(file.read_text()).items():
            answer = registry.http.get(f"/api/v1/crates/{line['name']}/{vers}/download")
            assert hashlib.sha256(answer.content).hexdigest() == line["cksum"]


def test_large_program_is_fetched_from_here_alone(
    cargo: Cargo, registry: Server, data: Path, tmp_path: Path
) -> None:
    app = copied(data, "large", tmp_path)
    user(cargo, registry)("fetch", "--locked", cwd=app)
    assert len(list(cargo.home.glob("registry/cache/*/*.crate"))) == 338
    (asked,) = cargo.home.glob("registry/index/*")
    assert asked.name.startswith("127.0.0.1-")


def test_small_program_is_built_and_runs(cargo: Cargo, registry: Server, data: Path, tmp_path: Path) -> None:
    app = copied(data, "small", tmp_path)
    user(cargo, registry)("build", "--locked", cwd=app)
    records = (
        '{"name": "apples", "amount": 3}\n{"name": "pears", "amount": 4}\n{"name": "apples", "amount": 5}\n'
    )
    (tmp_path / "records").write_text(records)
    tally = app / "target/debug/tally"
    done = subprocess.run(
        [tally, "--min", "5", tmp_path / "records"], capture_output=True, text=True, check=True
    )
    total, checksum = done.stdout.splitlines()
    assert re.sub(r"\x1b\[\d*m", "", total) == "apples 8"
    assert checksum.startswith(f"sha256 {hashlib.sha256(records.encode()).hexdigest()} pid ")


def test_programs_resolve_anew_to_what_is_here(
    cargo: Cargo, registry: Server, data: Path, tmp_path: Path
) -> None:
    """`cargo update` finds what was locked: there is nothing newer, and nothing missing."""
    app = copied(data, "small", tmp_path)
    locked = (app / "Cargo.lock").read_text()
    user(cargo, registry)("update", cwd=app)
    assert (app / "Cargo.lock").read_text() == locked


def test_index_files_are_what_the_rows_say(registry: Server) -> None:
    registry.cli("index", "verify")
    done = registry.cli("index", "rebuild", "--json")
    assert json.loads(done.stdout) == {"changed": {"main": 0}}
