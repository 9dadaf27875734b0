"""Files under keys: what readers see while they change, and what a crash leaves."""

import itertools
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cargo_registry.errors import OutOfSpace
from cargo_registry.storage.disk import DiskStore, fsync
from tests.storage.conftest import fill

KEY = "main/se/rd/serde"


@pytest.fixture
def store(tmp_path: Path) -> DiskStore:
    return DiskStore(tmp_path / "store")


def put(store: DiskStore, data: bytes, key: str = KEY) -> None:
    store.prepare(key, data)
    store.show(key)


def files(store: DiskStore) -> set[str]:
    """Return every file there is, also those in the making."""
    return {path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file()}


# --- Keys ---


def test_key_is_the_path_of_a_file_with_exactly_the_bytes(store: DiskStore) -> None:
    put(store, b"line\n")
    assert (store.root / "main" / "se" / "rd" / "serde").read_bytes() == b"line\n"
    assert store.path(KEY) == store.root / KEY
    assert store.read(KEY) == b"line\n"
    assert store.read("main/se/rd/other") is None
    assert store.read("other/folder") is None


def test_other_accounts_may_read_files(store: DiskStore) -> None:
    """nginx may serve them."""
    put(store, b"line\n")
    spooled = store.spool()
    spooled.write_bytes(b"tarball")
    store.adopt("main/a.crate", spooled)
    for key in (KEY, "main/a.crate"):
        assert stat.S_IMODE(store.path(key).stat().st_mode) == 0o644


@pytest.mark.parametrize(
    "key", ["", ".", "/etc/passwd", "//etc/passwd", "..", "../other", "main/../../other", "main/.."]
)
def test_key_that_leaves_the_store_is_a_bug(store: DiskStore, key: str) -> None:
    (store.root.parent / "other").write_bytes(b"not yours")
    with pytest.raises(ValueError, match="not a key"):
        store.path(key)
    with pytest.raises(ValueError, match="not a key"):
        store.read(key)
    with pytest.raises(ValueError, match="not a key"):
        store.delete(key)
    assert (store.root.parent / "other").exists()


def test_keys_are_those_that_are_finished(store: DiskStore) -> None:
    put(store, b"1", "main/1/a")
    put(store, b"2", "main/se/rd/serde")
    put(store, b"3", "secret/1/a")
    store.prepare("main/2/ab", b"")
    store.spool()
    assert set(store.keys("main")) == {"main/1/a", "main/se/rd/serde"}
    assert set(store.keys("secret")) == {"secret/1/a"}
    assert set(store.keys("nowhere")) == set()
    assert set(store.keys("")) == {"main/1/a", "main/se/rd/serde", "secret/1/a"}


def test_deleted_key_is_free_and_can_be_deleted_again(store: DiskStore) -> None:
    put(store, b"line\n")
    store.delete(KEY)
    store.delete(KEY)
    assert store.read(KEY) is None
    assert files(store) == set()


# --- Prepared, then shown or forgotten ---


def test_prepared_bytes_are_seen_when_shown(store: DiskStore) -> None:
    put(store, b"old")
    store.prepare(KEY, b"new")
    assert (store.read(KEY), store.unfinished()) == (b"old", [KEY])
    store.show(KEY)
    assert (store.read(KEY), store.unfinished()) == (b"new", [])
    assert files(store) == {KEY}


def test_forgotten_bytes_are_never_seen(store: DiskStore) -> None:
    put(store, b"old")
    store.prepare(KEY, b"new")
    store.forget(KEY)
    store.forget(KEY)
    assert (store.read(KEY), store.unfinished()) == (b"old", [])
    assert files(store) == {KEY}


def test_last_preparation_counts(store: DiskStore) -> None:
    store.prepare(KEY, b"a longer text from before a crash")
    store.prepare(KEY, b"new")
    assert store.unfinished() == [KEY]
    store.show(KEY)
    assert store.read(KEY) == b"new"


def test_what_was_prepared_outlives_the_process(store: DiskStore) -> None:
    store.prepare(KEY, b"new")
    store.prepare("secret/1/a", b"new")
    again = DiskStore(store.root)
    assert sorted(again.unfinished()) == [KEY, "secret/1/a"]
    again.show(KEY)
    assert again.read(KEY) == b"new"


