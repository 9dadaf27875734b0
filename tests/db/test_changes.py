"""Every commit is seen, whoever made it; and looking costs SQLite none of its locks."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest
from sqlalchemy import text

from cargo_registry.db.changes import Changes
from cargo_registry.db.engine import Database
from tests.db.conftest import Db
from tests.db.test_engine import add, logins

# Another program, which knows nothing of ours.
COMMIT = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as db:
    db.execute("UPDATE users SET name = ?", (sys.argv[2],))
"""
HOLD = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as db:
    db.execute("SELECT * FROM users").fetchall()
    print("", flush=True)
    sys.stdin.read()
"""
# The byte of the WAL index that each connection locks while it uses it (SQLite: os_unix.c, UNIX_SHM_DMS).
DEAD_MAN_SWITCH = 128
TRY_LOCK = f"""
import fcntl, sys
with open(sys.argv[1], "r+b") as index:
    try:
        fcntl.lockf(index, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, {DEAD_MAN_SWITCH})
    except BlockingIOError:
        print("held")
"""


def python(program: str, *arguments: object) -> str:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def test_state_differs_after_each_commit_of_any_process(db: Db) -> None:
    db.write(add, "alice")
    changes = Changes(db.path)
    seen = [changes.state()]
    for n in range(3):
        python(COMMIT, db.path, f"Alice {n}")
        seen.append(changes.state())
        db.write(add, f"user-{n}")
        seen.append(changes.state())
    assert len(set(seen)) == 7
    # Also where SQLite begins the log anew, and what was last seen came before.
    with db.database._inline.connect() as connection:
        connection.execute(text("PRAGMA wal_checkpoint(RESTART)"))
    db.write(add, "zoe")
    assert changes.state() not in seen
    changes.close()


def test_link_to_a_database_is_followed(db: Db, tmp_path: Path) -> None:
    """SQLite has its files beside what the link means; what lies beside the link may be of another time."""
    db.write(add, "alice")
    link = tmp_path / "elsewhere" / "registry.db"
    link.parent.mkdir()
    link.symlink_to(db.path)
    Path(f"{link}-shm").write_bytes(Path(f"{db.path}-shm").read_bytes())
    changes = Changes(link)
    before = changes.state()
    python(COMMIT, db.path, "Alice")
    assert changes.state() != before
    changes.close()


@pytest.mark.parametrize("left", [None, b"", b"123"])
def test_nothing_is_known_to_hold_without_a_wal_index(tmp_path: Path, left: bytes | None) -> None:
    """As a power cut leaves it, where the disk is read-only afterwards."""
    if left is not None:
        (tmp_path / "registry.db-shm").write_bytes(left)
    changes = Changes(tmp_path / "registry.db")
    assert changes.state() != changes.state()
    changes.close()


def test_read_that_is_not_over_keeps_its_locks(db: Db) -> None:
    """As when a request is cut at the end of the server: its read goes on in its thread."""
    db.write(add, "alice")
    index = Path(f"{db.path}-shm")
    with closing(sqlite3.connect(db.path)) as reading:
        rows = reading.execute("SELECT login FROM users UNION ALL SELECT 'last'")
        next(rows)
        db.close()
        assert python(TRY_LOCK, index).strip() == "held"
        python(COMMIT, db.path, "Alice")
        assert next(rows) == ("last",)


def test_nothing_stays_open(db: Db) -> None:
    """Also while other processes use the database: they keep the WAL index there."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, db.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        db.write(add, "alice")
        db.close()
        assert Path(f"{db.path}-shm").exists()
        opened = []
        for descriptor in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # that of the folder
                opened.append(os.readlink(descriptor))
        assert not [path for path in opened if path.startswith(str(db.path))]
        other.communicate()


def test_looking_up_changes_nothing(db: Db) -> None:
    db.write(add, "alice")
    before = db.database.memory()
    assert db.look_up(logins) == ["alice"]
    db.run(lambda database: database.read(logins))
    assert db.database.memory() is before


def test_what_is_found_by_one_who_asked_before_a_change_is_not_kept(db: Db) -> None:
    """As when a thread puts what it found into the memory after another one has seen the change."""
    db.write(add, "alice")
    before = db.database.memory()
    python(COMMIT, db.path, "Alice")
    after = db.database.memory()
    before["found",] = "what was true then"
    assert ("found",) not in after
    assert db.database.memory() is after


def test_closing_one_of_two_leaves_the_other_its_locks(db: Db) -> None:
    """POSIX drops all of a process's locks on a file with the first descriptor of it that is closed."""
    index = Path(f"{db.path}-shm")
    second = Database(db.path)
    second.look_up(logins)
    db.run(lambda _database: second.close())
    assert python(TRY_LOCK, index).strip() == "held"
    db.write(add, "alice")
    python(COMMIT, db.path, "Alice")
    assert db.look_up(logins) == ["alice"]
    # The test is one: with a descriptor of its own, closed, the lock would be gone.
    with index.open("rb"):
        pass
    assert python(TRY_LOCK, index).strip() == ""
