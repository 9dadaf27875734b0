"""Another registry, seen as its client: config.json, index files with validators, tarballs.

Spec: https://doc.rust-lang.org/cargo/reference/registry-index.html#sparse-protocol
One `Upstream` per mirror and process, with its own pool of connections. It asks and reports; when to ask again is
`pull_through`'s matter. Nothing that a client of ours sent goes out: each request is made here from nothing.
"""

import asyncio
import math
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urljoin

import httpx
import msgspec

from cargo_registry.config import RegistryTable
from cargo_registry.crate.entry import download_url, prefix
from cargo_registry.errors import ConfigError

# crates.io's largest file has 3 MB. This bounds memory where an upstream has gone mad.
_MAX_INDEX_BYTES = 64 * 1024 * 1024
_MAX_CONFIG_BYTES = 1024 * 1024
_MAX_REDIRECTS = 10
_MAX_RETRY_AFTER_S = 3600
_CONFIG_AGE_S = 300
# Over HTTP/2 all of them share a connection; cargo asks for as many at once.
_CONCURRENT = 64
_CONNECTIONS = 32
_CONNECT_S = 4
_INDEX_S = 8  # for a whole index file: with the pause after it, less than the ten seconds that are promised
_SILENCE_S = 20  # of a tarball that has begun


class UpstreamFailed(Exception):
    """Upstream did not answer as a registry does. The text says how, and goes to the log and `mirror status`."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Absent:
    """Upstream says that there is no such file."""


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Upstream says that the file is still the one that we have."""


@dataclass(frozen=True, slots=True)
class IndexFile:
    """An index file and what to ask for it with next time."""

    data: bytes
    etag: str | None
    last_modified: str | None


@dataclass(frozen=True, slots=True)
class Body:
    """A tarball that begins to arrive, from `start` on."""

    start: int
    size: int | None  # of the whole tarball, where upstream says it
    etag: str | None
    pieces: AsyncIterator[bytes]


class _Config(msgspec.Struct):
    dl: str


