"""What mirrors know of their upstreams.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the tables of mirrors."""
    op.create_table(
        "mirror_files",
        sa.Column("registry", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.Column("etag", sa.String),
        sa.Column("last_modified", sa.String),
        sa.Column("filled_at", sa.DateTime, nullable=False),
        sa.Column("checked_at", sa.DateTime, nullable=False),
        sa.Column("gone_at", sa.DateTime),
        sa.Column("fingerprint", sa.String, nullable=False),
        sa.Column("due_at", sa.DateTime),
        sa.PrimaryKeyConstraint("registry", "name", name="pk_mirror_files"),
    )
    op.create_table(
        "mirror_versions",
        sa.Column("registry", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("vers", sa.String, nullable=False),
        sa.Column("line", sa.LargeBinary, nullable=False),
        sa.Column("cksum", sa.String, nullable=False),
        sa.Column("first_seen_at", sa.DateTime),
        sa.Column("gone_at", sa.DateTime),
        sa.Column("changed_at", sa.DateTime),
        sa.Column("changed_cksum", sa.String),
        sa.PrimaryKeyConstraint("registry", "name", "vers", name="pk_mirror_versions"),
    )
    op.create_table(
        "mirror_rulings",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("registry", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("pattern", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("until", sa.DateTime),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("created_by", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_mirror_rulings"),
    )
    op.create_table(
        "mirror_downloads",
        sa.Column("registry", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("vers", sa.String, nullable=False),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("downloads", sa.Integer, nullable=False),
        sa.Column("first_at", sa.DateTime, nullable=False),
        sa.Column("last_at", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("registry", "name", "vers", "who", name="pk_mirror_downloads"),
    )
    op.create_table(
        "mirror_failures",
        sa.Column("registry", sa.String, nullable=False),
        sa.Column("what", sa.String, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("next_try_at", sa.DateTime, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("registry", "what", name="pk_mirror_failures"),
    )
    op.create_table(
        "mirror_alarms",
        sa.Column("registry", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("registry", "kind", "name", name="pk_mirror_alarms"),
    )
    op.create_index("ix_mirror_rulings_registry", "mirror_rulings", ["registry"])
