"""From nothing, or an older schema, to the one that the code speaks."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

import cargo_registry.db
from cargo_registry.db import search
from cargo_registry.db.schema import metadata
from cargo_registry.db.upgrade import upgrade
from cargo_registry.errors import ConfigError, Unavailable


@contextmanager
def connected(path: Path) -> Iterator[Connection]:
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    with engine.connect() as connection:
        yield connection


def is_ours(_object: object, name: str | None, kind: str, _reflected: bool, _compared: object) -> bool:
    """Leave out the tables of full text, which SQLAlchemy cannot describe, and Alembic's own."""
    return kind != "table" or not (name or "").startswith(("crate_words", "crate_names", "alembic"))


def test_migrations_make_exactly_the_tables_of_the_code(tmp_path: Path) -> None:
    upgrade(tmp_path / "registry.db")
    with connected(tmp_path / "registry.db") as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "include_object": is_ours}
        )
        assert compare_metadata(context, metadata) == []


def test_names_of_constraints_are_those_of_the_code(tmp_path: Path) -> None:
    """A later migration drops a constraint by its name; SQLite reflects none, so ask for the text."""
    upgrade(tmp_path / "migrated.db")
    with connected(tmp_path / "made.db") as connection:
        metadata.create_all(connection)
        connection.commit()

    def constraints(path: Path) -> set[str]:
        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute("SELECT sql FROM sqlite_master WHERE sql NOT LIKE '%VIRTUAL%'")
            lines = [line.strip().rstrip(",") for (sql,) in rows for line in sql.splitlines()]
        return {line for line in lines if line.startswith(("CONSTRAINT", "CREATE INDEX"))}

    made = constraints(tmp_path / "made.db")
    assert len(made) > 20
    migrated = constraints(tmp_path / "migrated.db")
    assert made <= {line.replace('"', "") for line in migrated} | migrated


def test_full_text_tables_are_there(tmp_path: Path) -> None:
    upgrade(tmp_path / "registry.db")
    with closing(sqlite3.connect(tmp_path / "registry.db")) as connection:
        for table in ("crate_words", "crate_names"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_upgrade_again_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    upgrade(path)
    with closing(sqlite3.connect(path)) as connection:
        before = connection.execute("PRAGMA schema_version").fetchone()
    upgrade(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA schema_version").fetchone() == before


@pytest.mark.parametrize("attempt", range(2))
def test_processes_that_upgrade_at_once_make_one_schema(tmp_path: Path, attempt: int) -> None:
    """Each worker does, and so does each command beside them."""
    path = tmp_path / "registry.db"
    program = (
        "import pathlib, sys\n"
        "from cargo_registry.db.upgrade import upgrade\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
        f"upgrade(pathlib.Path({str(path)!r}))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    said = [process.communicate(timeout=30)[1] for process in processes]
    assert said == [""] * 4
    assert [process.returncode for process in processes] == [0] * 4
    upgrade(path)


def test_database_of_a_newer_release_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    upgrade(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    with pytest.raises(ConfigError, match=r"newer release.*9999.*install"):
        upgrade(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]


@pytest.mark.parametrize("folder", ["with space", "a?b=c", "a#b", "100%", "a%2Fb", "ü", "a:b@c"])
def test_any_folder_can_hold_it(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder / "registry.db"
    path.parent.mkdir()
    upgrade(path)
    assert path.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == [folder]


def test_file_that_is_no_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    path.write_bytes(b"something else, for more than a hundred bytes" * 10)
    with pytest.raises(Unavailable, match=r"damaged.*backup"):
        upgrade(path)
    assert path.read_bytes() == b"something else, for more than a hundred bytes" * 10


def made_at(revision: str, path: Path) -> None:
    """Make an empty database as of an older release."""
    config = Config()
    config.set_main_option("script_location", str(Path(cargo_registry.db.__file__).parent / "migrations"))
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def test_search_finds_after_the_upgrade_what_was_there_before(tmp_path: Path) -> None:
    """What 0004 puts into the full text is what a publish would."""
    path = tmp_path / "registry.db"
    made_at("0003", path)
    crates = [
        (
            "main",
            "tiny_json",
            "Reads JSON; fast, in 2\u00b2 ways. \u00dcber-small",
            '["no-std", "a\\nb"]',
            '["parsing"]',
        ),
        ("main", "serde", None, "[]", "[]"),
        ("other", "serde", "Another one", '["\u65e5\u672c"]', "[]"),
    ]
    with connected(path) as connection:
        for crate_id, (registry, name, description, keywords, categories) in enumerate(crates * 2000, 7):
            connection.execute(
                text(
                    "INSERT INTO crates (id, registry, name, canonical, created_at, updated_at, downloads,"
                    " description, keywords, categories) VALUES (:id, :registry, :name, :name, :at, :at, 0,"
                    " :description, :keywords, :categories)"
                ),
                {
                    "id": crate_id,
                    "registry": registry,
                    "name": name if crate_id < 10 else f"{name}_{crate_id}",
                    "description": description,
                    "keywords": keywords,
                    "categories": categories,
                    "at": "2026-01-01 00:00:00",
                },
            )
        connection.commit()
    upgrade(path)

    def held(connection: Connection) -> list[tuple[object, ...]]:
        return [
            tuple(row)
            for table in ("crate_words", "crate_names")
            for row in connection.execute(text(f"SELECT rowid, * FROM {table}"))
        ]

    def found(connection: Connection, query: str, registry: str) -> int:
        return search.find(connection, registry, query, limit=1, offset=0, sort="alphabetical")[1]

    with connected(path) as connection:
        before = held(connection)
        assert len(before) == 2 * 6000
        assert len(set(before)) == len(before)
        for query in ("json", "iny", "uber", "std", "parsing", "ny_json"):
            assert (found(connection, query, "main"), found(connection, query, "other")) == (2000, 0)
        assert (found(connection, "serde", "main"), found(connection, "serde", "other")) == (2000, 2000)
        rows = connection.execute(text("SELECT * FROM crates")).all()
        for row in rows[:3]:
            search.forget(connection, row.id)
            assert len(held(connection)) == len(before) - 2
            search.refresh(
                connection,
                row.id,
                key=row.canonical,
                description=row.description,
                keywords=json.loads(row.keywords),
                categories=json.loads(row.categories),
            )
            assert sorted(held(connection), key=str) == sorted(before, key=str)
