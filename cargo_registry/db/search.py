"""Full text over crates, by FTS5 of SQLite (https://sqlite.org/fts5.html).

`crate_words` holds the words of each crate's texts and the ends of its name's words, so that one look-up finds
both starts of words and parts of names. `crate_names` finds any three characters inside a name, for queries that
are a part of a name but not of its words: `ny-js`. Their rowid is the registry's number above 32 bits, and
crates.id: what one registry has lies together.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Boolean, Connection, Executable, TextClause, TextualSelect, text

from cargo_registry.db.schema import UtcTime

_WORD = re.compile(r"[^\W_]+")
_NAME_OR_PART = re.compile(r"[a-z0-9_]{1,64}")
_MAX_WORDS = 16  # each costs a look-up; nobody names a crate by more
_SHORT = 3  # shorter words are in too many names to be found inside of them
# Stands before the end of a word. The tokenizer `ascii` takes each character that is not ASCII for a letter.
_END = "\u00b7"
# Up to so many crates are ranked, which takes about 2 µs for each.
_FEW = 2000


@dataclass(frozen=True, slots=True)
class Hit:
    """A crate that was found."""

    id: int
    name: str
    description: str | None
    default_version: str | None
    max_version: str | None
    max_stable_version: str | None
    downloads: int
    created_at: datetime
    updated_at: datetime
    is_exact: bool  # its name is what was asked for


_RECENT = (
    "(SELECT ifnull(sum(download_days.downloads), 0) FROM download_days"
    " JOIN versions ON versions.id = version_id"
    " WHERE crate_id = crates.id AND day >= date('now', '-90 days'))"
)

SORTS = {
    "relevance": "",  # see `_relevance`
    "alphabetical": "canonical",
    "downloads": "downloads DESC",
    "recent-downloads": f"{_RECENT} DESC",
    "recent-updates": "updated_at DESC",
    "new": "created_at DESC",
}
"""What results can be sorted by: crates.io's names for it, and the SQL."""


# --- What is kept ---

_ROWID = text(
    "SELECT number << 32 | crates.id FROM crates JOIN registry_numbers USING (registry) WHERE crates.id = :id"
)
_NUMBER = text("INSERT INTO registry_numbers (registry) SELECT registry FROM crates WHERE id = :id")
_HELD = text("SELECT words FROM crate_words WHERE rowid = :rowid")
_HOLD = text("INSERT OR REPLACE INTO crate_words (rowid, words) VALUES (:rowid, :words)")
_NAME = text("INSERT OR REPLACE INTO crate_names (rowid, canonical) VALUES (:rowid, :key)")


def refresh(
    tx: Connection,
    crate_id: int,
    *,
    key: str,
    description: str | None,
    keywords: Sequence[str],
    categories: Sequence[str],
) -> None:
    """Make a crate findable by what it says of itself now. `key`: its canonical name."""
    rowid = tx.execute(_ROWID, {"id": crate_id}).scalar()
    if rowid is None:
        tx.execute(_NUMBER, {"id": crate_id})
        rowid = tx.execute(_ROWID, {"id": crate_id}).scalar_one()
    words = words_of(key, description or "", *keywords, *categories)
    held = tx.execute(_HELD, {"rowid": rowid}).scalar()
    # Most versions say the same as the one before.
    if held != words:
        tx.execute(_HOLD, {"rowid": rowid, "words": words})
    if held is None:
        tx.execute(_NAME, {"rowid": rowid, "key": key})


def forget(tx: Connection, crate_id: int) -> None:
    """Make a crate that is about to be removed not findable any more."""
    rowid = tx.execute(_ROWID, {"id": crate_id}).scalar()
    tx.execute(text("DELETE FROM crate_words WHERE rowid = :rowid"), {"rowid": rowid})
    tx.execute(text("DELETE FROM crate_names WHERE rowid = :rowid"), {"rowid": rowid})


def words_of(key: str, *texts: str) -> str:
    """Return what `crate_words` holds of a crate, each word once. `key`: its canonical name."""
    of_name = _words(key)
    words = dict.fromkeys(of_name)
    for said in texts:
        words.update(dict.fromkeys(_words(said)))
    for word in of_name:
        words.update(dict.fromkeys(_END + word[at:] for at in range(1, len(word) - _SHORT + 1)))
    return " ".join(words)


