"""The application: which registry a request is for, who may come in, and which handler answers.

Index files and downloads are matched on the target's exact bytes, in front of every framework; the rest goes
through Starlette's router.
"""

import asyncio
import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cargo_registry import download, index, upkeep
from cargo_registry.config import Config
from cargo_registry.db import upkeep as upkeep_rows
from cargo_registry.errors import NotFound, RegistryError, TooMany, Unauthorized
from cargo_registry.gate import Reader
from cargo_registry.mirror import pull_through
from cargo_registry.mirror.pull_through import Mirror
from cargo_registry.registry import Registry, Site, close_site, open_site
from cargo_registry.web import api, auth, body, errors, lookups, mirrors, pages
from cargo_registry.web.download import Download
from cargo_registry.web.endpoint import answer, refuse_method, route
from cargo_registry.web.index import Answer, Index
from cargo_registry.web.limits import Limits

log = logging.getLogger(__name__)

_FLUSH_S = 5
_SPOOL_AGE_S = 3600  # no upload lasts so long
_DOWNLOAD = re.compile(rb"/+api/v1/crates/([^/]+)/([^/]+)/download/?")
# As cargo writes it, so that nothing has to be decoded.
_PLAIN_DOWNLOAD = re.compile(rb"/api/v1/crates/([A-Za-z0-9_-]+)/([A-Za-z0-9.+-]+)/download")
_READS = ("GET", "HEAD")


def create_app(config: Config, url: str) -> ASGIApp:
    """Return the application that serves `config` at the address `url`. Its lifespan opens and closes the data."""
    return App(config, url)


@dataclass(frozen=True, slots=True)
class _Mounted:
    """A registry, and what answers for it."""

    registry: Registry
    index: Index
    download: Download
    router: Router


class _Exchange:
    """One request and its answer: how far each has come decides what can still be said when something fails."""

    __slots__ = ("_receive", "_send", "answering", "received_all")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.answering = False
        self.received_all = False

    async def receive(self) -> Message:
        message = await self._receive()
        self.received_all = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        self.answering = True
        await self._send(message)


