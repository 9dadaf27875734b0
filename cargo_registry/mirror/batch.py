"""Many small changes in one transaction: a cold build brings hundreds at once, and each COMMIT waits for the disk."""

import asyncio
from collections.abc import Callable

from sqlalchemy import Connection

from cargo_registry.db.engine import Database

Change = Callable[[Connection], object]


class Batch:
    """Collects changes while a transaction is on its way, and writes them with the next one."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: list[tuple[Change, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def write(self, change: Change) -> None:
        """Make a change; durable on return. What it raises is raised, and concerns no other change."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((change, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        await done

    async def close(self) -> None:
        """Finish what is waiting."""
        if self._writer is not None:
            await self._writer

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await self._db.write(_all, [change for change, _ in batch])
            except Exception:
                # One of them is to blame; the others shall not suffer.
                for change, done in batch:
                    await self._write_one(change, done)
                continue
            for _, done in batch:
                if not done.done():
                    done.set_result(None)

    async def _write_one(self, change: Change, done: "asyncio.Future[None]") -> None:
        try:
            await self._db.write(_all, [change])
        except Exception as error:
            if not done.done():
                done.set_exception(error)
        else:
            if not done.done():
                done.set_result(None)


def _all(tx: Connection, changes: list[Change]) -> None:
    for change in changes:
        change(tx)
