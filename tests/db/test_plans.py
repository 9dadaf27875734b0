"""What is asked all the time finds its rows by an index: nothing reads a whole table, however many crates there are."""

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from cargo_registry.db import crates, search, tokens
from tests.db.conftest import NOW, Db, add_crate

# A whole table of ours; not what a statement brings along (json_each, a subquery).
_SCAN = re.compile(
    r"SCAN (crates|versions|tokens|users|dependencies|labels|owners|audit|download_days)\b(?! USING)"
)
# For searches not even a whole index; of the full text only what matches.
_SEARCH_SCAN = re.compile(
    r"SCAN (crates|versions|download_days|registry_numbers)\b|SCAN crate_\w+ VIRTUAL TABLE INDEX \d+:(?!M)"
)


@pytest.fixture(scope="module")
def db(shared_db: Db) -> Db:
    def fill(tx: Connection) -> None:
        for number in range(2500):
            row = {"n": number, "name": f"crate{number}", "at": NOW.replace(tzinfo=None)}
            tx.execute(
                text(
                    "INSERT INTO crates (id, registry, name, canonical, created_at, updated_at, downloads, keywords,"
                    " categories) VALUES (:n + 10, 'main', :name, :name, :at, :at, :n, '[]', '[]')"
                ),
                row,
            )
            search.refresh(
                tx, number + 10, key=f"crate{number}", description="common text", keywords=(), categories=()
            )
        add_crate(tx, "serde", description="rare words")
        add_crate(tx, "serde", registry="secret", description="rare words")
        tx.execute(text("ANALYZE"))

    shared_db.write(fill)
    return shared_db


@pytest.fixture
def plans(db: Db) -> Iterator[list[str]]:
    """Collects, for each statement that runs, the lines of its plan, with the statement."""
    found: list[str] = []

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE")):
            asked = connection.connection.driver_connection.execute(
                f"EXPLAIN QUERY PLAN {statement}", parameters
            )
            found.extend(f"{row[3]}: {statement}" for row in asked)

    engine = db.database._inline
    event.listen(engine, "before_cursor_execute", explain)
    yield found
    event.remove(engine, "before_cursor_execute", explain)


QUERIES = ["serde", "rare words", "common", "common text", "ommo", "crate", "rate7", "zzz", "", "c", "te-2"]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("registry", ["main", "secret", "nowhere"])
@pytest.mark.parametrize("sort", ["relevance", "downloads", "alphabetical"])
def test_search_reads_no_whole_table(db: Db, plans: list[str], query: str, registry: str, sort: str) -> None:
    for offset in (0, 2400):
        db.look_up(search.find, registry, query, limit=10, offset=offset, sort=sort)
    assert plans
    assert not [plan for plan in plans if _SEARCH_SCAN.match(plan)]
    if query:
        assert [plan for plan in plans if "SCAN crate_words VIRTUAL TABLE" in plan]


@pytest.mark.parametrize("query", ["common", "crate", "", "rate"])
@pytest.mark.parametrize("sort", ["downloads", "alphabetical"])
def test_many_hits_are_not_sorted(db: Db, plans: list[str], query: str, sort: str) -> None:
    """They are taken in the order of an index."""
    db.look_up(search.find, "main", query, limit=10, offset=0, sort=sort)
    assert not [plan for plan in plans if plan.startswith("USE TEMP B-TREE FOR ORDER BY")]


def test_publish_and_look_ups_read_no_whole_table(db: Db, plans: list[str]) -> None:
    db.look_up(crates.listed, "main", "serde", "1.0.0")
    db.look_up(crates.find, "main", "serde")
    db.look_up(crates.known_names, "main", [f"crate{number}" for number in range(500)])
    db.look_up(tokens.holder, hashlib.sha256(b"x").digest())
    db.look_up(add_crate, "another")
    assert len(plans) > 10
    assert not [plan for plan in plans if _SCAN.match(plan)]


def test_of_many_hits_names_come_first_and_then_the_most_downloaded(db: Db) -> None:
    hits, total = db.look_up(search.find, "main", "common", limit=5, offset=0)
    assert total == 2500
    assert [hit.name for hit in hits] == [f"crate{number}" for number in range(2499, 2494, -1)]
    seen = [
        hit.name
        for offset in range(0, 2600, 100)
        for hit in db.look_up(search.find, "main", "crate", limit=100, offset=offset)[0]
    ]
    assert len(seen) == len(set(seen)) == 2500 + ("another" in seen)
    hits, _ = db.look_up(search.find, "main", "crate7", limit=3, offset=0)
    assert hits[0].name == "crate7"
    hits, total = db.look_up(search.find, "secret", "rare", limit=5, offset=0)
    assert ([hit.name for hit in hits], total) == (["serde"], 1)
