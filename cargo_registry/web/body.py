"""Request bodies: read in pieces, counted, timed; an upload goes to disk and never lies in memory whole."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import aiofiles
import msgspec
from starlette.requests import Request

from cargo_registry.crate import publish_body
from cargo_registry.crate.publish_body import PublishMetadata
from cargo_registry.errors import Invalid, InvalidPublish, Timeout, TooLarge
from cargo_registry.publish import Upload
from cargo_registry.registry import Registry
from cargo_registry.storage.disk import reporting

T = TypeVar("T")

_SILENCE_S = 30  # as long as cargo itself waits for a silent server
_MAX_JSON_BYTES = 1024 * 1024
_FRAME_BYTES = 8  # the two lengths
_SMALL_BYTES = 256 * 1024


async def json(request: Request, shape: type[T], *, empty: str) -> T:
    """Return a small JSON body of a shape; `empty` is what to say where there is no body.

    Raises:
        Invalid: it is not that.
    """
    _refuse_announced(request, _MAX_JSON_BYTES)
    body = b""
    async for piece in _pieces(request):
        body += piece
        if len(body) > _MAX_JSON_BYTES:
            raise TooLarge(f"the request's body is larger than {_MAX_JSON_BYTES} bytes")
    if not body:
        raise Invalid(empty)
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the request's body is not the JSON expected here: {error}") from None


async def text(request: Request, max_bytes: int) -> str:
    """Return a body of UTF-8.

    Raises:
        Invalid: it is not that.
        TooLarge: it has more than `max_bytes`.
    """
    _refuse_announced(request, max_bytes)
    body = b""
    async for piece in _pieces(request):
        body += piece
        if len(body) > max_bytes:
            raise TooLarge(f"the request's body is larger than {max_bytes} bytes")
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise Invalid("the request's body is not UTF-8") from None


@asynccontextmanager
async def publish(request: Request, registry: Registry) -> AsyncIterator[tuple[PublishMetadata, Upload]]:
    """Give the two parts of a publish request; the tarball's file is gone afterwards if nobody moved it.

    `u32le length ‖ JSON ‖ u32le length ‖ tarball`, and nothing after it (cargo: crates-io/lib.rs, `publish`).

    Raises:
        InvalidPublish: lengths and bytes do not fit.
        TooLarge: more than the limits allow; said before the rest has been read.
        Timeout: nothing came for half a minute.
    """
    _refuse_announced(request, registry.max_crate_bytes + publish_body.MAX_METADATA_BYTES + _FRAME_BYTES)
    reader = _Reader(_pieces(request))
    size = publish_body.parse_length(await reader.exactly(4, "the length of the metadata"))
    if size > publish_body.MAX_METADATA_BYTES:
        limit = publish_body.MAX_METADATA_BYTES
        raise TooLarge(f"the metadata has {size} bytes and this registry takes at most {limit}")
    metadata = publish_body.decode(await reader.exactly(size, "the metadata"))
    size = publish_body.parse_length(await reader.exactly(4, "the length of the tarball"))
    if size > registry.max_crate_bytes:
        raise TooLarge(
            f"the tarball of `{metadata.name}` has {size} bytes and this registry takes at most "
            f"{registry.max_crate_bytes}; leave out what users do not need with `exclude` in `Cargo.toml`, "
            f"or ask the operator to raise `max_crate_mib`"
        )
    if size == 0:
        raise InvalidPublish(f"the tarball of `{metadata.name}` is empty")
    path = registry.tarballs.spool()
    try:
        cksum = await _store(reader, size, path)
        await reader.end()
        yield metadata, Upload(path, cksum, size)
    finally:
        path.unlink(missing_ok=True)


async def _store(reader: "_Reader", size: int, path: Path) -> str:
    """Write the tarball to a file and return its SHA-256.

    Each hop to a thread costs 0.1 ms, and up to 5 ms of waiting while another one has the interpreter. So what is
    small, as most tarballs are, goes there in one; of the rest, pieces as they come.
    """
    with reporting():
        if size <= _SMALL_BYTES:
            data = await reader.exactly(size, "the tarball")
            await asyncio.to_thread(_fill, path, data)
            return hashlib.sha256(data).hexdigest()
        sha256 = hashlib.sha256()
        async with aiofiles.open(path, "wb") as file:
            async for piece in reader.pieces(size, "the tarball"):
                sha256.update(piece)
                await file.write(piece)
        return sha256.hexdigest()


def _fill(path: Path, data: bytes) -> None:
    # Not "wb": that would bring back a file that has been removed because the request was cancelled.
    with path.open("r+b") as file:
        file.write(data)


async def drain(request: Request, *, max_bytes: int = 64 * 1024 * 1024) -> None:
    """Read a bounded rest of a body that was refused early, so that the answer reaches who is still sending.

    Not where the client waits to be told to go on: reading would tell it.
    """
    if "expect" in request.headers:
        return
    try:
        async with asyncio.timeout(5):
            while max_bytes > 0:
                async with asyncio.timeout(1):  # who says nothing now is not sending
                    message = await request.receive()
                max_bytes -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except Exception:
        return


class _Reader:
    """Takes a stream apart by lengths."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream = stream
        self._rest = b""

    async def exactly(self, size: int, what: str) -> bytes:
        """Return the next `size` bytes."""
        return b"".join([piece async for piece in self.pieces(size, what)])

    async def pieces(self, size: int, what: str) -> AsyncIterator[bytes]:
        """Yield the next `size` bytes in pieces as they come.

        Raises:
            InvalidPublish: the body ends before.
        """
        missing = size
        while missing:
            piece = self._rest or await anext(self._stream, b"")
            if not piece:
                raise InvalidPublish(
                    f"the upload is cut short: {what} should have {size} bytes and {missing} of them are missing"
                )
            self._rest = piece[missing:]
            missing -= len(piece) - len(self._rest)
            yield piece[: len(piece) - len(self._rest)] if self._rest else piece

    async def end(self) -> None:
        """Make sure that nothing follows.

        Raises:
            InvalidPublish: something does.
        """
        if self._rest or await anext(self._stream, b""):
            raise InvalidPublish("there are bytes after the tarball; send exactly what the lengths announce")


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """Yield the body as it comes, without empty pieces."""
    while True:
        try:
            async with asyncio.timeout(_SILENCE_S):
                message = await request.receive()
        except TimeoutError:
            raise Timeout(f"nothing more of the request came for {_SILENCE_S} seconds; try again") from None
        if message["type"] == "http.disconnect":
            raise Invalid("the request's body is cut short; try again")
        if body := message.get("body", b""):
            yield body
        if not message.get("more_body", False):
            return


def _refuse_announced(request: Request, max_bytes: int) -> None:
    """Refuse by Content-Length, before anything has been read."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise TooLarge(f"the request has {announced} bytes and this registry takes at most {max_bytes}")
