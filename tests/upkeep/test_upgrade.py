"""A registry of the first schema, with crates in it, is upgraded at start: nothing is lost, and a copy is kept."""

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

import cargo_registry.db
from cargo_registry.db import upgrade
from tests.crates import crate_file
from tests.programs import Server
from tests.upkeep.client import Client, sha256
from tests.upkeep.conftest import CONFIG, all_is_well, succeed, token_of

MIGRATIONS = Path(cargo_registry.db.__file__).parent / "migrations"
HEAD = max(
    re.findall(r"^(\d{4})_", "\n".join(path.name for path in (MIGRATIONS / "versions").glob("0*")), re.M)
)


def make_first(path: Path) -> None:
    """Make an empty database of the first schema."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")


@pytest.fixture
def first(tmp_path: Path) -> tuple[Path, str]:
    """Data as the release of the first schema left it: three versions, one yanked, and a token.

    The rows are those of today, without the columns and tables that came later.
    """
    today = tmp_path / "today"
    token = token_of(today, "alice")
    files = []
    for name, vers in (("foo", "1.0.0"), ("foo", "1.1.0"), ("bar", "1.0.0")):
        files.append(tmp_path / f"{name}-{vers}.crate")
        files[-1].write_bytes(crate_file(name, vers))
    succeed(today, "publish", *files, "--as", "alice")
    succeed(today, "crate", "yank", "foo@1.0.0")

    old = tmp_path / "old"
    old.mkdir()
    shutil.copytree(today / "crates_storage", old / "crates_storage")
    shutil.copytree(today / "index_data", old / "index_data")
    make_first(old / "registry.db")
    with closing(sqlite3.connect(old / "registry.db")) as rows:
        rows.execute("ATTACH ? AS today", (str(today / "registry.db"),))
        tables = rows.execute(
            "SELECT name FROM main.sqlite_master WHERE type = 'table' AND sql NOT LIKE '%VIRTUAL%'"
            " AND name NOT LIKE 'crate\\_words%' ESCAPE '\\' AND name NOT LIKE 'crate\\_names%' ESCAPE '\\'"
            " AND name NOT LIKE 'sqlite%' AND name <> 'alembic_version'"
        ).fetchall()
        for (table,) in tables:
            columns = ", ".join(row[1] for row in rows.execute(f"PRAGMA main.table_info({table})"))
            rows.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM today.{table}")
        rows.commit()
        assert rows.execute("SELECT count(*) FROM versions").fetchone() == (3,)
    return old, token


def revision(path: Path) -> str:
    with closing(sqlite3.connect(path)) as rows:
        return str(rows.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def test_first_schema_is_upgraded_at_start_with_all_its_rows(first: tuple[Path, str]) -> None:
    folder, token = first
    index = {
        path: path.read_bytes() for path in (folder / "index_data" / "main").rglob("*") if path.is_file()
    }
    assert revision(folder / "registry.db") == "0001"
    with Server(folder, CONFIG, workers=2) as server, Client(server.direct_url, token) as client:
        lines = client.lines("foo")
        assert {vers: line["yanked"] for vers, line in lines.items()} == {"1.0.0": True, "1.1.0": False}
        for name, vers in (("foo", "1.0.0"), ("foo", "1.1.0"), ("bar", "1.0.0")):
            assert client.is_whole(name, vers, sha256(crate_file(name, vers)))
            assert client.get(f"/api/v1/crates/{name}/{vers}").status == 200
        assert client.owners("foo") == {"alice"}
        assert client.publish("foo", "1.2.0").status == 200
        assert client.unyank("foo", "1.0.0").status == 200
        assert {path: path.read_bytes() for path in index if path.name == "bar"} == {
            path: data for path, data in index.items() if path.name == "bar"
        }
        log = server.stderr()
        assert log.count(f"upgrading the database from schema 0001 to {HEAD}") == 1
        assert f"registry.db.before-{HEAD}" in log
    assert revision(folder / "registry.db") == HEAD
    kept = folder / f"registry.db.before-{HEAD}"
    assert revision(kept) == "0001"
    assert kept.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(kept)) as rows:
        assert rows.execute("SELECT count(*) FROM versions").fetchone() == (3,)
    all_is_well(folder)


def test_upgrade_that_fails_leaves_the_old_database(
    first: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All steps are one transaction: the older release can go on with the file as it is."""
    folder, _ = first
    all_steps = command.upgrade

    def upgrade_then_fail(config: Config, revision: str) -> None:
        all_steps(config, revision)
        raise RuntimeError("the power went out")

    monkeypatch.setattr(command, "upgrade", upgrade_then_fail)
    with pytest.raises(RuntimeError, match="the power went out"):
        upgrade.upgrade(folder / "registry.db")
    assert revision(folder / "registry.db") == "0001"
    monkeypatch.undo()
    upgrade.upgrade(folder / "registry.db")
    assert revision(folder / "registry.db") == HEAD
    all_is_well(folder)
