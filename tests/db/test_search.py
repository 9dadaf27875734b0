"""Search: what is found, in which order, how many, and that no text is a wrong query."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from cargo_registry.db import crates, search
from tests.db.conftest import NOW, Db, add_crate

CRATES: dict[str, tuple[str | None, tuple[str, ...], tuple[str, ...], int]] = {
    # name: description, keywords, categories, downloads
    "serde": ("A serialization framework", ("no_std",), ("encoding",), 9_000),
    "serde_json": ("A JSON file format", ("json", "serde"), ("encoding", "parser-implementations"), 8_000),
    "serde-yaml": ("YAML for Serde", (), (), 10),
    "Serde-derive-internals": (None, (), (), 1),
    "json": ("JSON in Rust", (), (), 50),
    "simd-json": ("Fast json", (), (), 60),
    "tiny-json-rs": ("A thing", (), (), 70),
    "unrelated": ("Works with the serde framework", (), (), 100_000),
    "log": ("A lightweight logging facade", (), (), 3),
    "log-log": ("Logs of logs", (), (), 2),
    "log4rs": ("Logs a lot of logs to a log", (), (), 100_000),
    "a": ("One letter", (), (), 0),
    "ab": ("Two letters", (), (), 0),
    "foo__bar": ("Two underscores", (), (), 0),
    "foo-bar": ("One hyphen", (), (), 0),
    "popular-thing": ("An httpd", (), (), 1_000_000),
    "httpd-thing": ("It", (), (), 0),
    "grüße": (None, (), (), 0),  # cannot be published; what the table can hold
}


@pytest.fixture(scope="module")
def db(shared_db: Db) -> Db:
    def fill(tx: Connection) -> None:
        for name, (description, keywords, categories, downloads) in CRATES.items():
            if not name.isascii():
                continue
            crate = add_crate(tx, name, description=description, keywords=keywords, categories=categories)
            tx.execute(
                text("UPDATE crates SET downloads = :n WHERE id = :id"), {"n": downloads, "id": crate.id}
            )
        add_crate(tx, "serde", registry="secret", description="Another one")
        add_crate(tx, "hidden", registry="secret", description="serde inside")

    shared_db.write(fill)
    return shared_db


def find(db: Db, query: str, *, registry: str = "main", limit: int = 100, offset: int = 0) -> list[str]:
    hits, total = db.look_up(search.find, registry, query, limit=limit, offset=offset)
    if limit == 100 and not offset:
        assert total == len(hits)
    return [hit.name for hit in hits]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("serde", "serde"),
        ("SERDE", "serde"),
        ("serde-json", "serde_json"),
        ("serde_json", "serde_json"),
        ("Serde-JSON", "serde_json"),
        ("serde json", "serde_json"),
        ("  serde   json ", "serde_json"),
        ("serde_yaml", "serde-yaml"),
        ("serde_derive_internals", "Serde-derive-internals"),
        ("json", "json"),
        ("log", "log"),
        ("log-log", "log-log"),
        ("log log", "log-log"),
        ("a", "a"),
        ("ab", "ab"),
        ("foo__bar", "foo__bar"),
        ("foo-_bar", "foo__bar"),
        ("foo-bar", "foo-bar"),
        ("foo bar", "foo-bar"),
    ],
)
def test_exact_name_comes_first_however_it_is_spelled(db: Db, query: str, first: str) -> None:
    assert find(db, query)[0] == first


def test_names_that_begin_with_the_query_come_next(db: Db) -> None:
    found = find(db, "serde")
    assert found[0] == "serde"
    assert set(found[1:4]) == {"serde_json", "serde-yaml", "Serde-derive-internals"}
    assert found[1] == "serde_json", "the more downloaded first"
    assert found[4:] == ["unrelated"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("rde", {"serde", "serde_json", "serde-yaml", "Serde-derive-internals"}),
        ("son", {"serde_json", "json", "simd-json", "tiny-json-rs"}),
        ("ny-js", {"tiny-json-rs"}),
        ("NY_JSO", {"tiny-json-rs"}),
        ("4rs", {"log4rs"}),
        ("internal", {"Serde-derive-internals"}),
        ("serial", {"serde"}),
        ("framework", {"serde", "unrelated"}),
        ("no_std", {"serde"}),
        ("parser", {"serde_json"}),
        ("parser-implementations", {"serde_json"}),
        ("json yaml", set()),
        ("json fast", {"simd-json"}),
        ("json+fast", {"simd-json"}),
        ("nothing-like-it", set()),
    ],
)
def test_words_and_parts_of_names_are_found(db: Db, query: str, found: set[str]) -> None:
    assert set(find(db, query)) == found


def test_downloads_decide_between_equals(db: Db) -> None:
    def add(tx: Connection) -> None:
        for name, downloads in (("twin-x", 5), ("twin-y", 50_000), ("twin-z", 500)):
            crate = add_crate(tx, name, description="Nearly the same words")
            tx.execute(
                text("UPDATE crates SET downloads = :n WHERE id = :id"), {"n": downloads, "id": crate.id}
            )

    db.write(add)
    assert find(db, "nearly the same") == ["twin-y", "twin-z", "twin-x"]
    assert find(db, "twin") == ["twin-y", "twin-z", "twin-x"]


@pytest.mark.parametrize("query", ["", " ", "+", "-", "_", '"', "*", "()", "🦀", "\0"])
def test_no_words_mean_everything_most_downloaded_first(db: Db, query: str) -> None:
    found = find(db, query)
    assert found[:2] == ["popular-thing", "log4rs"]
    assert len(found) == db.look_up(
        lambda tx: tx.execute(text("SELECT count(*) FROM crates WHERE registry = 'main'")).scalar_one()
    )


@pytest.mark.parametrize(
    "query",
    [
        '"', "'", "*", "^serde", "serde*", "NOT serde", "serde AND", "OR", "NEAR(serde json)", "name:serde",
        "{name}:serde", "serde -json", "+serde", "(serde", "serde)", '"serde', "serde\0json", "\x00", "%", "\\",
        "'; DROP TABLE crates; --", ":word0", "serde:json", "\ud800", "İ", "ﬀ", "²", "Ⅷ", "नमस्ते", "日本語", "𐐀",
        "a" * 10_000, "serde " * 5_000, "x y " * 1000, "\u0301", "a\u0301b",
    ],
)  # fmt: skip
def test_any_text_is_a_query(db: Db, query: str) -> None:
    hits, total = db.look_up(search.find, "main", query, limit=5, offset=0)
    assert len(hits) == min(total, 5)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(max_size=40) | st.text(alphabet='serdjon"*^():-_+ \0NOTAR', max_size=30))
def test_no_text_is_a_wrong_query(db: Db, query: str) -> None:
    hits, total = db.look_up(search.find, "main", query, limit=100, offset=0)
    assert len(hits) == total
    assert len({hit.id for hit in hits}) == total


def test_pages_are_parts_of_one_list_and_know_the_total(db: Db) -> None:
    whole = find(db, "")
    pages = []
    for offset in range(0, len(whole) + 3, 3):
        hits, total = db.look_up(search.find, "main", "", limit=3, offset=offset)
        assert total == len(whole)
        pages += [hit.name for hit in hits]
    assert pages == whole


def test_registries_do_not_see_each_other(db: Db) -> None:
    assert find(db, "serde", registry="secret") == ["serde", "hidden"]
    assert "hidden" not in find(db, "serde")
    assert find(db, "", registry="nowhere") == []


def test_hit_says_the_versions(db: Db) -> None:
    def add(tx: Connection) -> None:
        crate = add_crate(tx, "versioned", "1.0.0", "1.2.0", "2.0.0-rc.1", description="Old text")
        crates.set_yanked(tx, crate, "1.2.0", True, now=NOW)
        gone = add_crate(tx, "all-yanked", "1.0.0")
        crates.set_yanked(tx, gone, "1.0.0", True, now=NOW)

    db.write(add)
    (hit,), _ = db.look_up(search.find, "main", "versioned", limit=1, offset=0)
    assert (hit.max_version, hit.max_stable_version, hit.description) == ("2.0.0-rc.1", "1.0.0", "Old text")
    (hit,), _ = db.look_up(search.find, "main", "all-yanked", limit=1, offset=0)
    assert (hit.max_version, hit.max_stable_version) == (None, None)


def test_new_description_replaces_the_old_one(db: Db) -> None:
    db.write(lambda tx: add_crate(tx, "changing", "1.0.0", description="quokka"))
    db.write(lambda tx: add_crate(tx, "changing", "1.1.0", description="wombat"))
    assert find(db, "wombat") == ["changing"]
    assert find(db, "quokka") == []
