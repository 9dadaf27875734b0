"""The tables. Migrations make them; a test compares the two.

Names of registries, crates, logins are stored as spelled; what must be unique has a column of its own.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Date,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcTime(TypeDecorator[datetime]):
    """An aware time, stored in UTC: SQLite keeps no zone, so it is put back on the way out."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Refuse a naive time and drop the zone of an aware one."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive time")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Give the zone back."""
        return None if value is None else value.replace(tzinfo=UTC)


users = Table(
    "users",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("login", String, nullable=False),
    Column("login_key", String, nullable=False, unique=True),  # lower-case
    Column("name", String),
    Column("role", String, nullable=False),  # admin, publisher, reader
    Column("disabled", Boolean, nullable=False),
    Column("created_at", UtcTime, nullable=False),
)

teams = Table(
    "teams",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False),
    Column("name_key", String, nullable=False, unique=True),
    Column("created_at", UtcTime, nullable=False),
)

team_members = Table(
    "team_members",
    metadata,
    Column("team_id", ForeignKey("teams.id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", String, nullable=False),
    Column("sha256", LargeBinary(32), nullable=False, unique=True),  # of the secret, which is stored nowhere
    # JSON lists; NULL: no limit
    Column("scopes", Text),
    Column("crates", Text),
    Column("registries", Text),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime),
    Column("revoked_at", UtcTime),
    Column("last_used_at", UtcTime),
)

crates = Table(
    "crates",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("registry", String, nullable=False),
    Column("name", String, nullable=False),  # as first spelled
    Column("canonical", String, nullable=False),  # lower-case, `-` as `_`
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("downloads", Integer, nullable=False),
    # What lists of crates show, from the default version; kept with each change of the versions.
    Column("description", Text),
    Column("keywords", Text, nullable=False),  # JSON list
    Column("categories", Text, nullable=False),  # JSON list
    Column("default_version", String),  # highest stable, else highest, if possible not yanked
    Column("max_version", String),  # highest that is not yanked
    Column("max_stable_version", String),
    UniqueConstraint("registry", "canonical"),
    Index("ix_crates_registry_downloads", "registry", "downloads"),
    Index("ix_crates_registry_canonical_downloads", "registry", "canonical", "downloads"),
)

# Short names for registries in the full text, whose rows are found by ranges of integers only.
registry_numbers = Table(
    "registry_numbers",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("registry", String, nullable=False, unique=True),
)

versions = Table(
    "versions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("crate_id", ForeignKey("crates.id"), nullable=False),
    Column("vers", String, nullable=False),
    Column("vers_key", String, nullable=False),  # without build metadata: cargo cannot tell those apart
    Column("yanked", Boolean, nullable=False),
    Column("cksum", String, nullable=False),
    Column("size", Integer, nullable=False),  # bytes of the tarball
    Column("line", LargeBinary, nullable=False),  # the index line as published, `"yanked":false`
    Column("manifest", Text, nullable=False),  # JSON of what else the manifest says: license, links, …
    Column("published_at", UtcTime, nullable=False),
    Column("published_by", ForeignKey("users.id")),
    Column("downloads", Integer, nullable=False),
    Column("verified_at", UtcTime),  # when the tarball was last read and compared with cksum
    Column("damage", Text),  # what was wrong with it then; such a one is not served
    UniqueConstraint("crate_id", "vers_key"),
    Index("ix_versions_cksum", "cksum"),
    Index("ix_versions_verified_at", "verified_at"),
    Index("ix_versions_damage", "damage", sqlite_where=text("damage IS NOT NULL")),
)

