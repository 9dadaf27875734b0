"""`.crate` downloads. A plain ASGI app: a tarball goes out as it lies on disk, whole or one range of it."""

import logging
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope, Send

from cargo_registry import download
from cargo_registry.db.crates import Listed
from cargo_registry.errors import UpstreamDown
from cargo_registry.mirror.fetch import Fetch
from cargo_registry.mirror.pull_through import Mirror
from cargo_registry.registry import Registry

log = logging.getLogger(__name__)

_ONE_PIECE_BYTES = 128 * 1024
# More at a time costs more for small files, and holds more memory per slow reader.
_PIECE_BYTES = 64 * 1024

_Headers = list[tuple[bytes, bytes]]
_ASKED = frozenset((b"range", b"if-none-match", b"if-range"))


@dataclass(frozen=True, slots=True)
class _Part:
    """What of a file goes out."""

    start: int
    size: int


@dataclass(frozen=True, slots=True)
class _Tarball:
    """A tarball that went out before, whole, and how that began."""

    listed: Listed
    path: str
    start: Message


class Download:
    """Serves `GET` and `HEAD /api/v1/crates/{name}/{vers}/download`; the caller has let the caller in."""

    def __init__(
        self,
        registry: Registry,
        mirror: Mirror | None = None,
        who: Callable[[Scope], str] = lambda scope: "",
    ) -> None:
        self._registry = registry
        self._mirror = mirror
        self._who = who  # is asking; of a mirror it is remembered who has what
        self._cache_control = (
            b"private, max-age=31536000, immutable" if registry.private else b"max-age=31536000, immutable"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send, name: str, vers: str) -> None:
        """Answer for a version; the name in any spelling.

        Raises:
            NotFound: there is no such version.
            Damaged: its tarball is not what was published.
            Forbidden, Unavailable: of a mirror, see `Mirror.find`.
        """
        memory = self._registry.db.memory()
        wanted, condition, precondition = _asked(scope["headers"])
        if self._mirror is None:
            listed, path = download.find(self._registry, name, vers)
        else:
            whole = scope["method"] == "HEAD" or wanted is not None or condition is not None
            found = await self._mirror.find(name, vers, whole=whole)
            if isinstance(found, Fetch):
                await self._relay(self._mirror, found, scope, send)
                return
            listed, path = found.listed, found.path
        etag = f'"{listed.cksum}"'.encode()
        headers = self._headers(etag)
        if condition is not None and _names(condition, etag):
            await send({"type": "http.response.start", "status": 304, "headers": headers[1:]})
            await send({"type": "http.response.body", "body": b""})
            return
        part: _Part | None = _Part(0, listed.size)
        status = 200
        # No range is defined for HEAD (RFC 9110 §14.2).
        if wanted is not None and scope["method"] == "GET" and precondition in (None, etag):
            status, part = _range(wanted, listed.size)
        if part is None:
            headers = [(b"content-range", f"bytes */{listed.size}".encode()), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 416, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        if status == 206:
            end = part.start + part.size - 1
            headers.append((b"content-range", f"bytes {part.start}-{end}/{listed.size}".encode()))
        headers.append((b"content-length", str(part.size).encode()))
        start = {"type": "http.response.start", "status": status, "headers": headers}
        if scope["method"] == "HEAD":
            await send(start)
            await send({"type": "http.response.body", "body": b""})
            return
        if status == 206:
            await _send_pieces(path, part, start, send)
            return
        self._count(listed, self._who(scope))
        tarball = memory[_key(self._registry, name, vers)] = _Tarball(listed, path, start)
        body = _body(tarball, scope)
        if body is None:
            await _send_pieces(path, part, start, send)
            return
        await send(start)
        await send(body)

    async def _relay(self, mirror: Mirror, fetch: Fetch, scope: Scope, send: Send) -> None:
        """Send a tarball while it arrives. One that turns out wrong ends as a broken transfer."""
        headers = self._headers(f'"{fetch.line.cksum}"'.encode())
        headers.append((b"content-length", str(fetch.size).encode()))
        descriptor = fetch.open()
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async for piece in fetch.pieces(descriptor):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except UpstreamDown as error:
            # Less has been sent than its length says, so nobody takes it for whole. The server ends the connection.
            log.warning("the transfer of %s is cut: %s", fetch.line.name, error)
            return
        finally:
            os.close(descriptor)
        stored = mirror.find_stored(fetch.line)
        if stored is not None:
            self._count(stored.listed, self._who(scope))

    def _count(self, listed: Listed, who: str) -> None:
        download.count(self._registry, listed)
        if self._mirror is not None:
            self._mirror.note_download(listed, who)

    def answer(self, scope: Scope, name: str, vers: str, who: str) -> tuple[Message, Message] | None:
        """Return the answer to a plain `GET` of a version that was asked for before, and count it; None: call.

        From any thread. `who` is asking.
        """
        for header, _ in scope["headers"]:
            if header in _ASKED:
                return None
        tarball: _Tarball | None = self._registry.db.memory().get(_key(self._registry, name, vers))
        if tarball is None:
            return None
        if self._mirror is not None and not self._mirror.serves(name, vers, tarball.listed.cksum):
            return None
        body = _body(tarball, scope)
        if body is None:
            return None
        self._count(tarball.listed, who)
        return tarball.start, body

    def _headers(self, etag: bytes) -> _Headers:
        return [
            (b"content-type", b"application/gzip"),
            (b"etag", etag),
            (b"cache-control", self._cache_control),
            (b"accept-ranges", b"bytes"),
        ]


def _key(registry: Registry, name: str, vers: str) -> tuple[object, ...]:
    return _Tarball, registry.name, name, vers


def _body(tarball: _Tarball, scope: Scope) -> Message | None:
    """Return a whole tarball as one message; None: it is not on the disk as it should be, or too large for that."""
    size = tarball.listed.size
    if size <= _ONE_PIECE_BYTES:
        # At once: from the page cache, 64 KiB take 20 µs; a hop to a thread takes longer.
        try:
            descriptor = os.open(tarball.path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            data = os.read(descriptor, size + 1)
        finally:
            os.close(descriptor)
        return {"type": "http.response.body", "body": data} if len(data) == size else None
    if "http.response.pathsend" not in scope.get("extensions", ()):
        return None
    try:
        is_whole = os.stat(tarball.path).st_size == size
    except FileNotFoundError:
        return None
    return {"type": "http.response.pathsend", "path": tarball.path} if is_whole else None


async def _send_pieces(path: str, part: _Part, start: dict[str, object], send: Send) -> None:
    # Read in the event loop, as in `_body`.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        await send(start)
        offset, end = part.start, part.start + part.size
        step = part.size if part.size <= _ONE_PIECE_BYTES else _PIECE_BYTES
        while offset < end:
            piece = os.pread(descriptor, min(step, end - offset), offset)
            if not piece:
                raise OSError("a tarball became shorter while it was sent")
            offset += len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": offset < end})
    finally:
        os.close(descriptor)


def _asked(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes | None, bytes | None, bytes | None]:
    """Return Range, If-None-Match and If-Range."""
    found = {name: value for name, value in headers if name in _ASKED}
    return found.get(b"range"), found.get(b"if-none-match"), found.get(b"if-range")


def _names(condition: bytes, etag: bytes) -> bool:
    return any(tag.strip().removeprefix(b"W/") in (etag, b"*") for tag in condition.split(b","))


def _range(wanted: bytes, size: int) -> tuple[int, _Part | None]:
    """Return the status and the one range asked for; None: there is nothing there (RFC 9110 §14).

    Several ranges, or what is no range at all, get the whole.
    """
    match = re.fullmatch(rb"bytes=(\d{0,19})-(\d{0,19})", wanted.replace(b" ", b"").lower())
    if match is None or match[0] == b"bytes=-":
        return 200, _Part(0, size)
    first, last = match[1], match[2]
    if not first:
        length = min(int(last), size)
        return (206, _Part(size - length, length)) if length else (416, None)
    start = int(first)
    end = min(int(last), size - 1) if last else size - 1
    if start >= size:
        return 416, None
    if end < start:
        return 200, _Part(0, size)
    return 206, _Part(start, end - start + 1)
