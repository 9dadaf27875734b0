"""Full text over crates, by FTS5 of SQLite (https://sqlite.org/fts5.html).

`crate_words` finds words of names, descriptions, keywords and categories; `crate_names` finds any three
characters inside a name. Both have crates.id as their rowid.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

_MAX_WORDS = 16  # each costs two look-ups; nobody names a crate by more


@dataclass(frozen=True, slots=True)
class Hit:
    """A crate that was found."""

    id: int
    name: str
    description: str | None
    max_version: str | None
    max_stable_version: str | None
    downloads: int


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
    tx.execute(text("DELETE FROM crate_words WHERE rowid = :id"), {"id": crate_id})
    tx.execute(
        text(
            "INSERT INTO crate_words (rowid, name, description, keywords, categories)"
            " VALUES (:id, :name, :description, :keywords, :categories)"
        ),
        {
            "id": crate_id,
            "name": name,
            "description": description or "",
            "keywords": " ".join(keywords),
            "categories": " ".join(categories),
        },
    )
    tx.execute(
        text("INSERT OR REPLACE INTO crate_names (rowid, canonical) VALUES (:id, :key)"),
        {"id": crate_id, "key": key},
    )


def find(db: Connection, registry: str, query: str, *, limit: int, offset: int) -> tuple[list[Hit], int]:
    """Return the crates that have every word of `query`, best first, and how many there are in all.

    A word is found at the start of a word of the texts, or anywhere in the name. The exact name comes first,
    then names that begin with the query, then the rest by rank weighted with downloads. No words: all crates,
    most downloaded first.
    """
    words = list(dict.fromkeys(re.findall(r"[^\W_]+", query.lower())))[:_MAX_WORDS]
    values: dict[str, object] = {"registry": registry, "limit": limit, "offset": offset}
    where = ["registry = :registry"]
    for number, word in enumerate(words):
        # Only numbers and column names are put into the text; what was asked for is bound.
        found = f"SELECT rowid FROM crate_words WHERE crate_words MATCH :word{number}"  # noqa: S608
        values[f"word{number}"] = f'"{word}"*'
        # A trigram index cannot look for less than three characters.
        if len(word) >= 3:
            found += f" UNION ALL SELECT rowid FROM crate_names WHERE crate_names MATCH :part{number}"  # noqa: S608
            values[f"part{number}"] = f'"{word}"'
        where.append(f"id IN ({found})")
    condition = " AND ".join(where)
    total = db.execute(text(f"SELECT count(*) FROM crates WHERE {condition}"), values).scalar_one()  # noqa: S608

    ranked = "SELECT id, 0.0 AS rank FROM crates WHERE 0"
    if words:
        # Weights as in the columns: name, description, keywords, categories.
        ranked = (
            "SELECT rowid AS id, bm25(crate_words, 10.0, 2.0, 4.0, 2.0) AS rank"
            " FROM crate_words WHERE crate_words MATCH :any"
        )
        values["any"] = " OR ".join(f'"{word}"*' for word in words)
    # The name as one would spell it for these words: `q=foo+bar` and `q=foo-bar` mean `foo_bar` exactly.
    values["name"] = "_".join(words)
    rows = db.execute(
        text(
            "SELECT id, name, description, max_version, max_stable_version, downloads"  # noqa: S608
            f" FROM crates LEFT JOIN ({ranked}) AS ranked USING (id) WHERE {condition}"
            " ORDER BY canonical = :name DESC,"
            " substr(canonical, 1, length(:name)) = :name DESC,"
            # bm25 is negative, the better the lower. A thousand downloads weigh as much as twice the rank.
            " (ifnull(rank, 0) - 0.1) * (1 + downloads / (downloads + 1000.0)),"
            " downloads DESC, canonical LIMIT :limit OFFSET :offset"
        ),
        values,
    )
    return [Hit(*row) for row in rows], int(total)
