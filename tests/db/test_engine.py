"""One writer at a time, and what happens when the database or its disk fails."""

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from cargo_registry.db import users
from cargo_registry.db.engine import Database
from cargo_registry.db.users import Role
from cargo_registry.errors import Conflict, OutOfSpace, Unavailable
from tests.db.conftest import NOW, Db
from tests.storage.conftest import fill


def add(tx: Connection, login: str) -> None:
    users.add(tx, login, name=None, role=Role.PUBLISHER, now=NOW)


def logins(db: Connection) -> list[str]:
    return [user.login for user in users.everyone(db)]


def logins_on_disk(path: Path) -> list[str]:
    """Return what another process would see."""
    with closing(sqlite3.connect(path)) as connection:
        return [login for (login,) in connection.execute("SELECT login FROM users ORDER BY login_key")]


def test_write_is_one_transaction(db: Db) -> None:
    def two(tx: Connection) -> None:
        add(tx, "alice")
        add(tx, "bob")

    def two_and_fail(tx: Connection) -> None:
        add(tx, "carol")
        add(tx, "Alice")

    db.write(two)
    with pytest.raises(Conflict, match="already a user `Alice`"):
        db.write(two_and_fail)
    assert logins_on_disk(db.path) == ["alice", "bob"]
    db.write(add, "dave")
    assert logins_on_disk(db.path) == ["alice", "bob", "dave"]


def test_exception_of_our_own_code_undoes_everything(db: Db) -> None:
    def fail(tx: Connection) -> None:
        add(tx, "alice")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        db.write(fail)
    db.write(add, "bob")
    assert logins_on_disk(db.path) == ["bob"]


def test_connection_is_not_used_again_after_a_failed_statement(db: Db) -> None:
    """It keeps its transaction open: later changes would be answered as done, and be lost at the end."""

    def fail(tx: Connection) -> None:
        add(tx, "alice")
        tx.execute(text("SELECT * FROM no_such_table"))

    with pytest.raises(DBAPIError):
        db.write(fail)
    db.write(add, "bob")
    assert logins_on_disk(db.path) == ["bob"]


def test_foreign_keys_hold(db: Db) -> None:
    def add_nobody_to_no_team(tx: Connection) -> None:
        tx.execute(text("INSERT INTO team_members (team_id, user_id) VALUES (1, 1)"))

    for _ in range(2):  # the second time on the connection that replaces the first
        with pytest.raises(DBAPIError, match="FOREIGN KEY"):
            db.write(add_nobody_to_no_team)


def test_acknowledged_changes_are_synced(db: Db) -> None:
    """2 is FULL: a change that was answered survives a power cut."""
    for _ in range(2):
        assert db.write(lambda tx: tx.execute(text("PRAGMA synchronous")).scalar_one()) == 2
        with pytest.raises(ZeroDivisionError):
            db.write(lambda tx: 1 / 0)


def test_look_up_sees_what_another_process_has_just_written(db: Db) -> None:
    assert db.look_up(logins) == []
    with closing(sqlite3.connect(db.path)) as connection:
        connection.execute("INSERT INTO users VALUES (7, 'Eve', 'eve', NULL, 'reader', 0, '2026-01-01')")
        connection.commit()
    assert db.look_up(logins) == ["Eve"]
    assert db.run(lambda database: database.read(logins)) == ["Eve"]


def test_cancelled_caller_does_not_stop_a_change(db: Db) -> None:
    """A client that hangs up in the middle of a publish."""

    async def hang_up(database: Database) -> None:
        writing = asyncio.create_task(database.write(add, "alice"))
        await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        await database.write(add, "bob")

    db.run(hang_up)
    assert logins_on_disk(db.path) == ["alice", "bob"]


