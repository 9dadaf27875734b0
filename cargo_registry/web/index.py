"""The sparse index: config.json and one file per crate. Plain ASGI, as it is the hottest path.

Spec: https://doc.rust-lang.org/cargo/reference/registry-index.html#sparse-protocol

No framework, no database, no parsing: what goes out is made once for each change of a file. What is kept in
memory is checked by a stat on each request (2 µs), so it needs no word from whoever changed the file.
"""

import hashlib
import os
import re
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
from starlette.types import Message, Receive, Scope, Send

from cargo_registry.crate.entry import prefix
from cargo_registry.mirror.pull_through import Mirror
from cargo_registry.registry import Registry

_CACHE_BYTES = 64 * 1024 * 1024
_ENTRY_OVERHEAD_BYTES = 2500  # of Python's objects, measured

# Only the exact lower-case path is a file: anything else must stay 404, or clients cache it twice.
_PATH = re.compile(rb"(?:[12]|3/[a-z]|[a-z0-9_-]{2}/[a-z0-9_-]{2})/([a-z][a-z0-9_-]{0,63})")

_Headers = list[tuple[bytes, bytes]]
Answer = tuple[Message, Message]
"""A whole answer: its start and its body."""

_NO_BODY: Message = {"type": "http.response.body", "body": b""}


@dataclass(frozen=True, slots=True)
class _File:
    """An index file as it goes out. Only the packed form is kept: it is what cargo takes, and a fifth of the size."""

    identity: tuple[int, int, int]  # of the file on disk: mtime_ns, size, inode
    path: str
    etag: bytes
    gzip_etag: bytes
    plain_start: Message
    packed: Answer
    unchanged: Answer
    packed_unchanged: Answer
    cost: int


