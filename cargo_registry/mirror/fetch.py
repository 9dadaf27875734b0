"""One tarball on its way from upstream: spooled, hashed, and shown to the client who asked first as it comes in."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from cargo_registry.errors import RegistryError
from cargo_registry.mirror.upstream import Absent, Upstream, UpstreamFailed
from cargo_registry.policy.serving import Line
from cargo_registry.storage.disk import DiskStore, reporting

_PIECE_BYTES = 64 * 1024
_MAX_BYTES = 1024 * 1024 * 1024
_MAX_ATTEMPTS = 4
_PAUSE_S = 0.2


class Missing(UpstreamFailed):
    """Upstream lists the version and does not have its tarball."""


class Wrong(UpstreamFailed):
    """What came is not what the index line promises, or broke off; asking again may help at once."""


class Fetch:
    """A tarball that is being fetched, for everybody in this process who wants it."""

    def __init__(self, store: DiskStore, line: Line) -> None:
        self.line = line
        self.path: Path = store.spool()
        self.written = 0
        self.size: int | None = None  # as upstream says
        self.done = asyncio.Event()
        self.error: RegistryError | None = None  # once `done`
        self.begun = asyncio.Event()  # there is something to show, or it is done
        self._more = asyncio.Event()
        self._sha256 = hashlib.sha256()
        self._etag: str | None = None
        self._file = os.open(self.path, os.O_RDWR)

    async def transfer(self, upstream: Upstream, *, is_first: bool) -> None:
        """Fetch all of it into the spool, and check it. A broken transfer is taken up where it broke.

        One that does not even begin is tried once more only if upstream has not failed before (`is_first`).

        Raises:
            UpstreamFailed: it could not be had, or is not what it should be.
        """
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            before = self.written
            try:
                await self._attempt(upstream)
                break
            except (Missing, Wrong):
                raise
            except UpstreamFailed as error:
                if error.retry_after_s is not None or attempt == _MAX_ATTEMPTS:
                    raise self._as_broken(error) from None
                if self.written == before and (attempt > 1 or not is_first):
                    raise self._as_broken(error) from None
            await asyncio.sleep(_PAUSE_S * attempt)
        if self._sha256.hexdigest() != self.line.cksum:
            raise Wrong(f"it sent {self.written} bytes whose checksum is not that of the index line")

    def _as_broken(self, error: UpstreamFailed) -> UpstreamFailed:
        return Wrong(f"the transfer broke off: {error}") if self.written else error

    async def _attempt(self, upstream: Upstream) -> None:
        line = self.line
        async with upstream.tarball(
            line.name, line.vers, line.cksum, start=self.written, etag=self._etag
        ) as body:
            if isinstance(body, Absent):
                raise Missing("it lists the version and does not have its tarball")
            if body.size is not None:
                self.size = body.size
            self._etag = body.etag
            again = hashlib.sha256()  # of what we already have and upstream sends once more
            left = self.written - body.start
            async for piece in body.pieces:
                if left:
                    head, rest = piece[:left], piece[left:]
                    again.update(head)
                    left -= len(head)
                    if not left and again.digest() != self._sha256.digest():
                        raise Wrong("it sent other bytes when it was asked again")
                else:
                    rest = piece
                if rest:
                    self._append(rest)
            if left or (self.size is not None and self.written < self.size):
                raise UpstreamFailed("the transfer ended too early")

    def _append(self, piece: bytes) -> None:
        # In the event loop: 64 KiB into the page cache and through SHA-256 take 60 µs together.
        with reporting():
            os.pwrite(self._file, piece, self.written)
        self._sha256.update(piece)
        self.written += len(piece)
        if self.written > _MAX_BYTES:
            raise UpstreamFailed(f"it sent more than {_MAX_BYTES} bytes")
        if self.written > _PIECE_BYTES:
            self.begun.set()
        self._more.set()

    def finish(self, error: RegistryError | None) -> None:
        """Say that it is stored, or why not."""
        self.error = error
        self.done.set()
        self.begun.set()
        self._more.set()
        os.close(self._file)
        self.path.unlink(missing_ok=True)  # if it has not been moved

    def open(self) -> int:
        """Return a descriptor to read with, which outlives the move into the store."""
        return os.dup(self._file)

    async def pieces(self, descriptor: int) -> AsyncIterator[bytes]:
        """Yield the bytes as they come in; the last ones only when all of it has been found right.

        Raises:
            RegistryError: it was not. What was yielded is no whole tarball.
        """
        sent = 0
        while True:
            self._more.clear()
            is_done = self.done.is_set()
            if is_done and self.error is not None:
                raise self.error
            # The last byte stays here until all is checked: no bad file has a good end.
            end = self.written if is_done else self.written - 1
            while sent < end and (is_done or end - sent >= _PIECE_BYTES):
                piece = os.pread(descriptor, min(_PIECE_BYTES, end - sent), sent)
                sent += len(piece)
                yield piece
            if is_done:
                return
            await self._more.wait()