def test_writers_in_four_processes_never_find_it_locked(db: Db) -> None:
    """Each reads and then writes in one transaction, which a plain BEGIN refuses mostly."""
    db.write(add, "0")
    program = (
        "import asyncio, pathlib, sys\n"
        "from sqlalchemy import text\n"
        "from cargo_registry.db.engine import Database\n"
        "def count(tx):\n"
        "    number = int(tx.execute(text('SELECT login FROM users')).scalar_one())\n"
        "    tx.execute(text('UPDATE users SET login = :new'), {'new': str(number + 1)})\n"
        "async def main():\n"
        f"    database = Database(pathlib.Path({str(db.path)!r}))\n"
        "    for _ in range(50):\n"
        "        await database.write(count)\n"
        "    await database.close()\n"
        "asyncio.run(main())\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    assert [process.communicate(timeout=60)[1] for process in processes] == [""] * 4
    assert logins_on_disk(db.path) == ["200"]


def test_readers_do_not_wait_for_a_writer(db: Db) -> None:
    db.write(add, "alice")
    with closing(sqlite3.connect(db.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM users")
        assert db.look_up(logins) == ["alice"]
        assert db.run(lambda database: database.read(logins)) == ["alice"]
        other.execute("ROLLBACK")


def test_full_disk_refuses_changes_and_nothing_else(small_disk: Path) -> None:
    db = Db(small_disk / "registry.db")
    db.write(add, "alice")
    ballast = fill(small_disk)

    def add_many(tx: Connection) -> None:
        for number in range(500):
            add(tx, f"user-{number}-{'x' * 50}")

    refusals = []
    for number in range(100):  # what lies in the WAL already leaves room for a few
        try:
            db.write(add_many if number % 2 else lambda tx, number=number: add(tx, f"u{number}"))  # type: ignore[misc]
        except OutOfSpace as error:
            refusals.append(str(error))
        if len(refusals) == 4:
            break
    assert len(refusals) == 4
    assert "disk is full" in refusals[0]
    assert str(small_disk) not in refusals[0]
    before = db.look_up(logins)
    assert before[0] == "alice"
    assert not [login for login in before if login.startswith("user-")]
    assert db.run(lambda database: database.read(logins)) == before

    ballast.unlink()
    db.write(add, "zoe")
    assert logins_on_disk(db.path) == [*before, "zoe"]
    db.close()


def test_change_that_does_not_fit_is_undone_whole(db: Db) -> None:
    """As on a full disk, but where no disk can be mounted: a limit on the pages."""

    def add_many(tx: Connection) -> None:
        pages = tx.execute(text("PRAGMA page_count")).scalar_one()
        tx.execute(text(f"PRAGMA max_page_count = {pages}"))
        add(tx, "alice")
        for number in range(2000):
            add(tx, f"user-{number}-{'x' * 50}")

    with pytest.raises(OutOfSpace):
        db.write(add_many)

    def add_some(tx: Connection) -> None:
        for number in range(200):
            add(tx, f"bob-{number:03}-{'x' * 50}")

    # The limit was the connection's; on the one that replaces it there is room.
    db.write(add_some)
    assert len(logins_on_disk(db.path)) == 200


def test_locked_database_is_an_error_that_says_try_again(db: Db) -> None:
    # The real patience is ten seconds.
    db.write(lambda tx: tx.execute(text("PRAGMA busy_timeout = 50")).close())
    with closing(sqlite3.connect(db.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match=r"busy.*try again"):
            db.write(add, "alice")
        other.execute("ROLLBACK")
    db.write(add, "bob")
    assert logins_on_disk(db.path) == ["bob"]


def test_damaged_database_is_an_error_that_says_what_to_do(db: Db) -> None:
    db.run(lambda database: database.read(logins))
    db.close()
    damaged = bytearray(db.path.read_bytes())
    damaged[100:] = b"\xa5" * (len(damaged) - 100)
    db.path.write_bytes(damaged)
    with pytest.raises(Unavailable, match=r"damaged.*backup"):
        Database(db.path)