class App:
    """The ASGI application."""

    def __init__(self, config: Config, url: str) -> None:
        self._config = config
        self._url = url
        self._site: Site | None = None
        self._mounted: dict[str, _Mounted] = {}  # by first path segment; "" is the default registry
        self._mirrors: dict[str, Mirror] = {}  # by registry
        self._root: _Mounted | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._limits = Limits(config)
        # What belongs to no registry.
        self._site_router = Router([Route("/healthz", self._get_healthz)], default=_not_found)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request, or the lifespan."""
        if scope["type"] == "http":
            answer = self.answer_at_once(scope)
            if answer is None:
                await self._http(scope, receive, send)
            else:
                await send(answer[0])
                await send(answer[1])
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    def answer_at_once(self, scope: Scope) -> Answer | None:
        """Return the whole answer to what cargo asks most: a good `GET` of an index file or a tarball; None: call.

        What is unusual about a request, was not asked for since the last change, or fails, is left to `_http`.
        From any thread, so that a server need not wake the event loop; hence nothing here looks anything up in
        the database or keeps anything. Never raises.
        """
        try:
            raw: bytes = scope["raw_path"]
            if scope["method"] != "GET" or b"?" in raw or self._site is None:
                return None
            mounted = self._root
            if mounted is None or not raw.startswith((b"/index/", b"/api/")):
                mounted, raw = self._registry_of(raw)
            if mounted is None:
                return None
            is_index = raw.startswith(b"/index/")
            match = None if is_index else _PLAIN_DOWNLOAD.fullmatch(raw)
            if not is_index and match is None:
                return None
            who: str | None = None
            if mounted.registry.private:
                who = auth.admitted(self._site, mounted.registry, scope)
                if who is None:
                    return None
            if match is None:
                return mounted.index.answer(raw[7:], scope["headers"])
            if who is None:
                if auth.is_tried(scope):
                    return None
                who = self._limits.address(scope)
            return mounted.download.answer(scope, match[1].decode(), match[2].decode(), who)
        except Exception:
            # `_http` meets it again, and tells.
            return None

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        site = self._site
        if site is None:
            raise RuntimeError("a request came before the lifespan began")
        raw: bytes = scope["raw_path"].partition(b"?")[0]
        if not raw.startswith(b"/"):
            # `GET http://host/path`, as to a proxy; a server must take that too (RFC 9112 §3.2.2).
            raw = b"/" + raw.partition(b"://")[2].partition(b"/")[2]
        mounted, raw = self._registry_of(raw)
        exchange = _Exchange(receive, send)
        try:
            await self._answer(site, mounted, raw, scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            return
        except Exception as error:
            if exchange.answering:
                raise  # the server cuts the connection: never a clean end of a broken answer
            response = self._response_to(error, mounted, scope)
            if not exchange.received_all and scope["method"] not in _READS:
                await body.drain(Request(scope, exchange.receive))
            await _bare(response, scope)(scope, receive, send)

    async def _answer(
        self, site: Site, mounted: _Mounted | None, raw: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if mounted is None:
            if raw == b"/healthz":
                _only_reads(scope)
            await self._site_router({**scope, "root_path": ""}, receive, send)
            return
        registry = mounted.registry
        if raw.startswith(b"/index/"):
            auth.admit(site, registry, scope)
            _only_reads(scope)
            await mounted.index(scope, receive, send, raw[7:])
            return
        match = _DOWNLOAD.fullmatch(raw)
        if match:
            auth.admit(site, registry, scope)
            _only_reads(scope)
            name, vers = (unquote(part.decode("latin-1")) for part in match.groups())
            await mounted.download(scope, receive, send, name, vers)
            return
        path = _api_path(unquote(raw.decode("latin-1"), errors="replace"))
        if path != "/me":
            auth.admit(site, registry, scope)
        client = (self._limits.address(scope), 0)
        await mounted.router({**scope, "path": path, "root_path": "", "client": client}, receive, send)

    def _registry_of(self, raw: bytes) -> tuple[_Mounted | None, bytes]:
        """Return the registry whose name is the first segment of the path, and the rest of the path.

        Without such a segment it is the one at the root; None: the site itself, or nothing.
        """
        first, slash, rest = raw[1:].partition(b"/")
        mounted = self._mounted.get(first.decode("latin-1")) if first else None
        if mounted is not None:
            return mounted, slash + rest
        return (None if raw == b"/healthz" else self._mounted.get("")), raw

    def _who(self, scope: Scope) -> str:
        """Return the login of who is asking, or the address where no good token came."""
        if self._site is not None and auth.is_tried(scope):
            with suppress(Unauthorized):
                if who := auth.caller(self._site, scope):
                    return who.login
        return self._limits.address(scope)

    def _response_to(self, error: Exception, mounted: _Mounted | None, scope: Scope) -> Response:
        if isinstance(error, Unauthorized) and mounted is not None:
            if auth.is_tried(scope):
                try:
                    self._limits.failed_authentication(scope)
                except TooMany as too_many:
                    return errors.to_response(too_many)
            return auth.challenge(mounted.registry, error)
        return errors.to_response(error)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            try:
                if message["type"] == "lifespan.startup":
                    await self._open()
                else:
                    await self._close()
            except Exception as error:
                log.exception("%s failed", message["type"])
                await send({"type": f"{message['type']}.failed", "message": str(error)})
                return
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def _get_healthz(self, request: Request) -> Response:
        """`GET /healthz`: 200 while the process answers; says if tarballs are known to be damaged."""
        damaged = self._site.db.look_up(upkeep_rows.damaged) if self._site else 0
        status = "degraded" if damaged else "ok"
        return answer({"status": status, "damaged_tarballs": damaged})

    async def _open(self) -> None:
        site = open_site(self._config, self._url, Reader())
        self._site = site
        self._mirrors = pull_through.open_mirrors(site)
        for registry in site.registries.values():
            try:
                await index.recover(registry)
            except RegistryError as error:
                # Reads go on, on a disk that is read-only too; the crate's next change finds what is left.
                log.error("index files that a crash left unfinished wait: %s", error)
            base = "" if registry is site.root else registry.name
            mirror = self._mirrors.get(registry.name)
            self._mounted[base] = _Mounted(
                registry,
                Index(registry, mirror),
                Download(registry, mirror, self._who),
                Router(
                    _routes(site, registry, self._limits, mirror), redirect_slashes=False, default=_not_found
                ),
            )
            registry.tarballs.sweep(older_than_s=_SPOOL_AGE_S, now_s=site.now().timestamp())
        self._root = self._mounted.get("")
        self._tasks = [asyncio.create_task(_flush_now_and_then(site))]
        if days := self._config.upkeep.verify_days:
            self._tasks.append(asyncio.create_task(upkeep.verify_in_background(site, days=days)))

    async def _close(self) -> None:
        if self._site is None:
            return
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for mirror in self._mirrors.values():
            await mirror.close()
        try:
            await download.flush(self._site)
        except RegistryError as error:
            log.warning("the last download counts are lost: %s", error)
        finally:
            await close_site(self._site)


def _only_reads(scope: Scope) -> None:
    if scope["method"] not in _READS:
        raise refuse_method(scope["method"], _READS)


def _routes(site: Site, registry: Registry, limits: Limits, mirror: Mirror | None) -> list[Route]:
    """Return every route of a registry but the index and downloads, which `App` matches itself."""
    return [
        *api.routes(site, registry, limits),
        *(mirrors.routes(site, registry, mirror) if mirror else ()),
        *lookups.routes(site, registry),
        route(site, registry, "/me", GET=pages.get_me),
    ]


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotFound("there is nothing at this address; the registry's index is at `/index/`")


def _api_path(path: str) -> str:
    """Return the path as the routes spell it: an `api` setting that ends in a slash makes `//api/v1/…`.

    Never by a redirect: cargo cannot send a body twice.
    """
    if path.lstrip("/").startswith("api/"):
        return "/" + path.strip("/")
    return path


def _bare(response: Response, scope: Scope) -> Response:
    """Return the response without its body for HEAD."""
    if scope["method"] == "HEAD":
        response.body = b""
    return response


async def _flush_now_and_then(site: Site) -> None:
    while True:
        await asyncio.sleep(_FLUSH_S)
        try:
            await download.flush(site)
        except RegistryError as error:
            log.warning("download counts wait for the next flush: %s", error)
        except Exception:
            # A bug. Without this the task would end, and nobody would hear of it.
            log.exception("download counts wait for the next flush")