dependencies = Table(
    "dependencies",
    metadata,
    Column("version_id", ForeignKey("versions.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),  # as in the index line
    Column("canonical", String, nullable=False, index=True),  # of the crate's real name
    Column("own", Boolean, nullable=False),  # in this registry
)

labels = Table(
    "labels",
    metadata,
    Column("crate_id", ForeignKey("crates.id", ondelete="CASCADE"), primary_key=True),
    Column("kind", String, primary_key=True),  # keyword, category
    Column("label", String, primary_key=True),
    Index("ix_labels_kind_label", "kind", "label"),
)

# What was published and is gone: its number cannot be used again for other bytes.
tombstones = Table(
    "tombstones",
    metadata,
    Column("registry", String, primary_key=True),
    Column("canonical", String, primary_key=True),
    Column("vers_key", String, primary_key=True),
    Column("cksum", String, nullable=False),
    Column("deleted_at", UtcTime, nullable=False),
    Column("reason", Text, nullable=False),
)

owners = Table(
    "owners",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("crate_id", ForeignKey("crates.id", ondelete="CASCADE"), nullable=False),
    Column("user_id", ForeignKey("users.id")),  # exactly one of these two
    Column("team_id", ForeignKey("teams.id")),
    UniqueConstraint("crate_id", "user_id"),
    UniqueConstraint("crate_id", "team_id"),
)

download_days = Table(
    "download_days",
    metadata,
    Column("version_id", ForeignKey("versions.id", ondelete="CASCADE"), primary_key=True),
    Column("day", Date, primary_key=True),
    Column("downloads", Integer, nullable=False),
)

# What a mirror knows of its upstream; `name` is always the lower-case one of the index path.

mirror_files = Table(
    "mirror_files",
    metadata,
    Column("registry", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("raw", LargeBinary, nullable=False),  # upstream's file, byte for byte, compressed with zlib
    Column("etag", String),  # validators, as upstream sent them
    Column("last_modified", String),
    Column("filled_at", UtcTime, nullable=False),  # when the crate was first seen
    Column("checked_at", UtcTime, nullable=False),  # when upstream last confirmed the file
    Column("gone_at", UtcTime),  # since when upstream has no such crate
    Column("fingerprint", String, nullable=False),  # of the policy that the file was rendered under
    Column("due_at", UtcTime),  # when a rule will say otherwise because time has passed
)

# Versions that there is more to say about than their line in `raw`.
mirror_versions = Table(
    "mirror_versions",
    metadata,
    Column("registry", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("vers", String, primary_key=True),
    Column("line", LargeBinary, nullable=False),  # the one that holds, as upstream first sent it
    Column("cksum", String, nullable=False),
    Column("first_seen_at", UtcTime),  # if after the crate's first file
    Column("gone_at", UtcTime),  # since when upstream lacks the version
    Column("changed_at", UtcTime),  # since when upstream gives another checksum: this one
    Column("changed_cksum", String),
)

mirror_rulings = Table(
    "mirror_rulings",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("registry", String, nullable=False, index=True),
    Column("kind", String, nullable=False),  # allow, deny
    Column("pattern", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("until", UtcTime),
    Column("created_at", UtcTime, nullable=False),
    Column("created_by", String, nullable=False),
)

# Kept when a tarball is removed: who has it is asked when it turns out to be malicious.
mirror_downloads = Table(
    "mirror_downloads",
    metadata,
    Column("registry", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("vers", String, primary_key=True),
    Column("who", String, primary_key=True),  # login, or address
    Column("downloads", Integer, nullable=False),
    Column("first_at", UtcTime, nullable=False),
    Column("last_at", UtcTime, nullable=False),
)

mirror_failures = Table(
    "mirror_failures",
    metadata,
    Column("registry", String, primary_key=True),
    Column("what", String, primary_key=True),  # index/NAME, tarball/NAME@VERSION
    Column("failures", Integer, nullable=False),  # in a row
    Column("next_try_at", UtcTime, nullable=False),
    Column("reason", Text, nullable=False),
)

mirror_alarms = Table(
    "mirror_alarms",
    metadata,
    Column("registry", String, primary_key=True),
    Column("kind", String, primary_key=True),  # internal-name
    Column("name", String, primary_key=True),
    Column("at", UtcTime, nullable=False),
    Column("detail", Text, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", UtcTime, nullable=False),
    Column("actor", String, nullable=False),  # a login, or `operator` for the command line
    Column("token_id", Integer),
    Column("action", String, nullable=False),
    Column("registry", String),
    Column("crate", String),
    Column("vers", String),
    Column("detail", Text, nullable=False),
    Column("address", String),  # of who asked
    Index("ix_audit_registry_crate", "registry", "crate"),
)
