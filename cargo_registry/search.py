"""Search: find crates by words, or by parts of their names."""

from cargo_registry.crate.names import shown
from cargo_registry.db import search as rows
from cargo_registry.db.search import Hit
from cargo_registry.errors import Invalid
from cargo_registry.registry import Registry


async def search(
    registry: Registry, query: str, *, per_page: int, page: int, sort: str = "relevance"
) -> tuple[list[Hit], int]:
    """Return one page of the crates that match every word of `query`, and how many there are in all.

    Any text is a query; `page` counts from 1. See `db.search.find` for what matches, `SORTS` for the orders.

    Raises:
        Invalid: there is no such order.
    """
    if sort not in rows.SORTS:
        raise Invalid(f"crates cannot be sorted by {shown(sort)}, only by {', '.join(rows.SORTS)}")
    offset = (page - 1) * per_page
    return await registry.db.read(rows.find, registry.name, query, sort=sort, limit=per_page, offset=offset)
