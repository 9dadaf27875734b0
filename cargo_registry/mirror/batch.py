"""Many small changes in one transaction: a cold build brings hundreds at once, and each COMMIT waits for the disk."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST = 64  # more at once would make others wait who write too


class Batch(Generic[Item, Result]):
    """Collects items while others are being written, and hands them to `write` together.

    `write` does all of them or, when it raises, none.
    """

    def __init__(self, write: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]) -> None:
        self._write = write
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def add(self, item: Item) -> Result:
        """Write an item; durable on return. What is raised concerns this item only."""
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())
        return await done

    async def close(self) -> None:
        """Finish what is waiting."""
        if self._writer is not None:
            await self._writer

    async def _write_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            try:
                results = await self._write([item for item, _ in batch])
            except Exception as error:
                if len(batch) == 1:
                    _settle(batch[0][1], error)
                    continue
                # One of them is to blame; the others shall not suffer.
                for one in batch:
                    await self._write_one(*one)
                continue
            for (_, done), result in zip(batch, results, strict=True):
                if not done.done():
                    done.set_result(result)

    async def _write_one(self, item: Item, done: "asyncio.Future[Result]") -> None:
        try:
            (result,) = await self._write([item])
        except Exception as error:
            _settle(done, error)
        else:
            if not done.done():
                done.set_result(result)


def _settle(done: "asyncio.Future[Result]", error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
