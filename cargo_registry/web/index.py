"""The sparse index: config.json and one file per crate. A plain ASGI app, as it is the hottest path.

Spec: https://doc.rust-lang.org/cargo/reference/registry-index.html#sparse-protocol

No framework, no database, no parsing: the file's bytes go out as they lie on disk. What is kept in memory is
checked by a stat on each request (2 µs), so it needs no word from whoever changed the file.
"""

import hashlib
import os
import re
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
from starlette.types import Receive, Scope, Send

from cargo_registry.crate.entry import prefix
from cargo_registry.mirror.pull_through import Mirror
from cargo_registry.registry import Registry

_CACHE_BYTES = 64 * 1024 * 1024
_ENTRY_OVERHEAD_BYTES = 1200  # of Python's objects, measured

# Only the exact lower-case path is a file: anything else must stay 404, or clients cache it twice.
_PATH = re.compile(r"(?:[12]|3/[a-z]|[a-z0-9_-]{2}/[a-z0-9_-]{2})/([a-z][a-z0-9_-]{0,63})")

_Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class _File:
    """An index file as it goes out, in both forms."""

    identity: tuple[int, int, int]  # of the file on disk: mtime_ns, size, inode
    etag: bytes
    gzip_etag: bytes
    body: bytes
    gzip: bytes

    @property
    def cost(self) -> int:
        return len(self.body) + len(self.gzip) + _ENTRY_OVERHEAD_BYTES


class Index:
    """Serves `GET` and `HEAD` of a registry's `/index/…`; the caller has cut that off and let the caller in."""

    def __init__(self, registry: Registry, mirror: Mirror | None = None) -> None:
        self._mirror = mirror
        self._root = f"{registry.index_files.root}/{registry.name}/"
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._bytes = 0
        config = {"dl": f"{registry.url}/api/v1/crates", "api": registry.url}
        if registry.private:
            config["auth-required"] = True  # type: ignore[assignment]
        self._config = msgspec.json.encode(config)
        # What one user may read is not for a proxy to give to others.
        self._cache_control = b"private, no-cache" if registry.private else b"no-cache"

    async def __call__(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        """Answer for `path`, the exact bytes of the request's target below `/index/`.

        Raises:
            Unavailable: the upstream of a mirror does not answer, and nothing is stored.
        """
        if path == "config.json":
            # Always whole: cargo sends no validators for it and fails on 304.
            headers = [(b"content-type", b"application/json"), (b"cache-control", self._cache_control)]
            await _answer(scope, send, 200, headers, self._config)
            return
        if self._mirror is not None and not self._mirror.is_fresh(path):
            await self._mirror.freshen(path)
        file = self._find(path)
        if file is None:
            headers = [(b"content-type", b"text/plain"), (b"cache-control", self._cache_control)]
            await _answer(scope, send, 404, headers, b"no such crate\n")
            return
        encoded, condition = _asked(scope["headers"])
        etag = file.gzip_etag if encoded else file.etag
        headers = [
            (b"etag", etag),
            (b"cache-control", self._cache_control),
            (b"vary", b"accept-encoding"),
        ]
        if self._mirror is not None and (age_s := self._mirror.age(path)) is not None:
            headers.append((b"age", b"%d" % age_s))
        if condition and _matches(condition, etag):
            await _answer(scope, send, 304, headers, None)
            return
        headers.append((b"content-type", b"text/plain; charset=utf-8"))
        if encoded:
            headers.append((b"content-encoding", b"gzip"))
        await _answer(scope, send, 200, headers, file.gzip if encoded else file.body)

    def _find(self, path: str) -> _File | None:
        """Return the file at an index path, None where there is none or the path is not quite right."""
        match = _PATH.fullmatch(path)
        if match is None or path != f"{prefix(match[1])}/{match[1]}":
            return None
        try:
            # In the event loop on purpose: a hop to a thread costs twenty times as much as the stat.
            found = os.stat(self._root + path)
        except FileNotFoundError:
            self._drop(path)
            return None
        identity = (found.st_mtime_ns, found.st_size, found.st_ino)
        file = self._files.get(path)
        if file is not None and file.identity == identity:
            self._files.move_to_end(path)
            return file
        self._drop(path)
        return self._load(path)

    def _load(self, path: str) -> _File | None:
        try:
            descriptor = os.open(self._root + path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            found = os.fstat(descriptor)
            body = os.read(descriptor, found.st_size)
        finally:
            os.close(descriptor)
        if not body:
            return None  # kept free for a crate that is being published, see `DiskStore.prepare`
        tag = hashlib.sha256(body).hexdigest()[:32]
        compress = zlib.compressobj(6, zlib.DEFLATED, 31)
        file = _File(
            identity=(found.st_mtime_ns, found.st_size, found.st_ino),
            etag=f'"{tag}"'.encode(),
            gzip_etag=f'"{tag}-gz"'.encode(),
            body=body,
            gzip=compress.compress(body) + compress.flush(),
        )
        self._files[path] = file
        self._bytes += file.cost
        while self._bytes > _CACHE_BYTES and len(self._files) > 1:
            _, oldest = self._files.popitem(last=False)
            self._bytes -= oldest.cost
        return file

    def _drop(self, path: str) -> None:
        file = self._files.pop(path, None)
        if file is not None:
            self._bytes -= file.cost


async def _answer(scope: Scope, send: Send, status: int, headers: _Headers, body: bytes | None) -> None:
    if body is not None:
        headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    shown = b"" if scope["method"] == "HEAD" else body or b""
    await send({"type": "http.response.body", "body": shown})


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
    tags = (tag.strip().removeprefix(b"W/") for tag in condition.split(b","))
    return any(tag in (etag, b"*") for tag in tags)
