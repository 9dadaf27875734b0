import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import pytest
from sqlalchemy import Connection

from cargo_registry.crate.names import CrateName
from cargo_registry.db import crates
from cargo_registry.db.engine import Database
from cargo_registry.db.upgrade import upgrade
from tests.storage.conftest import small_disk

__all__ = ["small_disk"]

P = ParamSpec("P")
T = TypeVar("T")

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)


class Db:
    """A database of its own, each call a transaction; without an event loop around the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        upgrade(path)
        self.database = Database(path)

    def run(self, work: Callable[[Database], Awaitable[T]]) -> T:
        async def session() -> T:
            return await work(self.database)

        return asyncio.run(session())

    def write(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return self.run(lambda database: database.write(fn, *args, **kwargs))

    def look_up(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return self.database.look_up(fn, *args, **kwargs)

    def close(self) -> None:
        asyncio.run(self.database.close())


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Db]:
    db = Db(tmp_path / "registry.db")
    yield db
    db.close()


@pytest.fixture(scope="module")
def shared_db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Db]:
    """One for tests that only read what the module puts in."""
    db = Db(tmp_path_factory.mktemp("db") / "registry.db")
    yield db
    db.close()


def add_crate(
    tx: Connection,
    name: str,
    *versions: str,
    registry: str = "main",
    description: str | None = None,
    keywords: tuple[str, ...] = (),
    categories: tuple[str, ...] = (),
) -> crates.Crate:
    """Make a crate with versions, and return it as it is then."""
    crate, _ = crates.claim(tx, registry, CrateName.stored(name), now=NOW)
    for vers in versions or ("1.0.0",):
        crates.add_version(
            tx,
            crate,
            vers=vers,
            cksum="0" * 64,
            size=1,
            line=f'{{"name":"{name}","vers":"{vers}"}}'.encode(),
            manifest={
                "description": description,
                "keywords": list(keywords),
                "categories": list(categories),
            },
            deps=[],
            published_by=None,
            published_at=NOW,
            now=NOW,
        )
    return crates.get(tx, registry, name)