def test_each_change_is_a_second_later_than_the_one_before(store: DiskStore) -> None:
    """nginx makes its ETag of size and seconds; a yank and its undoing have one size."""
    times = []
    for data in (b"a", b"b", b"a"):
        put(store, data)
        times.append(store.path(KEY).stat().st_mtime_ns)
    assert all(later - earlier >= 1_000_000_000 for earlier, later in itertools.pairwise(times))
    # After a pause, time is what it is.
    os.utime(store.path(KEY), (1_000_000_000, 1_000_000_000))
    put(store, b"c")
    assert abs(store.path(KEY).stat().st_mtime - time.time()) < 60


def test_prepared_nothing_frees_the_key(store: DiskStore) -> None:
    put(store, b"old")
    store.prepare(KEY, b"")
    assert (store.read(KEY), store.unfinished()) == (b"old", [KEY])
    store.show(KEY)
    assert (store.read(KEY), store.unfinished(), files(store)) == (None, [], set())


def test_forgotten_first_bytes_leave_no_file(store: DiskStore) -> None:
    store.prepare(KEY, b"new")
    assert store.read(KEY) is None
    store.forget(KEY)
    assert files(store) == set()


# --- Spooled, then adopted ---


def test_spooled_file_is_moved_whole(store: DiskStore) -> None:
    spooled = store.spool()
    spooled.write_bytes(b"tarball")
    fsync(spooled)
    inode = spooled.stat().st_ino
    store.adopt("main/a/a-1.0.0.crate", spooled)
    assert files(store) == {"main/a/a-1.0.0.crate"}
    assert store.path("main/a/a-1.0.0.crate").stat().st_ino == inode, "it was copied"


def test_spooled_files_have_names_of_their_own(store: DiskStore) -> None:
    assert len({store.spool() for _ in range(50)}) == 50


def test_sweep_takes_only_what_is_old(store: DiskStore) -> None:
    old, new = store.spool(), store.spool()
    os.utime(old, (1000, 1000))
    put(store, b"line\n")
    os.utime(store.path(KEY), (1000, 1000))
    store.sweep(older_than_s=3600, now_s=time.time())
    assert (old.exists(), new.exists(), store.read(KEY)) == (False, True, b"line\n")


# --- Readers, crashes, full disks ---


def test_reader_sees_the_old_bytes_or_the_new(store: DiskStore) -> None:
    versions = (b"a" * 300_000, b"b" * 200_000)
    put(store, versions[0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for data in versions:
                put(store, data)

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    try:
        for _ in range(1000):
            data = store.read(KEY)
            assert data in versions
            seen.add(data)
    finally:
        stop.set()
        writer.join()
    assert seen == set(versions), "the writer was never seen at work"


def test_killed_writer_leaves_the_old_bytes_or_the_new(store: DiskStore) -> None:
    """Kill -9 a process that rewrites one key as fast as it can, at ten different moments."""
    program = (
        "import pathlib\n"
        "from cargo_registry.storage.disk import DiskStore\n"
        f"store = DiskStore(pathlib.Path({str(store.root)!r}))\n"
        "print(flush=True)\n"
        "while True:\n"
        "    for data in (b'a' * 500_000, b'b' * 400_000):\n"
        f"        store.prepare({KEY!r}, data)\n"
        f"        store.show({KEY!r})\n"
    )
    put(store, b"a" * 500_000)
    for moment in range(10):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.01 + moment * 0.003)
            writer.send_signal(signal.SIGKILL)
        assert store.read(KEY) in (b"a" * 500_000, b"b" * 400_000)
        assert list(store.keys("main")) == [KEY]
        assert store.unfinished() in ([], [KEY])
        assert files(store) <= {KEY, ".pending/main,se,rd,serde"}


def test_full_disk_refuses_and_leaves_everything_as_it_was(small_disk: Path) -> None:
    store = DiskStore(small_disk / "store")
    put(store, b"old")
    store.prepare(KEY, b"new")
    spooled = store.spool()
    ballast = fill(small_disk)
    before = files(store)

    with pytest.raises(OutOfSpace, match="disk is full") as refused:
        store.prepare("main/ot/he/other", b"x" * 100_000)
    assert str(small_disk) not in str(refused.value)
    assert (files(store), store.unfinished()) == (before, [KEY])
    # What comes after the COMMIT needs no space.
    store.show(KEY)
    assert store.read(KEY) == b"new"
    store.delete(KEY)
    spooled.unlink()

    ballast.unlink()
    store.prepare("main/ot/he/other", b"x" * 100_000)
    store.show("main/ot/he/other")
    assert files(store) == {"main/ot/he/other"}
