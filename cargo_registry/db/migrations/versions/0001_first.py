"""The first schema.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table of the first release."""
    op.create_table(
        "users",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("login", sa.String, nullable=False),
        sa.Column("login_key", sa.String, nullable=False),
        sa.Column("name", sa.String),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("disabled", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("login_key", name="uq_users_login_key"),
    )
    op.create_table(
        "teams",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("name_key", sa.String, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_teams"),
        sa.UniqueConstraint("name_key", name="uq_teams_name_key"),
    )
    op.create_table(
        "team_members",
        sa.Column("team_id", sa.Integer, nullable=False),
        sa.Column("user_id", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("team_id", "user_id", name="pk_team_members"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], "fk_team_members_team_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], "fk_team_members_user_id", ondelete="CASCADE"),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("user_id", sa.Integer, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("sha256", sa.LargeBinary(32), nullable=False),
        sa.Column("scopes", sa.Text),
        sa.Column("crates", sa.Text),
        sa.Column("registries", sa.Text),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("expires_at", sa.DateTime),
        sa.Column("revoked_at", sa.DateTime),
        sa.Column("last_used_at", sa.DateTime),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("sha256", name="uq_tokens_sha256"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], "fk_tokens_user_id", ondelete="CASCADE"),
    )
    op.create_index("ix_tokens_user_id", "tokens", ["user_id"])
    op.create_table(
        "crates",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("registry", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("canonical", sa.String, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("updated_at", sa.DateTime, nullable=False),
        sa.Column("downloads", sa.Integer, nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("keywords", sa.Text, nullable=False),
        sa.Column("categories", sa.Text, nullable=False),
        sa.Column("default_version", sa.String),
        sa.Column("max_version", sa.String),
        sa.Column("max_stable_version", sa.String),
        sa.PrimaryKeyConstraint("id", name="pk_crates"),
        sa.UniqueConstraint("registry", "canonical", name="uq_crates_registry_canonical"),
    )
    op.create_index("ix_crates_registry_downloads", "crates", ["registry", "downloads"])
    op.create_table(
        "versions",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("crate_id", sa.Integer, nullable=False),
        sa.Column("vers", sa.String, nullable=False),
        sa.Column("vers_key", sa.String, nullable=False),
        sa.Column("yanked", sa.Boolean, nullable=False),
        sa.Column("cksum", sa.String, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("line", sa.LargeBinary, nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.Column("published_at", sa.DateTime, nullable=False),
        sa.Column("published_by", sa.Integer),
        sa.Column("downloads", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_versions"),
        sa.UniqueConstraint("crate_id", "vers_key", name="uq_versions_crate_id_vers_key"),
        sa.ForeignKeyConstraint(["crate_id"], ["crates.id"], "fk_versions_crate_id"),
        sa.ForeignKeyConstraint(["published_by"], ["users.id"], "fk_versions_published_by"),
    )
    op.create_table(
        "dependencies",
        sa.Column("version_id", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("canonical", sa.String, nullable=False),
        sa.Column("own", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("version_id", "position", name="pk_dependencies"),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], "fk_dependencies_version_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_dependencies_canonical", "dependencies", ["canonical"])
    op.create_table(
        "labels",
        sa.Column("crate_id", sa.Integer, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("label", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("crate_id", "kind", "label", name="pk_labels"),
        sa.ForeignKeyConstraint(["crate_id"], ["crates.id"], "fk_labels_crate_id", ondelete="CASCADE"),
    )
    op.create_index("ix_labels_kind_label", "labels", ["kind", "label"])
    op.create_table(
        "tombstones",
        sa.Column("registry", sa.String, nullable=False),
        sa.Column("canonical", sa.String, nullable=False),
        sa.Column("vers_key", sa.String, nullable=False),
        sa.Column("cksum", sa.String, nullable=False),
        sa.Column("deleted_at", sa.DateTime, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("registry", "canonical", "vers_key", name="pk_tombstones"),
    )
    op.create_table(
        "owners",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("crate_id", sa.Integer, nullable=False),
        sa.Column("user_id", sa.Integer),
        sa.Column("team_id", sa.Integer),
        sa.PrimaryKeyConstraint("id", name="pk_owners"),
        sa.UniqueConstraint("crate_id", "user_id", name="uq_owners_crate_id_user_id"),
        sa.UniqueConstraint("crate_id", "team_id", name="uq_owners_crate_id_team_id"),
        sa.ForeignKeyConstraint(["crate_id"], ["crates.id"], "fk_owners_crate_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], "fk_owners_user_id"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], "fk_owners_team_id"),
    )
    op.create_table(
        "download_days",
        sa.Column("version_id", sa.Integer, nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("downloads", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("version_id", "day", name="pk_download_days"),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], "fk_download_days_version_id", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("token_id", sa.Integer),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("registry", sa.String),
        sa.Column("crate", sa.String),
        sa.Column("vers", sa.String),
        sa.Column("detail", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    # Full text over words, and over any three characters of the canonical name, for parts of names.
    # rowid = crates.id in both; `db/search.py` keeps them.
    op.execute("CREATE VIRTUAL TABLE crate_words USING fts5(name, description, keywords, categories)")
    op.execute("CREATE VIRTUAL TABLE crate_names USING fts5(canonical, tokenize='trigram')")