class Upstream:
    """The upstream of a mirror. `close` when done."""

    def __init__(self, table: RegistryTable) -> None:
        self._base = table.upstream.removeprefix("sparse+")
        self._origin = _origin(httpx.URL(self._base))
        self._token = table.upstream_token
        self._dl = ""
        self._dl_until = 0.0
        self._dl_lock = asyncio.Lock()
        self._slots = asyncio.Semaphore(_CONCURRENT)
        contact = f" ({table.contact})" if table.contact else ""
        self._client = httpx.AsyncClient(
            http2=True,
            verify=_trust(table.upstream_ca),
            proxy=table.upstream_proxy or None,
            limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
            # Waiting for a free connection is bounded by whoever waits for the answer.
            timeout=httpx.Timeout(_SILENCE_S, connect=_CONNECT_S, pool=None),
            headers={"user-agent": f"cargo-registry/{version('cargo-registry')}{contact}"},
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def index_file(
        self, name: str, *, etag: str | None, last_modified: str | None
    ) -> IndexFile | Unchanged | Absent:
        """Ask for the index file of a crate, by its lower-case name, with the validators of the one we have.

        Raises:
            UpstreamFailed
        """
        headers = {"accept": "text/plain", "accept-encoding": "gzip"}
        if etag:
            headers["if-none-match"] = etag
        elif last_modified:
            headers["if-modified-since"] = last_modified
        async with self._failing(_INDEX_S), self._get(f"{self._base}{prefix(name)}/{name}", headers) as got:
            if got.status_code == 304 and (etag or last_modified):
                return Unchanged()
            # What cargo takes for "no such crate".
            if got.status_code in (404, 410, 451):
                return Absent()
            _expect(got, 200)
            data = await _whole(got, _MAX_INDEX_BYTES)
            return IndexFile(data, got.headers.get("etag"), got.headers.get("last-modified"))

    @asynccontextmanager
    async def tarball(
        self, name: str, vers: str, cksum: str, *, start: int, etag: str | None
    ) -> AsyncIterator[Body | Absent]:
        """Give a tarball as it arrives; with a `start` only the rest, if upstream can do that.

        Raises:
            UpstreamFailed: also from within `pieces`.
        """
        async with self._failing(None):
            url = download_url(await self._download_template(), name, vers, cksum)
            # Compressed as it is; and only what is not encoded has a length and can be resumed.
            headers = {"accept": "*/*", "accept-encoding": "identity"}
            if start:
                headers["range"] = f"bytes={start}-"
                if etag and not etag.startswith("W/"):
                    headers["if-range"] = etag
            async with self._get(url, headers) as got:
                if got.status_code in (404, 410, 451):
                    yield Absent()
                    return
                if start and got.status_code == 416:
                    raise UpstreamFailed("it does not know the rest of the tarball")
                encoded = got.headers.get("content-encoding", "identity").lower() != "identity"
                length = got.headers.get("content-length", "")
                size = int(length) if length.isdecimal() and not encoded else None
                if start and got.status_code == 206:
                    begins, whole = _content_range(got.headers.get("content-range", ""))
                    if begins != start or encoded:
                        raise UpstreamFailed(
                            "it answered with another part of the tarball than was asked for"
                        )
                    yield Body(start, whole, got.headers.get("etag"), _pieces(got))
                    return
                _expect(got, 200)
                yield Body(0, size, got.headers.get("etag"), _pieces(got))

    async def _download_template(self) -> str:
        """Return `dl` of upstream's config.json."""
        async with self._dl_lock:
            if time.monotonic() < self._dl_until:
                return self._dl
            # As with everything else from upstream, old is better than none.
            try:
                async with asyncio.timeout(_INDEX_S), self._get(f"{self._base}config.json", {}) as got:
                    _expect(got, 200)
                    config = msgspec.json.decode(await _whole(got, _MAX_CONFIG_BYTES), type=_Config)
                    _check_template(config.dl)
            except (
                UpstreamFailed,
                httpx.HTTPError,
                httpx.InvalidURL,
                msgspec.DecodeError,
                TimeoutError,
                UnicodeDecodeError,
            ):
                if not self._dl:
                    raise
                self._dl_until = time.monotonic() + 10
                return self._dl
            self._dl = config.dl
            self._dl_until = time.monotonic() + _CONFIG_AGE_S
            return self._dl

    @asynccontextmanager
    async def _get(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """Ask, and follow redirects; the token goes to upstream's own origin only, whatever leads there."""
        async with self._slots:
            for _ in range(_MAX_REDIRECTS + 1):
                target = httpx.URL(url)
                if target.scheme not in ("http", "https"):
                    raise UpstreamFailed("it redirects to an address that is not of the web")
                # httpx would make an Authorization of it.
                target = target.copy_with(userinfo=b"")
                own = (
                    {"authorization": self._token} if self._token and _origin(target) == self._origin else {}
                )
                async with self._client.stream(
                    "GET", target, headers={**headers, **own}, follow_redirects=False
                ) as got:
                    if got.status_code not in (301, 302, 303, 307, 308) or "location" not in got.headers:
                        yield got
                        return
                    url = urljoin(str(target), got.headers["location"])
            raise UpstreamFailed("it redirects too often")

    @asynccontextmanager
    async def _failing(self, timeout_s: float | None) -> AsyncIterator[None]:
        """Turn every way an upstream fails into UpstreamFailed."""
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError:
            raise UpstreamFailed("it did not answer in time") from None
        except httpx.TimeoutException as error:
            raise UpstreamFailed(f"it did not answer in time ({type(error).__name__})") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise UpstreamFailed(f"{type(error).__name__}: {error}"[:300]) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamFailed(f"its config.json is none: {error}"[:300]) from None


def _check_template(dl: str) -> None:
    if httpx.URL(download_url(dl, "a", "1.0.0", "0")).scheme not in ("http", "https"):
        raise UpstreamFailed("its config.json has a `dl` that is no URL of the web")


async def _pieces(got: httpx.Response) -> AsyncIterator[bytes]:
    async for piece in got.aiter_bytes():
        yield piece


def _expect(got: httpx.Response, status: int) -> None:
    if got.status_code == status:
        return
    retry_after_s = None
    if got.status_code in (429, 503):
        retry_after_s = _retry_after(got.headers.get("retry-after", ""))
    raise UpstreamFailed(f"it answered {got.status_code}", retry_after_s=retry_after_s)


def _retry_after(text: str) -> float | None:
    """Return the seconds to wait that a Retry-After names, as a number or a date."""
    text = text.strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return min(float(text), _MAX_RETRY_AFTER_S)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    wait_s = (at - datetime.now(UTC)).total_seconds()
    return min(max(0.0, float(math.ceil(wait_s))), _MAX_RETRY_AFTER_S)


def _content_range(text: str) -> tuple[int | None, int | None]:
    """Return where `bytes 5-9/10` begins and how large the whole is."""
    unit, _, rest = text.strip().partition(" ")
    span, _, whole = rest.partition("/")
    first = span.partition("-")[0].strip()
    if unit != "bytes" or not first.isdecimal():
        return None, None
    return int(first), int(whole) if whole.isdecimal() else None


async def _whole(got: httpx.Response, max_bytes: int) -> bytes:
    data = bytearray()
    async for piece in got.aiter_bytes():
        data += piece
        if len(data) > max_bytes:
            raise UpstreamFailed(f"it sent more than {max_bytes} bytes for a small file")
    return bytes(data)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host.lower(), url.port or {"http": 80, "https": 443}.get(url.scheme)


def _trust(ca: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca:
        try:
            context.load_verify_locations(Path(ca))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"`upstream_ca` names `{ca}`, which is no PEM file of certificates: {error}"
            ) from None
    return context
