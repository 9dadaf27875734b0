"""How often versions were downloaded, by day."""

from collections.abc import Mapping
from datetime import date

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects.sqlite import insert

from cargo_registry.db.schema import crates, download_days, versions


def add(tx: Connection, counts: Mapping[tuple[int, date], int]) -> None:
    """Add counts, keyed by version id and day, to the days and to the totals of versions and crates.

    A version that has been deleted since it was downloaded counts no more.
    """
    for (version_id, day), count in counts.items():
        of_version = update(versions).where(versions.c.id == version_id)
        if tx.execute(of_version.values(downloads=versions.c.downloads + count)).rowcount == 0:
            continue
        row = insert(download_days).values(version_id=version_id, day=day, downloads=count)
        tx.execute(
            row.on_conflict_do_update(
                index_elements=["version_id", "day"],
                set_={"downloads": download_days.c.downloads + count},
            )
        )
        crate_id = select(versions.c.crate_id).where(versions.c.id == version_id).scalar_subquery()
        tx.execute(update(crates).where(crates.c.id == crate_id).values(downloads=crates.c.downloads + count))
