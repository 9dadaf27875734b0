"""Full text over crates, by FTS5 of SQLite (https://sqlite.org/fts5.html).

`crate_words` finds words of names, descriptions, keywords and categories; `crate_names` finds any three
characters inside a name. Both have crates.id as their rowid.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Connection, text

from cargo_registry.crate.names import canonical
from cargo_registry.db.schema import UtcTime

_MAX_WORDS = 16  # each costs two look-ups; nobody names a crate by more


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
    # The exact name, then names that begin so, then by rank. bm25 is negative, the better the lower; a thousand
    # downloads weigh as much as twice the rank.
    "relevance": (
        "canonical = :spelled DESC, is_exact DESC, substr(canonical, 1, length(:joined)) = :joined DESC,"
        " (ifnull(rank, 0) - 0.1) * (1 + downloads / (downloads + 1000.0)), downloads DESC"
    ),
    "alphabetical": "canonical",
    "downloads": "downloads DESC",
    "recent-downloads": f"{_RECENT} DESC",
    "recent-updates": "updated_at DESC",
    "new": "created_at DESC",
}
"""What results can be sorted by: crates.io's names for it, and the SQL."""


_FORGET = text("DELETE FROM crate_words WHERE rowid = :id")
_WORDS = text(
    "INSERT INTO crate_words (rowid, name, description, keywords, categories)"
    " VALUES (:id, :name, :description, :keywords, :categories)"
)
_NAME = text("INSERT OR REPLACE INTO crate_names (rowid, canonical) VALUES (:id, :key)")


def refresh(
    tx: Connection,
    crate_id: int,
    *,
    name: str,
    key: str,
    description: str | None,
    keywords: Sequence[str],
    categories: Sequence[str],
) -> None:
    """Make a crate findable by what it says of itself now. `key`: its canonical name."""
    tx.execute(_FORGET, {"id": crate_id})
    words = {
        "id": crate_id,
        "name": name,
        "description": description or "",
        "keywords": " ".join(keywords),
        "categories": " ".join(categories),
    }
    tx.execute(_WORDS, words)
    tx.execute(_NAME, {"id": crate_id, "key": key})


def forget(tx: Connection, crate_id: int) -> None:
    """Make a crate that is removed not findable any more."""
    tx.execute(text("DELETE FROM crate_words WHERE rowid = :id"), {"id": crate_id})
    tx.execute(text("DELETE FROM crate_names WHERE rowid = :id"), {"id": crate_id})


def find(
    db: Connection, registry: str, query: str, *, limit: int, offset: int, sort: str = "relevance"
) -> tuple[list[Hit], int]:
    """Return the crates that have every word of `query`, sorted by one of SORTS, and how many there are in all.

    A word is found at the start of a word of the texts or, from three letters on, anywhere in the name; so is
    the query as a whole (`de-js`). No words: all crates.
    """
    words = list(dict.fromkeys(re.findall(r"[^\W_]+", query.lower())))[:_MAX_WORDS]
    values: dict[str, object] = {"registry": registry, "limit": limit, "offset": offset}
    every = []
    # Only numbers and names of columns are put into the text; what was asked for is bound.
    for number, word in enumerate(words):
        found = f"SELECT rowid FROM crate_words WHERE crate_words MATCH :word{number}"  # noqa: S608
        values[f"word{number}"] = f'"{word}"*'
        # A trigram index cannot look for less than three characters.
        if len(word) >= 3:
            found += f" UNION ALL SELECT rowid FROM crate_names WHERE crate_names MATCH :part{number}"  # noqa: S608
            values[f"part{number}"] = f'"{word}"'
        every.append(f"id IN ({found})")
    # The name as one would spell it: `q=foo+bar` and `q=foo-bar` mean `foo_bar`, but `foo--bar` and `foo-foo`
    # say more than their words.
    values["joined"] = "_".join(words)
    spelled = canonical(re.sub(r"\s", "_", query.strip()))
    values["spelled"] = spelled or ""
    condition = " AND ".join(every) or "1"
    if len(words) > 1 and spelled:
        condition = (
            "id IN (SELECT rowid FROM crate_names WHERE crate_names MATCH :whole"  # noqa: S608
            f" UNION ALL SELECT id FROM crates WHERE {condition})"
        )
        values["whole"] = f'"{spelled}"'
    condition = f"registry = :registry AND {condition}"
    total = db.execute(text(f"SELECT count(*) FROM crates WHERE {condition}"), values).scalar_one()  # noqa: S608

    ranked = "SELECT id, 0.0 AS rank FROM crates WHERE 0"
    if words:
        # Weights as in the columns: name, description, keywords, categories.
        ranked = (
            "SELECT rowid AS id, bm25(crate_words, 10.0, 2.0, 4.0, 2.0) AS rank"
            " FROM crate_words WHERE crate_words MATCH :any"
        )
        values["any"] = " OR ".join(f'"{word}"*' for word in words)
    statement = text(
        "SELECT id, name, description, default_version, max_version, max_stable_version, downloads,"  # noqa: S608
        " created_at, updated_at, canonical IN (:spelled, :joined) AS is_exact"
        f" FROM crates LEFT JOIN ({ranked}) AS ranked USING (id) WHERE {condition}"
        f" ORDER BY {SORTS[sort]}, canonical LIMIT :limit OFFSET :offset"
    ).columns(created_at=UtcTime, updated_at=UtcTime, is_exact=Boolean)
    return [_hit(row) for row in db.execute(statement, values)], int(total)


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
