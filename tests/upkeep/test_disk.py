"""The disk is full, read-only or dead: clear errors, nothing half-done, reads go on, and it works again by itself."""

import os
import signal
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.crates import crate_file
from tests.programs import Server
from tests.upkeep.client import Answer, Client, sha256
from tests.upkeep.conftest import (
    CONFIG,
    FailingDisk,
    all_is_well,
    operate,
    read_only,
    resize,
    soon,
    succeed,
    token_of,
)
from tests.upkeep.load import workers_of


def big(name: str, vers: str, size: int) -> bytes:
    """A crate of about this size."""
    return crate_file(name, vers, files={"src/lib.rs": b"", "blob": noise(size)})


def noise(size: int) -> bytes:
    """Bytes that do not compress."""
    import random

    return random.Random(size).randbytes(size)


def reads_go_on(client: Client, name: str, cksum: str) -> None:
    """Check index, download, search, API and health, one after the other."""
    assert client.lines(name)["1.0.0"]["cksum"] == cksum
    assert client.get("/index/config.json").status == 200
    assert client.is_whole(name, "1.0.0", cksum)
    assert name in client.get(f"/api/v1/crates?q={name}").json()["crates"][0]["name"]
    assert client.get(f"/api/v1/crates/{name}").status == 200
    assert "alice" in client.owners(name)
    assert client.get("/healthz").status == 200


def leftovers(folder: Path) -> list[str]:
    """Return what lies in the folders for what is not finished."""
    hidden = (folder / "crates_storage" / ".spool", folder / "index_data" / ".pending")
    return [str(path) for each in hidden for path in each.iterdir()]


def fill(client: Client, prefix: str, size: int) -> tuple[dict[str, str], list[str], Answer]:
    """Publish crates of a size until there is no room; return those that were taken, those not, and why not."""
    taken: dict[str, str] = {}
    for number in range(2000):
        name = f"{prefix}-{number}"
        tarball = big(name, "1.0.0", size)
        answer = client.publish(name, "1.0.0", tarball)
        if answer.status != 200:
            return taken, [name], answer
        taken[name] = sha256(tarball)
    raise AssertionError("it never became full")


def test_full_disk_refuses_changes_whole_and_recovers(small_disk: Path) -> None:
    folder = small_disk / "data"
    with Server(folder, CONFIG, workers=2) as server:
        token = token_of(folder, "alice")
        succeed(folder, "user", "add", "bob")
        with Client(server.direct_url, token) as client:
            # Down to the last page: what is small still fits when what is large does not.
            taken: dict[str, str] = {}
            refused: list[str] = []
            for size in (3_000_000, 300_000, 20_000, 1000, 10):
                more, no, why = fill(client, f"of-{size}", size)
                taken |= more
                refused += no
                assert why.status == 507, why.body
                assert "full" in why.refusal()
                assert "retry-after" in why.headers
                assert not leftovers(folder)
            first = next(iter(taken))
            reads_go_on(client, first, taken[first])

            # Small changes may still fit, and later not: what was answered is so, then and for ever.
            yanked: dict[str, bool] = {}
            owned: dict[str, bool] = {}
            statuses = set()
            for name in list(taken)[-20:] * 3:
                yank = client.set_yanked(name, "1.0.0", not yanked.get(name, False))
                owner = client.set_owner(name, "bob", not owned.get(name, False))
                for answer in (yank, owner):
                    statuses.add(answer.status)
                    assert answer.status in (200, 507), answer.body
                    assert answer.status == 200 or answer.refusal()
                if yank.status == 200:
                    yanked[name] = not yanked.get(name, False)
                if owner.status == 200:
                    owned[name] = not owned.get(name, False)
                assert client.lines(name)["1.0.0"]["yanked"] is yanked.get(name, False)
                assert ("bob" in client.owners(name)) is owned.get(name, False)
            assert not leftovers(folder)
            reads_go_on(client, first, taken[first])

            def check() -> None:
                for name, cksum in taken.items():
                    assert client.lines(name)["1.0.0"]["cksum"] == cksum
                    assert client.lines(name)["1.0.0"]["yanked"] is yanked.get(name, False)
                    assert ("bob" in client.owners(name)) is owned.get(name, False)
                for name in refused:
                    assert client.lines(name) == {}
                    assert client.download(name).status == 404

            check()
            resize(small_disk, 34)
            freed = time.monotonic()
            tarball = big("after", "1.0.0", 1_000_000)
            assert soon(lambda: client.publish("after", "1.0.0", tarball).status in (200, 409))
            assert time.monotonic() - freed < 5
            # Another process sees it at once: nobody kept a transaction open.
            assert succeed(folder, "crate", "show", "after", "--json").json()["name"] == "after"
            with closing(sqlite3.connect(folder / "registry.db", timeout=1)) as other:
                other.execute("BEGIN IMMEDIATE")
            taken["after"] = sha256(tarball)
            for name in list(taken)[:3]:
                assert client.yank(name).status == 200
                yanked[name] = True
            check()
            all_is_well(folder)
        server.stop()
    all_is_well(folder)
    with Server(folder) as server, Client(server.direct_url, token) as client:
        check()
        for name in refused:
            assert client.publish(name, "1.0.0", crate_file(name, "1.0.0", files={})).status == 200