def _words(said: str) -> list[str]:
    """Return the words of a text in lower case, without accents, in order."""
    if not said.isascii():
        said = "".join(c for c in unicodedata.normalize("NFKD", said) if not unicodedata.combining(c))
    return _WORD.findall(said.lower())


# --- Finding ---


def find(
    db: Connection, registry: str, query: str, *, limit: int, offset: int, sort: str = "relevance"
) -> tuple[list[Hit], int]:
    """Return the crates that have every word of `query`, sorted by one of SORTS, and how many there are in all.

    A word is found at the start of a word of the texts or, from three letters on, anywhere in the name; so is
    the query as a whole (`de-js`). No words: all crates. Of more than 2,000 that are relevant, those come first
    whose names begin so, then the more downloaded.

    Each statement costs a few hops to the thread of the database, about 0.4 ms, so there is one or two. With
    200,000 crates, of which 34,000 are found: 2 ms for their number, 0.4 ms for a page of names that begin so,
    6 ms for a page of the most downloaded.
    """
    words = list(dict.fromkeys(_words(query)))[:_MAX_WORDS]
    # The name as one would spell it: `q=foo+bar` and `q=foo-bar` mean `foo_bar`, but `foo--bar` and `foo-foo`
    # say more than their words.
    joined = "_".join(words)
    spelled = re.sub(r"[\s-]", "_", query.strip()).lower()
    if not _NAME_OR_PART.fullmatch(spelled):
        spelled = ""
    values: dict[str, object] = {"registry": registry, "joined": joined, "spelled": spelled}
    found = ""
    if words:
        values["match"] = " AND ".join(_expression(word) for word in words)
        found = _BY_WORDS
        # Names that have the query have its words; but short words are not looked for inside of names.
        if min(map(len, words)) < _SHORT <= len(spelled):
            values["part"] = f'"{spelled}"'
            found = _BY_WORDS_OR_PART
    page = {"limit": limit, "offset": offset}
    if sort != "relevance" or not words:
        total: int = db.execute(_count(found), values).scalar_one()
        if offset >= total:
            return [], total
        sort = "downloads" if sort == "relevance" else sort
        statement = _walk(found, sort) if sort in _WALKS and total > _FEW else _sorted(found, sort)
        return _hits(db, statement, values | page), total

    values["after"] = joined[:-1] + chr(ord(joined[-1]) + 1)
    apart = bool(spelled) and not spelled.startswith(joined)
    names = db.execute(_names_if_many(found, apart=apart), values | page).all()
    total = names[0].total
    if offset >= total:
        return [], total
    if total <= _FEW:
        places = {f"word{at}": word for at, word in enumerate(words)}
        return _hits(db, _sorted(found, sort, len(words)), values | places | page), total
    hits = [_hit(row) for row in names if row.id is not None]
    if len(hits) < limit:
        before: int = db.execute(_count_names(apart=apart), values).scalar_one()
        rest = {"limit": limit - len(hits), "offset": max(0, offset - before)}
        hits += _hits(db, _walk(found, "downloads", without_names=True), values | rest)
    return hits, total


def _expression(word: str) -> str:
    """Return what finds a word in `crate_words`."""
    return f'("{word}"* OR "{_END}{word}"*)' if len(word) >= _SHORT else f'"{word}"*'


# Only SQL of this module is put into texts; what was asked for is bound.

_COLUMNS = (
    "SELECT id, name, description, default_version, max_version, max_stable_version, downloads,"
    " created_at, updated_at, canonical IN (:spelled, :joined) AS is_exact"
)
_FIRST = "(SELECT number << 32 FROM registry_numbers WHERE registry = :registry)"
_ID = "SELECT rowid & 4294967295 AS id FROM"
_OURS = f"rowid BETWEEN {_FIRST} AND {_FIRST} + 4294967295"
_BY_WORDS = f"{_ID} crate_words WHERE crate_words MATCH :match AND {_OURS}"
_BY_WORDS_OR_PART = f"{_BY_WORDS} UNION {_ID} crate_names WHERE crate_names MATCH :part AND {_OURS}"


@cache
def _count(found: str) -> TextClause:
    if not found:
        return text(
            "SELECT count(*) FROM crates INDEXED BY ix_crates_registry_downloads WHERE registry = :registry"
        )
    return text(f"SELECT count(*) FROM ({found})")  # noqa: S608


