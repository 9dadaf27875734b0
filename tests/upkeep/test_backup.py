"""`cargo-registry backup` and `restore`: what comes back is what there was."""

import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cargo_registry import backup as backups
from cargo_registry.db import upgrade
from tests.conftest import _has_cargo, missing
from tests.crates import crate_file
from tests.programs import Cargo, Server
from tests.upkeep.client import Client, sha256
from tests.upkeep.conftest import all_is_well, die_in, operate, read_only, succeed, token_of


def publish_files(folder: Path, tmp_path: Path, *crates: str) -> None:
    """Publish crates given as NAME-VERSION, by the operator."""
    files = []
    for crate in crates:
        name, _, vers = crate.rpartition("-")
        files.append(tmp_path / f"{crate}.crate")
        files[-1].write_bytes(crate_file(name, vers))
    succeed(folder, "publish", *files, "--as", "alice")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Data with four versions, one yanked."""
    folder = tmp_path / "data"
    token_of(folder, "alice")
    publish_files(folder, tmp_path, "foo-1.0.0", "foo-1.1.0", "bar-1.0.0", "Baz_q-0.1.0")
    succeed(folder, "crate", "yank", "foo@1.0.0")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Return index files and tarballs by their path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for kind in ("index_data", "crates_storage")
        for path in (folder / kind / "main").rglob("*")
        if path.is_file()
    }


def copied(folder: Path, *command: str | Path) -> tuple[int, int, list[str]]:
    """Run a backup or restore, and return how many tarballs are in it, were copied now, and are missing."""
    found = succeed(folder, *command, "--json").json()
    return found["tarballs"], found["copied"], found["missing"]


def test_cargo_builds_from_a_restored_registry(tmp_path: Path) -> None:
    """With the token from before, from an index that is the same to the byte."""
    if not _has_cargo("stable"):
        missing("`cargo +stable` is missing; install it with `rustup toolchain install stable`")
    config = '[registries.main]\naccess = "auth-required"\n'
    lost, found = tmp_path / "lost", tmp_path / "found"
    cargo = Cargo(tmp_path / "cargo", "stable")
    with Server(lost, config) as server:
        token = token_of(lost, "alice")
        port = int(server.direct_url.rpartition(":")[2])
        cargo.use(server, token=token)
        cargo.configure('[registry]\nglobal-credential-providers = ["cargo:token"]')
        cargo.publish(cargo.new("leaf", lib="pub fn leaf() -> u32 { 20 }"))
        cargo.publish(cargo.new("node", deps={"leaf": "1"}, lib="pub fn node() -> u32 { leaf::leaf() + 1 }"))
        succeed(lost, "backup", tmp_path / "backup")
        before = contents(lost)
    shutil.rmtree(lost)
    assert copied(found, "restore", tmp_path / "backup") == (2, 2, [])
    assert contents(found) == before
    all_is_well(found)
    main = 'fn main() { println!("{}", node::node() * 2); }'
    # A server at the same address: that is what lock files and published manifests name.
    with Server(found, config, port=port):
        app = cargo.new("app", deps={"node": "1"}, main=main)
        assert cargo("run", "--quiet", cwd=app).endswith("42\n")
        cargo.publish(cargo.new("leaf", "1.0.1", lib="pub fn leaf() -> u32 { 21 }"))
    all_is_well(found)


def test_backup_while_publishing_is_of_one_moment(running: Server, alice: Client, tmp_path: Path) -> None:
    """What was acknowledged before it began is in it, and nothing in it is without its tarball."""
    over = threading.Event()
    answered: list[str] = []

    def publish(number: int) -> None:
        with Client(running.direct_url, alice.token) as client:
            turn = 0
            while not over.is_set():
                turn += 1
                name = f"made-{number}"
                assert client.publish(name, f"1.0.{turn}").status == 200
                answered.append(f"{name}@1.0.{turn}")
                assert client.yank(name, f"1.0.{turn}").status == 200

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    in_it = 0
    for turn in range(2):  # the second renews it
        time.sleep(0.3)
        before = list(answered)
        total, now, lost = copied(running.data_dir, "backup", tmp_path / "backup")
        assert (lost, now) == ([], total - in_it)
        in_it = total
        assert total >= len(before)
        restored = tmp_path / f"restored-{turn}"
        assert copied(restored, "restore", tmp_path / "backup") == (total, total, [])
        all_is_well(restored)
        in_index = b"".join(data for path, data in contents(restored).items() if path.startswith("index"))
        for crate in before:
            name, _, vers = crate.partition("@")
            assert f'"name":"{name}","vers":"{vers}"'.encode() in in_index
    over.set()
    for thread in threads:
        thread.join()
    all_is_well(running.data_dir)


def test_renewal_copies_only_what_is_new(folder: Path, tmp_path: Path) -> None:
    assert copied(folder, "backup", tmp_path / "backup") == (4, 4, [])
    assert copied(folder, "backup", tmp_path / "backup") == (4, 0, [])
    publish_files(folder, tmp_path, "foo-1.2.0")
    succeed(folder, "crate", "unyank", "foo@1.0.0")
    assert copied(folder, "backup", tmp_path / "backup") == (5, 1, [])
    assert copied(tmp_path / "new", "restore", tmp_path / "backup") == (5, 5, [])
    assert contents(tmp_path / "new") == contents(folder)
    backup = tmp_path / "backup"
    assert backup.stat().st_mode & 0o777 == 0o700
    assert (backup / "registry.db").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in backup.iterdir()) == ["crates_storage", "registry.db"]


@pytest.mark.parametrize("after", [False, True])
def test_interrupted_backup_leaves_the_old_one_whole(folder: Path, tmp_path: Path, after: bool) -> None:
    succeed(folder, "backup", tmp_path / "backup")
    before = contents(folder)
    publish_files(folder, tmp_path, "new-1.0.0", "new-1.1.0")
    command = ["backup", str(tmp_path / "backup")]
    # Killed before or after the last step, which puts the new database in place of the old one.
    die_in(upgrade, "lay_up", after=after, folder=folder, command=command)
    assert copied(tmp_path / "old", "restore", tmp_path / "backup") == (4, 4, [])
    assert contents(tmp_path / "old") == before
    all_is_well(tmp_path / "old")
    assert copied(folder, "backup", tmp_path / "backup") == (6, 0, [])
    assert copied(tmp_path / "new", "restore", tmp_path / "backup") == (6, 6, [])
    assert contents(tmp_path / "new") == contents(folder)


def test_interrupted_restore_goes_on(folder: Path, tmp_path: Path) -> None:
    succeed(folder, "backup", tmp_path / "backup")
    target = tmp_path / "new"
    command = ["restore", str(tmp_path / "backup")]
    die_in(backups, "_copy", after=True, folder=target, command=command)
    assert not (target / "registry.db").exists()
    assert copied(target, *command) == (4, 3, [])
    assert contents(target) == contents(folder)
    all_is_well(target)


def test_restore_into_an_empty_folder_and_never_over_a_registry(folder: Path, tmp_path: Path) -> None:
    succeed(folder, "backup", tmp_path / "backup")
    empty = tmp_path / "empty"
    empty.mkdir()
    succeed(empty, "restore", tmp_path / "backup")
    assert contents(empty) == contents(folder)
    before = contents(folder)
    refused = operate(folder, "restore", tmp_path / "backup")
    assert (refused.code, "there is a registry in" in refused.stderr) == (1, True)
    assert contents(folder) == before
    for nothing in (tmp_path / "nowhere", tmp_path):
        refused = operate(tmp_path / "other", "restore", nothing)
        assert (refused.code, "is no backup" in refused.stderr) == (1, True)


def test_backup_goes_only_into_a_backup(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "documents"
    other.mkdir()
    (other / "thesis.txt").write_text("do not touch")
    refused = operate(folder, "backup", other)
    assert (refused.code, "not empty" in refused.stderr) == (1, True)
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]


def test_damage_at_the_source_is_named_and_the_rest_is_kept(folder: Path, tmp_path: Path) -> None:
    (path,) = (folder / "crates_storage").rglob("bar-*.crate")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    done = operate(folder, "backup", tmp_path / "backup")
    assert done.code == 1
    assert "main: bar@1.0.0: the tarball is missing or damaged" in done.stderr
    restored = operate(tmp_path / "new", "restore", tmp_path / "backup")
    assert (restored.code, "main: bar@1.0.0" in restored.stderr) == (1, True)
    checked = operate(tmp_path / "new", "fsck", "--deep", "--json")
    assert [one["what"] for one in checked.json()["findings"]] == ["bar@1.0.0"]


def test_bytes_that_went_bad_in_the_backup_are_not_restored(folder: Path, tmp_path: Path) -> None:
    succeed(folder, "backup", tmp_path / "backup")
    (path,) = (tmp_path / "backup").rglob("bar-*.crate")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    done = operate(tmp_path / "new", "restore", tmp_path / "backup")
    assert (done.code, "main: bar@1.0.0" in done.stderr) == (1, True)
    assert not list((tmp_path / "new" / "crates_storage").rglob("bar-*.crate"))


def test_restore_from_where_nothing_can_be_written(folder: Path, tmp_path: Path) -> None:
    """A backup on a medium, or one that is mounted read-only so that nobody spoils it."""
    backup = tmp_path / "backup"
    succeed(folder, "backup", backup)
    with read_only(backup):
        succeed(tmp_path / "new", "restore", backup)
    assert contents(tmp_path / "new") == contents(folder)


def test_what_a_deleted_database_left_is_not_mixed_in(folder: Path, tmp_path: Path) -> None:
    """Who deletes `registry.db` and not its log would have SQLite play the log into the restored one."""
    succeed(folder, "backup", tmp_path / "backup")
    before = contents(folder)
    with closing(sqlite3.connect(folder / "registry.db")) as rows:
        rows.execute("UPDATE versions SET yanked = 1")
        rows.commit()
        kept = {path: path.read_bytes() for path in folder.glob("registry.db-*")}
    assert any(kept.values()), "there is a log"
    (folder / "registry.db").unlink()
    for path, data in kept.items():
        path.write_bytes(data)
    succeed(folder, "restore", tmp_path / "backup")
    assert contents(folder) == before
    all_is_well(folder)


def test_backup_is_a_data_folder_of_its_own(folder: Path, tmp_path: Path) -> None:
    """In an emergency a server can be started right on a copy of it; only the index must be made."""
    succeed(folder, "backup", tmp_path / "backup")
    shutil.copytree(tmp_path / "backup", tmp_path / "copy")
    succeed(tmp_path / "copy", "index", "rebuild")
    assert contents(tmp_path / "copy") == contents(folder)
    for path in (tmp_path / "copy" / "crates_storage").rglob("*.crate"):
        assert sha256(path.read_bytes()) in path.name
    all_is_well(tmp_path / "copy")


def test_every_registry_is_in_it(tmp_path: Path) -> None:
    """Also one that the configuration of the new place does not name: it is kept, and said."""
    folder, config = tmp_path / "data", "[registries.main]\n[registries.other]\n"
    folder.mkdir()
    (folder / "config.toml").write_text(config)
    token_of(folder, "alice")
    publish_files(folder, tmp_path, "foo-1.0.0")
    succeed(folder, "publish", tmp_path / "foo-1.0.0.crate", "--as", "alice", "--registry", "other")
    assert copied(folder, "backup", tmp_path / "backup") == (2, 2, [])
    done: Any = succeed(tmp_path / "new", "restore", tmp_path / "backup")
    assert "registry `other`" in done.stderr
    (tmp_path / "new" / "config.toml").write_text(config)
    succeed(tmp_path / "new", "index", "rebuild")
    all_is_well(tmp_path / "new")
    assert contents(tmp_path / "new") == contents(folder)
