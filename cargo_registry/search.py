"""Search: find crates by words, or by parts of their names."""

from cargo_registry.db import search as rows
from cargo_registry.db.search import Hit
from cargo_registry.registry import Registry


async def search(registry: Registry, query: str, *, per_page: int, page: int) -> tuple[list[Hit], int]:
    """Return one page of the crates that match every word of `query`, best first, and how many there are.

    Any text is a query; `page` counts from 1. See `db.search.find` for what matches and the order.
    """
    offset = (page - 1) * per_page
    return await registry.db.read(rows.find, registry.name, query, limit=per_page, offset=offset)
