"""A process dies at one exact point of a change. What is left is right, and the next start puts it in order."""

import asyncio
import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from cargo_registry import index, upkeep
from cargo_registry.storage import disk
from cargo_registry.storage.disk import DiskStore
from tests.crates import crate_file
from tests.programs import Server
from tests.upkeep.client import Client, index_path, sha256
from tests.upkeep.conftest import all_is_well, die_in, operate, resize, succeed, token_of

OLD, NEW = crate_file("foo", "1.0.0"), crate_file("foo", "1.1.0")
OTHER = crate_file("foo", "1.1.0", files={"src/lib.rs": b"// other bytes"})
FIRST = crate_file("bar", "1.0.0")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data with `foo@1.0.0` of alice."""
    folder = tmp_path_factory.mktemp("template")
    token_of(folder, "alice")
    (folder / "foo-1.0.0.crate").write_bytes(OLD)
    succeed(folder, "publish", folder / "foo-1.0.0.crate", "--as", "alice")
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    for name, data in (("foo-1.1.0", NEW), ("foo-1.1.0-other", OTHER), ("bar-1.0.0", FIRST)):
        (tmp_path / f"{name}.crate").write_bytes(data)
    return Path(shutil.copytree(template, tmp_path / "data"))


def index_file(folder: Path, name: str) -> bytes:
    path = folder / "index_data" / "main" / index_path(name)
    return path.read_bytes() if path.exists() else b""


def shown(folder: Path, name: str) -> list[tuple[str, bool]]:
    """Return the versions of a crate as the command line shows them, and whether they are yanked."""
    found = operate(folder, "crate", "show", name, "--json")
    if found.code:
        return []
    return [(version["vers"], version["yanked"]) for version in found.json()["versions"]]


# Where it dies, and whether the change has happened then.
POINTS = {
    "after the spool, before anything else": (index, "change", False, False),
    "before the tarball is moved": (DiskStore, "adopt", False, False),
    "after the tarball is moved": (DiskStore, "adopt", True, False),
    "in the middle of preparing the index file": (disk, "_keep_room", False, False),
    "after preparing, before fsync": (DiskStore, "prepare", True, False),
    "after fsync, before COMMIT": (DiskStore, "sync", True, False),
    "after COMMIT, before the rename": (DiskStore, "show", False, True),
    "after the rename": (DiskStore, "show", True, True),
}


@pytest.mark.parametrize(
    ("point", "crate"),
    # A new version of a crate that is there, at each point; the first of a new one where it makes a difference.
    [(point, "foo-1.1.0") for point in POINTS] + [(point, "bar-1.0.0") for point in list(POINTS)[3:7]],
)
def test_publish_that_died_is_whole_or_can_be_repeated(folder: Path, point: str, crate: str) -> None:
    where, function, after, happened = POINTS[point]
    name, _, vers = crate.partition("-")
    before = index_file(folder, name)
    command = ["publish", f"{folder.parent}/{crate}.crate", "--as", "alice"]
    die_in(where, function, after=after, folder=folder, command=command)
    if point != "after the rename":
        assert index_file(folder, name) == before, "nothing half-done is visible, before any repair either"

    assert ((vers, False) in shown(folder, name)) is happened
    assert (f'"{vers}"'.encode() in index_file(folder, name)) is happened
    assert not list((folder / "index_data" / ".pending").iterdir())

    other = crate_file(name, vers, files={"src/lib.rs": b"// other bytes"})
    (folder.parent / "again.crate").write_bytes(other)
    again = operate(folder, "publish", folder.parent / "again.crate", "--as", "alice")
    assert (again.code == 0) is not happened, again.stderr
    wanted = sha256((FIRST if name == "bar" else NEW) if happened else other)
    assert wanted.encode() in index_file(folder, name)
    all_is_well(folder)


@pytest.mark.parametrize("point", list(POINTS)[3:])
def test_yank_that_died_is_whole_or_has_not_happened(folder: Path, point: str) -> None:
    where, function, after, happened = POINTS[point]
    command = ["crate", "yank", "foo@1.0.0"]
    die_in(where, function, after=after, folder=folder, command=command)
    assert shown(folder, "foo") == [("1.0.0", happened)]
    assert (b'"yanked":true' in index_file(folder, "foo")) is happened
    all_is_well(folder)


@pytest.mark.parametrize(
    ("where", "function", "after", "happened"),
    [
        (DiskStore, "prepare", True, False),
        (DiskStore, "show", False, True),
        (DiskStore, "delete", False, True),  # of the tarball
        (DiskStore, "delete", True, True),
    ],
)
def test_deletion_that_died_is_whole_or_has_not_happened(
    folder: Path, where: Any, function: str, after: bool, happened: bool
) -> None:
    command = ["crate", "delete", "foo", "--reason", "a test"]
    die_in(where, function, after=after, folder=folder, command=command)
    assert shown(folder, "foo") == ([] if happened else [("1.0.0", False)])
    assert (index_file(folder, "foo") == b"") is happened
    all_is_well(folder)
    if happened:
        succeed(folder, "publish", folder / "foo-1.0.0.crate", "--as", "alice")
        all_is_well(folder)


@pytest.mark.parametrize("point", list(POINTS)[4:])
def test_changes_that_share_a_commit_die_together_or_not_at_all(folder: Path, point: str) -> None:
    """An import makes several at once; each crate is whole or missing, and the next run brings in the rest."""
    source = folder.parent / "source"
    source.mkdir()
    for number in range(8):
        (source / f"many-{number}-1.0.0.crate").write_bytes(crate_file(f"many-{number}", "1.0.0"))
    where, function, after, _ = POINTS[point]
    command = ["import", str(source), "--as", "alice"]
    die_in(where, function, after=after, folder=folder, command=command)
    all_is_well(folder)
    report = succeed(folder, *command, "--json").json()
    assert len(report["imported"]) + len(report["had"]) == 8
    all_is_well(folder)


def test_server_finishes_at_start_what_a_crash_left(folder: Path) -> None:
    command = ["publish", f"{folder.parent}/foo-1.1.0.crate", "--as", "alice"]
    die_in(DiskStore, "show", after=False, folder=folder, command=command)
    assert b"1.1.0" not in index_file(folder, "foo")
    with Server(folder) as server, Client(server.direct_url) as client:
        assert list(client.lines("foo")) == ["1.0.0", "1.1.0"]
        assert client.is_whole("foo", "1.1.0", sha256(NEW))


def test_running_server_finishes_it_with_the_next_change(folder: Path) -> None:
    """Where it was a command that died beside it; a worker that dies is replaced, and that one looks for it."""
    with Server(folder) as server, Client(server.direct_url, token_of(folder, "alice")) as client:
        command = ["publish", f"{folder.parent}/foo-1.1.0.crate", "--as", "alice"]
        die_in(DiskStore, "show", after=False, folder=folder, command=command)
        assert client.yank("foo", "1.0.0").status == 200
        lines = client.lines("foo")
        assert {vers: line["yanked"] for vers, line in lines.items()} == {"1.0.0": True, "1.1.0": False}
    all_is_well(folder)


def test_crash_is_repaired_on_a_full_disk_too(small_disk: Path, template: Path) -> None:
    """What the index file needs was on disk before the COMMIT; only a rename is left."""
    folder = Path(shutil.copytree(template, small_disk / "data"))
    (folder / "new.crate").write_bytes(NEW)
    command = ["publish", f"{folder}/new.crate", "--as", "alice"]
    die_in(DiskStore, "show", after=False, folder=folder, command=command)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1024))
        except OSError:
            pass
    with Server(folder) as server, Client(server.direct_url) as client:
        assert list(client.lines("foo")) == ["1.0.0", "1.1.0"]
        assert client.is_whole("foo", "1.1.0", sha256(NEW))
    resize(small_disk, 30)
    all_is_well(folder)


@pytest.mark.parametrize(
    ("command", "yanked"), [(["crate", "yank", "foo@1.0.0"], True), (["crate", "delete", "foo"], None)]
)
def test_disk_that_fails_after_the_commit_makes_no_error_of_what_has_happened(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], yanked: bool | None
) -> None:
    before = index_file(folder, "foo")

    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(DiskStore, "show", fail)
    succeed(folder, *command, *(["--reason", "a test"] if yanked is None else []))
    assert index_file(folder, "foo") == before
    assert len(list((folder / "crates_storage").rglob("*.crate"))) == 1, "what is listed has its tarball"
    monkeypatch.undo()
    assert shown(folder, "foo") == ([] if yanked is None else [("1.0.0", True)])
    all_is_well(folder)


def test_orphan_that_is_just_published_again_is_not_swept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed publish left its tarball; `fsck --repair` sees that, and before it removes it, it is listed."""
    command = ["publish", f"{folder.parent}/foo-1.1.0.crate", "--as", "alice"]
    die_in(DiskStore, "adopt", after=True, folder=folder, command=command)
    (orphan,) = (folder / "crates_storage").rglob("foo-1.1.0-*.crate")
    os.utime(orphan, (0, 0))
    found = upkeep._unlisted

    async def find_then_publish(*args: Any) -> list[str]:
        keys = await found(*args)
        monkeypatch.setattr(upkeep, "_unlisted", found)
        arguments = ["-m", "cargo_registry", *command, "--data-dir", str(folder)]
        process = await asyncio.create_subprocess_exec(sys.executable, *arguments)
        assert await process.wait() == 0
        return keys

    monkeypatch.setattr(upkeep, "_unlisted", find_then_publish)
    checked = operate(folder, "fsck", "--repair", "--json")
    assert (checked.code, checked.json()["findings"]) == (0, [])
    all_is_well(folder)
