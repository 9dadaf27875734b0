"""Progress on stderr, where a person is looking at it."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress:
    """A bar, or a counter where the total is not known; nothing where stderr is no terminal."""

    def __init__(self, title: str, total: int | None = None) -> None:
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[what]}"),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task(title, total=total, what="")

    def step(self, what: str) -> None:
        """Count one more, and show which."""
        self._bar.update(self._task, advance=1, what=what)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()


class Transfers(Progress):
    """A bar for many files, with bytes, speed and remaining time; their number may grow on the way."""

    def __init__(self, title: str, total: int) -> None:
        super().__init__(title, total)
        self._bar.columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[what]}"),
        )
        self._bar.update(self._task, speed="")
        self._began_at = time.monotonic()
        self._bytes = 0
        self._done = 0

    def step(self, what: str, size: int = 0, left: int | None = None) -> None:
        """Count one more, of so many bytes; `left`: how many are still to come."""
        self._done += 1
        self._bytes += size
        speed = self._bytes / max(0.001, time.monotonic() - self._began_at)
        self._bar.update(
            self._task,
            total=None if left is None else self._done + left,
            advance=1,
            what=what,
            speed=f"{decimal(self._bytes)} ({decimal(int(speed))}/s)",
        )