class Index:
    """Answers `GET` and `HEAD` of a registry's `/index/…`; the caller has cut that off and let the caller in."""

    def __init__(self, registry: Registry, mirror: Mirror | None = None) -> None:
        self._mirror = mirror
        self._root = f"{registry.index_files.root}/{registry.name}/"
        self._files: OrderedDict[bytes, _File] = OrderedDict()
        self._bytes = 0
        config = {"dl": f"{registry.url}/api/v1/crates", "api": registry.url}
        if registry.private:
            config["auth-required"] = True  # type: ignore[assignment]
        # What one user may read is not for a proxy to give to others.
        self._cache_control = b"private, no-cache" if registry.private else b"no-cache"
        # Always whole: cargo sends no validators for it and fails on 304.
        self._config = self._whole(200, b"application/json", msgspec.json.encode(config))
        self._missing = self._whole(404, b"text/plain", b"no such crate\n")

    async def __call__(self, scope: Scope, receive: Receive, send: Send, path: bytes) -> None:
        """Answer for `path`, the exact bytes of the request's target below `/index/`.

        Raises:
            Unavailable: the upstream of a mirror does not answer, and nothing is stored.
        """
        if path == b"config.json":
            start, body = self._config
        else:
            if self._mirror is not None:
                await self._mirror.freshen(path.decode("latin-1"))
            start, body = self._look(path, scope["headers"])
        await send(start)
        await send(_NO_BODY if scope["method"] == "HEAD" else body)

    def answer(self, path: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Answer | None:
        """Return the answer to a `GET` of `path` if it is at hand; None: call. From any thread: nothing is loaded."""
        if path == b"config.json":
            return self._config
        if self._mirror is not None and not self._mirror.is_fresh(path.decode("latin-1")):
            return None
        file = self._find(path)
        if file is not None:
            return self._answer_with(path, file, headers)
        return self._missing if self._is_missing(path) else None

    def _look(self, path: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Answer:
        while file := self._find(path) or self._load(path):
            if answer := self._answer_with(path, file, headers):
                return answer
        return self._missing

    def _answer_with(self, path: bytes, file: _File, headers: Iterable[tuple[bytes, bytes]]) -> Answer | None:
        """Return the answer from a file; None: it has just been replaced."""
        packed, condition = _asked(headers)
        if condition and _matches(condition, file.gzip_etag if packed else file.etag):
            answer = file.packed_unchanged if packed else file.unchanged
        elif packed:
            answer = file.packed
        else:
            read = self._read(path)
            if read is None or read[0] != file.identity:
                return None
            answer = file.plain_start, {"type": "http.response.body", "body": read[1]}
        return answer if self._mirror is None else self._with_age(self._mirror, path, answer)

    def _with_age(self, mirror: Mirror, path: bytes, answer: Answer) -> Answer:
        age_s = mirror.age(path.decode("latin-1"))
        if age_s is None:
            return answer
        start, body = answer
        return {**start, "headers": [*start["headers"], (b"age", b"%d" % age_s)]}, body

    def _find(self, path: bytes) -> _File | None:
        """Return what is kept for an index path, if the file on disk is still the same."""
        file = self._files.get(path)
        if file is None:
            return None
        # In the event loop too: a hop to a thread costs twenty times as much as the stat.
        try:
            found = os.stat(file.path)
        except FileNotFoundError:
            return None
        if (found.st_mtime_ns, found.st_size, found.st_ino) != file.identity:
            return None
        try:
            self._files.move_to_end(path)
        except KeyError:  # dropped by the event loop, just now
            return None
        return file

    def _is_missing(self, path: bytes) -> bool:
        spelled = _spelled(path)
        try:
            return spelled is None or not os.stat(self._root + spelled)
        except FileNotFoundError:
            return True

    def _load(self, path: bytes) -> _File | None:
        """Return the file at an index path and keep it, None where there is none or the path is not quite right."""
        read = self._read(path)
        if read is None:
            self._drop(path)
            return None
        return self._keep(path, *read)

    def _read(self, path: bytes) -> tuple[tuple[int, int, int], bytes] | None:
        """Return identity and content of the file at an index path."""
        spelled = _spelled(path)
        if spelled is None:
            return None
        try:
            descriptor = os.open(self._root + spelled, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            found = os.fstat(descriptor)
            body = os.read(descriptor, found.st_size)
        finally:
            os.close(descriptor)
        if not body:
            return None  # kept free for a crate that is being published, see `DiskStore.prepare`
        return (found.st_mtime_ns, found.st_size, found.st_ino), body

    def _keep(self, path: bytes, identity: tuple[int, int, int], body: bytes) -> _File:
        tag = hashlib.sha256(body).hexdigest()[:32]
        etag, gzip_etag = f'"{tag}"'.encode(), f'"{tag}-gz"'.encode()
        compress = zlib.compressobj(6, zlib.DEFLATED, 31)
        packed = compress.compress(body) + compress.flush()
        file = _File(
            identity=identity,
            path=self._root + path.decode(),
            etag=etag,
            gzip_etag=gzip_etag,
            plain_start=self._start(200, etag, len(body)),
            packed=(
                self._start(200, gzip_etag, len(packed), (b"content-encoding", b"gzip")),
                {"type": "http.response.body", "body": packed},
            ),
            unchanged=(self._start(304, etag), _NO_BODY),
            packed_unchanged=(self._start(304, gzip_etag), _NO_BODY),
            cost=len(packed) + _ENTRY_OVERHEAD_BYTES,
        )
        self._drop(path)
        self._files[path] = file
        self._bytes += file.cost
        while self._bytes > _CACHE_BYTES and len(self._files) > 1:
            _, oldest = self._files.popitem(last=False)
            self._bytes -= oldest.cost
        return file

    def _drop(self, path: bytes) -> None:
        file = self._files.pop(path, None)
        if file is not None:
            self._bytes -= file.cost

    def _start(
        self, status: int, etag: bytes, size: int | None = None, *more: tuple[bytes, bytes]
    ) -> Message:
        headers = [
            (b"etag", etag),
            (b"cache-control", self._cache_control),
            (b"vary", b"accept-encoding"),
        ]
        if size is not None:
            headers += [
                (b"content-type", b"text/plain; charset=utf-8"),
                *more,
                (b"content-length", b"%d" % size),
            ]
        return {"type": "http.response.start", "status": status, "headers": headers}

    def _whole(self, status: int, kind: bytes, body: bytes) -> Answer:
        headers = [
            (b"content-type", kind),
            (b"cache-control", self._cache_control),
            (b"content-length", b"%d" % len(body)),
        ]
        return (
            {"type": "http.response.start", "status": status, "headers": headers},
            {"type": "http.response.body", "body": body},
        )


def _spelled(path: bytes) -> str | None:
    """Return an index path as text, None if it is not exactly that of a crate."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    name = match[1].decode()
    spelled = path.decode()
    return spelled if spelled == f"{prefix(name)}/{name}" else None


def _asked(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bool, bytes]:
    """Return whether the client takes gzip, and its If-None-Match. If-Modified-Since is ignored.

    A date cannot tell two changes within one second apart, so we send none.
    """
    accepts, condition = False, b""
    for name, value in headers:
        if name == b"accept-encoding":
            accepts = accepts or _takes_gzip(value)
        elif name == b"if-none-match":
            condition = condition + b"," + value if condition else value
    return accepts, condition


def _takes_gzip(value: bytes) -> bool:
    if value == b"deflate, gzip":  # cargo
        return True
    qualities = {}
    for item in value.decode("latin-1").lower().split(","):
        coding, _, parameters = item.strip().partition(";")
        quality = parameters.replace(" ", "").removeprefix("q=")
        try:
            qualities[coding.strip()] = float(quality) if quality else 1.0
        except ValueError:
            qualities[coding.strip()] = 0.0
    return qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0))) > 0


def _matches(condition: bytes, etag: bytes) -> bool:
    """Compare weakly (RFC 9110 §13.1.2): a proxy that compresses makes our tag weak."""
    if condition == etag:
        return True
    tags = (tag.strip().removeprefix(b"W/") for tag in condition.split(b","))
    return any(tag in (etag, b"*") for tag in tags)