@cache
def _sorted(found: str, sort: str, words: int = 0) -> TextualSelect:
    """Return the statement that looks each crate up and sorts them all."""
    condition = f"id IN ({found})" if found else "registry = :registry"
    order = SORTS[sort] or _relevance(words)
    return _as_hits(
        f"{_COLUMNS} FROM crates WHERE {condition} ORDER BY {order}, canonical LIMIT :limit OFFSET :offset"
    )


def _relevance(words: int) -> str:
    """Return the order of relevance for so many words.

    The exact name, then names that begin so, then by where the words are; a thousand downloads weigh as much as
    twice of that. bm25 is no help: for each word it looks at every crate that has it.
    """
    ranks = "".join(
        f" + CASE WHEN instr('_' || canonical || '_', '_' || :word{n} || '_') THEN 10"
        f" WHEN instr('_' || canonical, '_' || :word{n}) THEN 8 WHEN instr(canonical, :word{n}) THEN 5 ELSE 0 END"
        f" + 4 * (instr(lower(keywords), :word{n}) > 0) + 2 * (instr(lower(categories), :word{n}) > 0)"
        for n in range(words)
    )
    return (
        "canonical = :spelled DESC, is_exact DESC, substr(canonical, 1, length(:joined)) = :joined DESC,"
        f" (1{ranks}) * (1 + downloads / (downloads + 1000.0)) DESC, downloads DESC"
    )


# The orders that an index has. A walk along it stops when the page is full.
_WALKS = {
    "downloads": ("ix_crates_registry_downloads", "downloads DESC, id DESC"),
    "alphabetical": ("ix_crates_registry_canonical_downloads", "canonical"),
}


@cache
def _walk(found: str, sort: str, *, without_names: bool = False) -> TextualSelect:
    """Return the statement that takes what was found in the order of an index."""
    index, order = _WALKS[sort]
    # Left to itself SQLite looks each of 50,000 up in `crates` and sorts them, which takes ten times as long.
    condition = f" AND id IN ({found})" if found else ""
    if without_names:
        condition += " AND NOT (canonical >= :joined AND canonical < :after) AND canonical <> :spelled"
    return _as_hits(
        f"{_COLUMNS} FROM crates INDEXED BY {index} WHERE registry = :registry{condition}"
        f" ORDER BY {order} LIMIT :limit OFFSET :offset"
    )


def _as_hits(statement: str) -> TextualSelect:
    return text(statement).columns(created_at=UtcTime, updated_at=UtcTime, is_exact=Boolean)


@cache
def _names_if_many(found: str, *, apart: bool) -> TextualSelect:
    """Return the statement that counts what was found and, if that is many, takes a page of the names.

    Each row has the number; without a name there is one row of nothing else. `apart`: see `_names`.
    """
    order = "canonical = :spelled DESC, canonical = :joined DESC, downloads DESC, id DESC"
    page = f"SELECT id FROM ({_names(apart)}) ORDER BY {order} LIMIT :limit OFFSET :offset"  # noqa: S608
    return _as_hits(
        f"{_COLUMNS}, total FROM (SELECT count(*) AS total FROM ({found}))"  # noqa: S608
        f" LEFT JOIN crates ON total > {_FEW} AND id IN ({page}) ORDER BY {order}"
    )


@cache
def _count_names(*, apart: bool) -> TextClause:
    return text(f"SELECT count(*) FROM ({_names(apart)})")  # noqa: S608


def _names(apart: bool) -> str:
    """Return what selects the names that begin as the query, from the index alone.

    `apart`: the name that is spelled like the query does not begin like its words, as `foo--bar`.
    """
    begins = (
        "SELECT id, canonical, downloads FROM crates INDEXED BY ix_crates_registry_canonical_downloads"
        " WHERE registry = :registry AND canonical"
    )
    names = f"{begins} >= :joined AND canonical < :after"
    return f"{names} UNION ALL {begins} = :spelled" if apart else names


def _hits(db: Connection, statement: Executable, values: dict[str, object]) -> list[Hit]:
    return [_hit(row) for row in db.execute(statement, values)]


def _hit(row: Any) -> Hit:
    return Hit(
        row.id,
        row.name,
        row.description,
        row.default_version,
        row.max_version,
        row.max_stable_version,
        row.downloads,
        row.created_at,
        row.updated_at,
        row.is_exact,
    )
