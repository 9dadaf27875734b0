"""Search compared with looking at each crate, one after the other: what is found, how many, and in which order."""

import random
import re
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from cargo_registry.db import search
from tests.db.conftest import NOW, Db

PARTS = ["ab", "abc", "bca", "cab", "a", "b7", "json", "son", "serialization", "serializations"]
FEW = 2000  # as `find` documents


@dataclass(frozen=True)
class Told:
    """A crate as it was put in."""

    id: int
    registry: str
    name: str  # canonical
    texts: str
    downloads: int


def crates_of(seed: int) -> list[Told]:
    """Return 3,200 crates of two registries; words are few, so that some are in many and some in few."""
    rng = random.Random(seed)
    names: dict[str, None] = {"a__ab": None}
    while len(names) < 3200:
        name = rng.choice("_-").join(rng.choices(PARTS, k=rng.randrange(1, 4)))
        names[
            name.replace("-", "_") + rng.choice(["", "", str(rng.randrange(100)), "_" + rng.choice("xy")])
        ] = None
    downloads = rng.sample(range(1_000_000), 3200)
    return [
        Told(
            number,
            "other" if number % 16 == 0 else "main",
            name,
            " ".join(rng.choices([*PARTS, "Common,", "(rare)", "words"], k=4)),
            downloads[number - 1],
        )
        for number, name in enumerate(names, 1)
    ]


CRATES = crates_of(1)


@pytest.fixture(scope="module")
def db(shared_db: Db) -> Db:
    def fill(tx: Connection) -> None:
        for crate in CRATES:
            row = {
                "id": crate.id,
                "registry": crate.registry,
                "name": crate.name,
                "downloads": crate.downloads,
            }
            tx.execute(
                text(
                    "INSERT INTO crates (id, registry, name, canonical, created_at, updated_at, downloads, keywords,"
                    " categories) VALUES (:id, :registry, :name, :name, :at, :at, :downloads, '[]', '[]')"
                ),
                row | {"at": NOW.replace(tzinfo=None)},
            )
            search.refresh(tx, crate.id, key=crate.name, description=crate.texts, keywords=(), categories=())

    shared_db.write(fill)
    return shared_db


def words_in(said: str) -> list[str]:
    return re.findall("[a-z0-9]+", said.lower())


def matching(registry: str, query: str) -> list[Told]:
    """Return what should be found, by the letter of the documentation of `find`."""
    words = words_in(query)
    whole = query.strip().lower().replace("-", "_").replace(" ", "_")
    return [
        crate
        for crate in CRATES
        if crate.registry == registry
        and (
            all(
                any(
                    said.startswith(word)
                    for said in words_in(f"{crate.name} {crate.texts}".replace("_", " "))
                )
                or (len(word) >= 3 and word in crate.name)
                for word in words
            )
            or (len(whole) >= 3 and whole in crate.name)
        )
    ]


def find(db: Db, query: str, registry: str = "main", sort: str = "relevance") -> list[int]:
    """Return all that is found, asked for in pages."""
    found: list[int] = []
    while True:
        hits, total = db.look_up(search.find, registry, query, limit=700, offset=len(found), sort=sort)
        found += [hit.id for hit in hits]
        if not hits:
            assert total == len(found)
            return found


# What can be put together of the words there are: parts of them, several of them, with any dash between.
QUERIES = st.lists(
    st.sampled_from([*PARTS, "common", "rare", "wor", "x", "7"]).flatmap(
        lambda word: st.tuples(st.integers(0, 3), st.integers(1, 20)).map(
            lambda cut: word[cut[0] : cut[0] + cut[1]]
        )
    ),
    min_size=1,
    max_size=3,
).flatmap(lambda words: st.sampled_from(" -_+").map(lambda dash: dash.join(words)))


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=QUERIES, registry=st.sampled_from(["main", "main", "other", "none"]))
@example(query="a", registry="main")  # 2,500
@example(query="son", registry="main")  # 1,700
@example(query="zz", registry="main")
@example(query="b-c", registry="main")
@example(query="a-b7", registry="main")
@example(query="ca_a", registry="main")
@example(query="ab-", registry="main")
@example(query="7 a", registry="main")
@example(query="serialization", registry="main")
@example(query="erializations", registry="other")
def test_what_is_found_is_what_matches(db: Db, query: str, registry: str) -> None:
    expected = matching(registry, query)
    found = find(db, query, registry)
    assert sorted(found) == sorted(crate.id for crate in expected)
    by_downloads = [crate.id for crate in sorted(expected, key=lambda crate: -crate.downloads)]
    assert find(db, query, registry, "downloads") == by_downloads
    by_name = [crate.id for crate in sorted(expected, key=lambda crate: crate.name)]
    assert find(db, query, registry, "alphabetical") == by_name
    begins = {
        crate.id for crate in expected if crate.name.startswith("_".join(dict.fromkeys(words_in(query))))
    }
    named = {crate.id for crate in expected if crate.name == query.replace("-", "_").replace(" ", "_")}
    assert set(found[: len(named)]) == named
    assert set(found[: len(begins | named)]) == begins | named


@pytest.mark.parametrize(
    ("query", "begin"),
    [("a", "a"), ("b", "b"), ("ab", "ab"), ("serializ", "serializ"), ("a ab", "a_ab"), ("a__ab", "a_ab")],
)
def test_of_many_the_names_and_then_the_rest_are_in_order_of_downloads(
    db: Db, query: str, begin: str
) -> None:
    expected = matching("main", query)
    assert len(expected) > FEW
    spelled = query.replace(" ", "_")
    assert query != "a__ab" or spelled in {crate.name for crate in expected}
    expected.sort(
        key=lambda crate: (
            crate.name != spelled,
            crate.name != begin,
            not crate.name.startswith(begin),
            -crate.downloads,
        )
    )
    assert find(db, query) == [crate.id for crate in expected]
