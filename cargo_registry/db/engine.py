"""The doors to the database: each call is one whole transaction.

Functions in `db/` take a SQLAlchemy `Connection` first; `Database` runs them. SQLite takes one writer at a
time, so each process writes from one thread with one connection, and begins with `BEGIN IMMEDIATE`: with a
plain `BEGIN`, two transactions that read and then write refuse each other ("database is locked" in 484 of
600, measured; none with `IMMEDIATE`). https://sqlite.org/lang_transaction.html
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

from cargo_registry.db.changes import Changes
from cargo_registry.errors import OutOfSpace, RegistryError, Unavailable

P = ParamSpec("P")
T = TypeVar("T")

_BUSY_TIMEOUT_S = 10
_MAX_REMEMBERED = 10_000  # answers to look-ups, about half a kilobyte each
# With the wait above it must stay below the 30 s after which cargo gives up on an answer.
MAX_QUEUE_S = 15


class Database:
    """SQLite at `path`, whose schema is up to date (`migrations.upgrade`).

    Any number of processes may have it open. `close` when done.

    Raises:
        Unavailable: the file cannot be opened, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._writer = create_engine(url("sqlite", path), poolclass=StaticPool, connect_args=_CONNECT)
        _prepare(self._writer, begin=None)  # see `transaction`
        self._reader = create_async_engine(url("sqlite+aiosqlite", path), connect_args=_CONNECT)
        _prepare(self._reader.sync_engine, begin="BEGIN")
        # Stays open, so that look-ups go on while the disk is full or read-only.
        self._inline = create_engine(
            url("sqlite", path),
            poolclass=StaticPool,
            connect_args={**_CONNECT, "check_same_thread": False},
        )
        _prepare(self._inline, begin=None)
        with translating(), self._inline.connect() as connection:
            connection.exec_driver_sql("SELECT 1 FROM sqlite_schema").first()  # so that there is a WAL index
        self._changes = Changes(path)
        self._memory: tuple[bytes, dict[tuple[object, ...], Any]] = (b"", {})
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")

    async def read(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `fn` reads, from one snapshot. For questions of some length: search, lists, pages."""
        with translating():
            async with self._reader.connect() as connection:
                return await connection.run_sync(fn, *args, **kwargs)

    def look_up(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `fn` finds by a key, at once: a hop to a thread would cost more than the look-up."""
        with translating(), self._inline.connect() as connection:
            return fn(connection, *args, **kwargs)

    def remembered(self, fn: Callable[..., T | None], *args: object) -> T | None:
        """Return what `look_up` finds, from `memory` if it is there. That there is nothing is not remembered."""
        memory = self.memory()
        key = (fn, *args)
        found: T | None = memory.get(key)
        if found is None:
            found = self.look_up(fn, *args)
            if found is not None:
                memory[key] = found
        return found

    def memory(self) -> dict[tuple[object, ...], Any]:
        """Return what has been found since any process committed anything; a new one once one does.

        Hence a token that was revoked is unknown at once, whoever revoked it. What is put in must have been
        asked for after this call. From any thread.
        """
        state = self._changes.state()
        seen, memory = self._memory
        if seen != state or len(memory) >= _MAX_REMEMBERED:
            # Never emptied: another thread may be about to put into the old one what was true before.
            memory = {}
            self._memory = state, memory
        return memory

    async def write(
        self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `fn` in a write transaction; what it changed is durable on return, or nothing has changed."""

        def run() -> T:
            with self.transaction() as tx:
                return fn(tx, *args, **kwargs)

        return await self.in_writer(run)

    async def try_out(
        self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `fn` as `write` does, and take back what it changed: for what would happen if."""

        def run() -> T:
            with self.transaction() as tx:
                result = fn(tx, *args, **kwargs)
                tx.rollback()
                return result

        return await self.in_writer(run)

    async def in_writer(self, work: Callable[[], T]) -> T:
        """Run blocking work in the one thread that may use `transaction`.

        The work is finished even if the caller is cancelled: a client that hangs up changes nothing.

        Raises:
            Unavailable: what came before it took too long, and a client would not wait for more.
        """
        asked = time.monotonic()

        def in_time() -> T:
            if time.monotonic() - asked > MAX_QUEUE_S:
                raise Unavailable("the registry's database is busy; nothing was changed, try again")
            return work()

        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, in_time))

    def soon(self, work: Callable[[], None]) -> None:
        """Have work done in the writer thread after what it has to do already; the work raises nothing."""
        self._thread.submit(work)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Give a write transaction: committed at the end, undone by any exception. Only for the writer thread.

        Raises:
            Unavailable: another process kept the database locked for ten seconds, or the disk is full.
        """
        with translating():
            connection = self._writer.connect()
            try:
                # Not by an event, as `_prepare` would: where there is one, each statement costs a fifth more.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection
                connection.commit()
            except RegistryError:
                connection.rollback()
                raise
            except BaseException:
                # A statement or the COMMIT failed: nobody knows what state the connection is in. One that
                # keeps its transaction open would answer every later change, and lose them all at the end.
                connection.invalidate()
                raise
            finally:
                connection.close()

    async def close(self) -> None:
        """Finish what is being written and close every connection."""
        await asyncio.to_thread(self._thread.shutdown)
        self._writer.dispose()
        self._inline.dispose()
        await self._reader.dispose()
        self._changes.close()


def url(driver: str, path: Path) -> URL:
    """Return what SQLAlchemy calls a database; put together here, as a path may hold `?` and `%`."""
    return URL.create(driver, database=str(path))


# `isolation_level=None`: the driver begins no transactions of its own; `_prepare` does.
_CONNECT: dict[str, Any] = {"isolation_level": None, "timeout": _BUSY_TIMEOUT_S, "check_same_thread": False}


def _prepare(engine: Engine, *, begin: str | None) -> None:
    """Set what holds for each connection, and how transactions begin (None: each statement by itself)."""

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        # WAL: readers and the writer do not wait for each other. FULL: an acknowledged change survives a
        # power cut. Both are asked for each time, as `synchronous` belongs to the connection.
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    if begin is not None:

        @event.listens_for(engine, "begin")
        def on_begin(connection: Connection) -> None:
            connection.exec_driver_sql(begin)


@contextmanager
def translating() -> Iterator[None]:
    """Turn the ways a database is out of service into errors of ours; anything else is a bug."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise OutOfSpace("the registry's disk is full; nothing was changed, tell its operator") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise Unavailable("the registry's database is busy; nothing was changed, try again") from error
        if code in (
            sqlite3.SQLITE_READONLY,
            sqlite3.SQLITE_IOERR,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_PERM,
        ):
            raise Unavailable("the registry cannot use its database; nothing was changed") from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise Unavailable(
                "the registry's database is damaged; its operator must put back a backup of `registry.db`"
            ) from error
        raise
