"""Full text that counts without putting lists together: each crate's words with the ends of its name's words.

Revision ID: 0004
Revises: 0003
"""

import json
import re
import unicodedata

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_BATCH = 5000


def upgrade() -> None:
    """Make the full text anew from the crates: half a minute for 200,000."""
    op.create_table(
        "registry_numbers",
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("registry", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_registry_numbers"),
        sa.UniqueConstraint("registry", name="uq_registry_numbers_registry"),
    )
    op.create_index(
        "ix_crates_registry_canonical_downloads", "crates", ["registry", "canonical", "downloads"]
    )
    op.execute(
        "INSERT INTO registry_numbers (registry) SELECT DISTINCT registry FROM crates ORDER BY registry"
    )
    op.execute("DROP TABLE crate_words")
    op.execute("DROP TABLE crate_names")
    # rowid = the registry's number << 32 | crates.id in both; `db/search.py` keeps them. Words up to 12 characters
    # are looked up in lists of their own: to merge those of all words that begin so takes four times as long.
    op.execute(
        "CREATE VIRTUAL TABLE crate_words USING fts5(words, tokenize='ascii', detail=none, columnsize=0,"
        " prefix='1 2 3 4 5 6 7 8 9 10 11 12')"
    )
    op.execute("CREATE VIRTUAL TABLE crate_names USING fts5(canonical, tokenize='trigram', columnsize=0)")
    db = op.get_bind()
    crates = sa.text(
        "SELECT id, number << 32 | id AS row, canonical, description, keywords, categories"
        " FROM crates JOIN registry_numbers USING (registry) WHERE id > :id ORDER BY id LIMIT :batch"
    )
    last = 0
    while batch := db.execute(crates, {"id": last, "batch": _BATCH}).all():
        last = batch[-1].id
        rows = [
            {
                "row": crate.row,
                "canonical": crate.canonical,
                "words": _words_of(
                    crate.canonical,
                    crate.description or "",
                    *json.loads(crate.keywords),
                    *json.loads(crate.categories),
                ),
            }
            for crate in batch
        ]
        db.execute(sa.text("INSERT INTO crate_words (rowid, words) VALUES (:row, :words)"), rows)
        db.execute(sa.text("INSERT INTO crate_names (rowid, canonical) VALUES (:row, :canonical)"), rows)


def _words_of(canonical: str, *texts: str) -> str:
    of_name = _words(canonical)
    words = dict.fromkeys([*of_name, *(word for said in texts for word in _words(said))])
    for word in of_name:
        words.update(dict.fromkeys(f"\u00b7{word[at:]}" for at in range(1, len(word) - 2)))
    return " ".join(words)


def _words(said: str) -> list[str]:
    if not said.isascii():
        said = "".join(c for c in unicodedata.normalize("NFKD", said) if not unicodedata.combining(c))
    return re.findall(r"[^\W_]+", said.lower())