def test_full_disk_refuses_some_of_many_at_once(small_disk: Path) -> None:
    """Changes share a COMMIT: one that finds no room must not take with it what was answered, nor leave a trace."""
    folder = small_disk / "data"
    with Server(folder, CONFIG) as server:
        token = token_of(folder, "alice")

        def publish(thread: int) -> tuple[set[str], set[str]]:
            taken: set[str] = set()
            refused: set[str] = set()
            with Client(server.direct_url, token) as client:
                for number in range(60):
                    name = f"many-{thread}-{number}"
                    # Ever smaller, so that some still fit where others do not.
                    answer = client.publish(name, "1.0.0", big(name, "1.0.0", 400_000 // (number + 1)))
                    assert answer.status in (200, 507), answer.body
                    (taken if answer.status == 200 else refused).add(name)
            return taken, refused

        (small_disk / "ballast").write_bytes(bytes(14_000_000))
        with ThreadPoolExecutor(8) as threads:
            outcomes = list(threads.map(publish, range(8)))
        taken = {name for one, _ in outcomes for name in one}
        refused = {name for _, one in outcomes for name in one}
        assert taken
        assert refused
        assert not leftovers(folder)
        listed = {crate["name"] for crate in succeed(folder, "crate", "list", "--json").json()}
        assert listed == taken
        (small_disk / "ballast").unlink()
        with Client(server.direct_url, token) as client:
            for name in refused:
                assert client.lines(name) == {}
            name = next(iter(refused))
            assert client.publish(name, "1.0.0", crate_file(name, "1.0.0")).status == 200
        all_is_well(folder)
    listed = {crate["name"] for crate in succeed(folder, "crate", "list", "--json").json()}
    assert listed == taken | {name}


def test_server_starts_on_a_full_disk_and_serves(small_disk: Path) -> None:
    folder = small_disk / "data"
    with Server(folder, CONFIG) as server, Client(server.direct_url, token_of(folder, "alice")) as client:
        taken: dict[str, str] = {}
        for size in (3_000_000, 300_000, 20_000, 1000):
            taken |= fill(client, f"of-{size}", size)[0]
        first = next(iter(taken))
        token = client.token
    # A start writes `stderr` into this folder in the tests; it has the room of one refused upload, no more.
    with Server(folder) as server, Client(server.direct_url, token) as client:
        reads_go_on(client, first, taken[first])
        # The stop has folded the write-ahead log into the database, which may have made some room.
        _, (refused,), why = fill(client, "after-start", 100_000)
        assert why.status == 507
        resize(small_disk, 30)
        assert client.publish(refused, "1.0.0", big(refused, "1.0.0", 100_000)).status == 200
    all_is_well(folder)


def refuses_with_503(change: Callable[[], Answer]) -> None:
    began = time.monotonic()
    answer = change()
    assert answer.status == 503, answer.body
    assert answer.refusal()
    assert int(answer.headers["retry-after"]) > 0
    assert time.monotonic() - began < 25


def test_dead_disk_is_read_on_and_refuses_changes(failing_disk: FailingDisk, tmp_path: Path) -> None:
    """As the kernel leaves it after an error: not even files that are open can be written."""
    folder = failing_disk.folder / "data"
    # Its log is elsewhere, on a disk that can be written.
    with Server(tmp_path / "log", CONFIG, workers=2, env={"CRG_DATA_DIR": str(folder)}) as server:
        token = token_of(folder, "alice")
        succeed(folder, "user", "add", "bob")
        with Client(server.direct_url, token) as client:
            tarball = big("kept", "1.0.0", 200_000)
            assert client.publish("kept", "1.0.0", tarball).status == 200
            leftover = folder / "crates_storage" / ".spool" / "of a crash"
            leftover.write_bytes(b"old")
            os.utime(leftover, (0, 0))
            failing_disk.fail()
            # A worker that is replaced now must come up on such a disk.
            victim, *_ = workers_of(server)
            os.kill(victim, signal.SIGKILL)
            assert soon(lambda: len(set(workers_of(server)) - {victim}) == 2)
            time.sleep(1)
            client.connection.close()  # it may have been the victim's
            for _ in range(3):
                refuses_with_503(lambda: client.publish("lost", "1.0.0"))
                refuses_with_503(lambda: client.yank("kept"))
                refuses_with_503(lambda: client.set_owner("kept", "bob", True))
                reads_go_on(client, "kept", sha256(tarball))
                assert client.lines("kept")["1.0.0"]["yanked"] is False
                assert client.owners("kept") == {"alice"}
            assert server.process.poll() is None
        log = server.stderr()
        server.kill()
    assert log.count("and is replaced") == 1
    assert "before it answered" not in log
    failing_disk.replace()
    with Server(folder) as server, Client(server.direct_url, token) as client:
        reads_go_on(client, "kept", sha256(tarball))
        assert client.lines("kept")["1.0.0"]["yanked"] is False
        assert client.owners("kept") == {"alice"}
        assert client.lines("lost") == {}
        assert client.publish("lost", "1.0.0").status == 200
    all_is_well(folder)


def test_read_only_folders_are_read_on_and_work_again_by_themselves(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    # Not by the current folder, which would stay the one below the mount.
    with Server(folder, CONFIG, env={"CRG_DATA_DIR": str(folder)}) as server:
        token = token_of(folder, "alice")
        with Client(server.direct_url, token) as client:
            assert client.publish("kept").status == 200
            cksum = client.lines("kept")["1.0.0"]["cksum"]
            with read_only(folder):
                for _ in range(2):
                    refuses_with_503(lambda: client.publish("lost"))
                    refuses_with_503(lambda: client.yank("kept"))
                    reads_go_on(client, "kept", cksum)
                    assert client.lines("kept")["1.0.0"]["yanked"] is False
            assert client.publish("lost").status == 200
            assert client.yank("kept").status == 200
            assert not leftovers(folder)
            reads_go_on(client, "kept", cksum)
            all_is_well(folder)


def test_start_on_a_read_only_disk_says_so(tmp_path: Path) -> None:
    """SQLite cannot open a database there that nobody else has open: there is nothing to serve from."""
    folder = tmp_path / "data"
    token_of(folder, "alice")
    with read_only(folder):
        done = operate(folder, "crate", "list")
        assert done.code == 1
        assert done.stderr.startswith("error: the registry cannot")
        with pytest.raises(AssertionError, match="error: the registry cannot") as failed:
            Server(tmp_path / "elsewhere", env={"CRG_DATA_DIR": str(folder)})
        assert "Traceback" not in str(failed.value)
    assert operate(folder, "crate", "list").code == 0


def test_command_on_a_full_disk_says_so(small_disk: Path, tmp_path: Path) -> None:
    folder = small_disk / "data"
    token_of(folder, "alice")
    (tmp_path / "big.crate").write_bytes(big("big", "1.0.0", 30_000_000))
    done = operate(folder, "publish", tmp_path / "big.crate", "--as", "alice")
    assert (done.code, "full" in done.stderr) == (1, True)
    assert not leftovers(folder)
    source = tmp_path / "source"
    token_of(source, "alice")
    (tmp_path / "c.crate").write_bytes(big("c", "1.0.0", 14_000_000))
    (tmp_path / "d.crate").write_bytes(big("d", "1.0.0", 14_000_000))
    succeed(source, "publish", tmp_path / "c.crate", tmp_path / "d.crate", "--as", "alice")
    done = operate(source, "backup", small_disk / "backup")
    assert (done.code, done.stderr) == (
        1,
        "error: the registry's disk is full; nothing was changed, tell its operator\n",
    )
    resize(small_disk, 60)
    succeed(source, "backup", small_disk / "backup")
    all_is_well(folder)
