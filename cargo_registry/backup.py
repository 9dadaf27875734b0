"""Backup and restore: a folder that holds all of a registry that cannot be made anew.

    BACKUP/registry.db         everything in rows: crates, owners, users, hashes of tokens
    BACKUP/crates_storage/…    every tarball that those rows list, under the key it has

Index files are not in it: they are renderings of rows. The database is copied first, as of one moment; tarballs
never change, so those it lists can be copied after it while the server goes on.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cargo_registry.config import Config
from cargo_registry.crate.entry import tarball_key
from cargo_registry.crate.names import CrateName
from cargo_registry.db import upgrade
from cargo_registry.db import upkeep as rows
from cargo_registry.db.engine import Database
from cargo_registry.db.upkeep import Stored
from cargo_registry.errors import ConfigError
from cargo_registry.registry import Site
from cargo_registry.storage.disk import fsync, reporting

_BATCH = 500
_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Copied:
    """What a backup or restore did."""

    tarballs: int  # in it
    copied: int  # of them now; the others were there from an earlier run
    size: int  # bytes of all of them
    missing: list[str]  # `registry: crate@version` whose tarball the source does not have


async def backup(site: Site, target: Path, *, progress: Callable[[str], None]) -> Copied:
    """Make or renew a backup in the folder `target`, also beside a running server.

    Run again after an interruption, or the next day: tarballs that are there are not copied again.

    Raises:
        ConfigError: `target` is something else than a backup.
    """
    if target.exists() and any(target.iterdir()) and not (target / "crates_storage").is_dir():
        raise ConfigError(f"`{target}` is not empty and no backup; name a new folder")
    with reporting():
        # Hashes of tokens are of no use to a thief, but nobody needs to read what is private here.
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        (target / "crates_storage").mkdir(exist_ok=True)
    # Beside the last complete one, which stays until all tarballs of the new one are there.
    snapshot = target / "registry.db.new"
    await asyncio.to_thread(upgrade.copy, site.config.data_dir / "registry.db", snapshot)
    source = site.config.data_dir / "crates_storage"
    copied = await _copy_tarballs(snapshot, source, target / "crates_storage", progress)
    await asyncio.to_thread(upgrade.lay_up, snapshot)
    with reporting():
        snapshot.replace(target / "registry.db")
        fsync(target)
    return copied


async def restore(config: Config, source: Path, *, progress: Callable[[str], None]) -> Copied:
    """Put a backup into the data folder of `config`, which must not hold a registry.

    Run again after an interruption: it goes on where it was. Open the site and rebuild the index after it.

    Raises:
        ConfigError: `source` is no backup, or there is a registry already.
    """
    if not (source / "registry.db").is_file():
        raise ConfigError(f"`{source}` is no backup: it has no `registry.db`")
    target = config.data_dir
    if (target / "registry.db").exists():
        raise ConfigError(
            f"there is a registry in `{target}` already; restore into a new folder and then start the server there"
        )
    with reporting():
        (target / "crates_storage").mkdir(parents=True, exist_ok=True)
    snapshot = target / "registry.db.restored"
    await asyncio.to_thread(upgrade.copy, source / "registry.db", snapshot)
    copied = await _copy_tarballs(snapshot, source / "crates_storage", target / "crates_storage", progress)
    with reporting():
        for name in ("registry.db-wal", "registry.db-shm"):
            # Left by a registry that was deleted by hand: SQLite would play them into ours.
            (target / name).unlink(missing_ok=True)
        snapshot.replace(target / "registry.db")
        fsync(target)
    return copied


async def _copy_tarballs(
    database: Path, source: Path, target: Path, progress: Callable[[str], None]
) -> Copied:
    """Copy every tarball that a database lists and that is not in `target` yet."""
    upgrade.upgrade(database)
    db = Database(database)
    total = copied = size = 0
    missing = []
    try:
        for registry in await db.read(rows.registries):
            after_id = 0
            while batch := await db.read(rows.stored, registry, after_id=after_id, limit=_BATCH):
                for version in batch:
                    name = CrateName.stored(version.crate)
                    key = f"{registry}/{tarball_key(name, version.vers, version.cksum)}"
                    found = await asyncio.to_thread(_copy, source / key, target / key, version)
                    total += 1
                    size += version.size
                    copied += found is True
                    if found is None:
                        missing.append(f"{registry}: {version.crate}@{version.vers}")
                    progress(f"{version.crate}@{version.vers}")
                after_id = batch[-1].id
    finally:
        await db.close()
        for leftover in database.parent.glob(f"{database.name}-*"):
            leftover.unlink()
    return Copied(total, copied, size, missing)


def _copy(source: Path, target: Path, version: Stored) -> bool | None:
    """Copy a tarball durably; return False if it was there, None if the source does not have it as published."""
    if target.exists() and target.stat().st_size == version.size:
        return False
    if not source.exists():
        return None
    with reporting():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        try:
            sha256 = hashlib.sha256()
            with source.open("rb") as old, partial.open("wb") as new:
                while piece := old.read(_PIECE_BYTES):
                    sha256.update(piece)
                    new.write(piece)
            if sha256.hexdigest() != version.cksum:
                return None
            fsync(partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        fsync(target.parent)
    return True
