"""Bring a database to the schema that this code speaks."""

import logging
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, inspect, select, table, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from cargo_registry.db.engine import translating, url
from cargo_registry.errors import ConfigError
from cargo_registry.storage.disk import fsync, reporting

log = logging.getLogger(__name__)

_MIGRATIONS = Path(__file__).parent / "migrations"

# Ten seconds in all, as long as a change waits for another one.
_MAX_TRIES = 500
_PAUSE_S = 0.02


def upgrade(path: Path) -> None:
    """Make the database at `path` if it is missing, and run the steps it lacks, in one transaction.

    An older one is copied beside itself first (`registry.db.before-0002`), as steps do not go back. Several
    processes may call this at once: `BEGIN IMMEDIATE` lets one through at a time.

    Raises:
        ConfigError: a newer release has written this database.
        Unavailable: it cannot be written to, or it is none.
    """
    with translating():
        _upgrade(path)


def _upgrade(path: Path) -> None:
    engine = create_engine(
        url("sqlite", path), poolclass=NullPool, connect_args={"isolation_level": None, "timeout": 10}
    )
    # By the names of the files: Alembic takes 0.3 s to import, which is half of what a command needs.
    steps = sorted(step.name[:4] for step in (_MIGRATIONS / "versions").glob("[0-9]*.py"))
    head = steps[-1]
    if path.exists():
        # Without a lock, and without writing: a server must start on a disk that is full or read-only.
        with engine.connect() as connection:
            found = _revision(connection)
        if found == head:
            return
        if found is not None and found not in steps:
            raise ConfigError(
                f"the database was written by a newer release (schema {found}); install that release"
            )
    # Before the listener: SQLite changes the mode only outside a transaction.
    _use_wal(engine)

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    with engine.begin() as connection:
        found = _revision(connection)
        if found == head:
            return  # another process was faster
        if found is not None:
            # What was committed last; nobody can write while this connection holds the lock.
            kept = path.with_name(f"{path.name}.before-{head}")
            copy(path, kept)
            log.warning(
                "upgrading the database from schema %s to %s; it is kept as %s", found, head, kept.name
            )
        _run_steps(connection)


def _run_steps(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    # Alembic reads `%` as the start of a variable.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _use_wal(engine: Engine) -> None:
    """Switch to WAL, which needs the database alone; here SQLite does not wait, whatever the timeout is."""
    for patience in range(_MAX_TRIES, -1, -1):
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                return
        except OperationalError as error:
            if not patience or getattr(error.orig, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                raise
        time.sleep(_PAUSE_S)


def copy(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment, while others use it; `target` appears whole or not at all."""
    partial = target.with_name(f"{target.name}.partial")
    with translating(), reporting():
        partial.unlink(missing_ok=True)
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(partial)) as new:
            old.backup(new)
        partial.chmod(0o600)
        fsync(partial)
        partial.replace(target)
        fsync(target.parent)


def lay_up(path: Path) -> None:
    """Make a database that nobody has open one file, which can also be read where nothing can be written."""
    with translating(), closing(sqlite3.connect(path)) as connection:
        # One in WAL mode wants to make two more files beside itself.
        connection.execute("PRAGMA journal_mode=DELETE")


def _revision(connection: Connection) -> str | None:
    """Return the step the database is at, None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(
        select(text("version_num")).select_from(table("alembic_version"))
    ).scalar()
    return revision
