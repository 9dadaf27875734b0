"""Bring a database to the schema that this code speaks."""

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, event, inspect, select, table, text
from sqlalchemy.pool import NullPool

from cargo_registry.errors import ConfigError

log = logging.getLogger(__name__)


def upgrade(path: Path) -> None:
    """Make the database at `path` if it is missing, and run the steps it lacks, in one transaction.

    Several processes may call this at once: `BEGIN IMMEDIATE` lets one through at a time.

    Raises:
        ConfigError: a newer release has written this database.
    """
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool, connect_args={"isolation_level": None})

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    # Before the listener: SQLite changes the mode only outside a transaction.
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    with engine.begin() as connection:
        found = _revision(connection)
        if found == scripts.get_current_head():
            return
        if found is not None and found not in {script.revision for script in scripts.walk_revisions()}:
            raise ConfigError(
                f"the database was written by a newer release (schema {found}); install that release"
            )
        if found is not None:
            log.info("upgrading the database from schema %s", found)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    """Return the step the database is at, None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(
        select(text("version_num")).select_from(table("alembic_version"))
    ).scalar()
    return revision
