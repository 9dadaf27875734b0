"""What upkeep remembers and looks for: when a tarball was last read, what was wrong with it; where a change came from.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns; what is there counts as not looked at yet."""
    op.add_column("versions", sa.Column("verified_at", sa.DateTime))
    op.add_column("versions", sa.Column("damage", sa.Text))
    op.create_index("ix_versions_cksum", "versions", ["cksum"])
    op.create_index("ix_versions_verified_at", "versions", ["verified_at"])
    op.create_index("ix_versions_damage", "versions", ["damage"], sqlite_where=sa.text("damage IS NOT NULL"))
    op.add_column("audit", sa.Column("address", sa.String))
    op.create_index("ix_audit_registry_crate", "audit", ["registry", "crate"])
