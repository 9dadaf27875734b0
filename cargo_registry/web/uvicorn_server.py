"""uvicorn as the HTTP server of a worker: HTTP/1.1 in Python.

With h11, not httptools: cargo from 1.97 offers `Upgrade: h2c` with a publish over plain HTTP, and httptools
loses the body then. It costs 100 µs of CPU instead of 20 for an index file.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import h11
from starlette.types import ASGIApp
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from cargo_registry.web import tls
from cargo_registry.web.tls import Tls

# How long a connection may be silent before a request; as granian.
_SILENCE_S = 30
# Request line and headers; h11's own default.
_MAX_HEADER_BYTES = 16 * 1024
_BACKLOG = 2048


async def serve(
    app: ASGIApp,
    sock: socket.socket,
    certificate: Tls | None,
    renewals: tls.Renewals | None,
    *,
    started: Callable[[], None],
    stop: asyncio.Event,
) -> None:
    """Serve the app on a listening socket until `stop`, and return when what was in flight is answered."""
    context = tls.context(certificate) if certificate is not None else None
    config = Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",  # the worker's own
        interface="asgi3",
        log_config=None,
        # It warns of each request with `Upgrade: h2c`, which are all of cargo's, and of each malformed one.
        log_level=logging.ERROR,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_SILENCE_S,
        ssl_context_factory=(lambda _config, _default: context) if context is not None else None,
    )
    loop = asyncio.get_running_loop()
    server = _Server(config, started)
    serving = loop.create_task(server.serve(sockets=[sock]))
    stopping = loop.create_task(stop.wait())
    renewing = loop.create_task(_renew(context, certificate, renewals))
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    renewing.cancel()
    server.should_exit = True
    await serving


async def _renew(
    context: ssl.SSLContext | None, certificate: Tls | None, renewals: tls.Renewals | None
) -> None:
    if context is not None and certificate is not None and renewals is not None:
        async for _ in renewals:
            tls.renew(context, certificate)


class _Server(Server):
    def __init__(self, config: Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the worker; uvicorn would handle them as well, and raise them again at its end."""
        yield


class _Protocol(H11Protocol):
    """uvicorn's protocol, stricter about lengths and silence, and more patient at the end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _Connection(h11.SERVER, _MAX_HEADER_BYTES)
        self._last_request = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # uvicorn sets it only after an answer.
        self.timeout_keep_alive_task = self.loop.call_later(_SILENCE_S, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._last_request and self.cycle is not None:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close when the request being received or answered is done, at once if there is none."""
        # uvicorn closes while headers come in.
        received, _ = self.conn.trailing_data
        if received and (self.cycle is None or self.cycle.response_complete):
            self._last_request = True
        else:
            super().shutdown()


class _Connection(h11.Connection):
    def next_event(self) -> Any:
        """Return the next event, but refuse a request with two lengths: a proxy may go by the other one.

        (RFC 9112, 6.3: it "ought to be handled as an error".) h11 goes by Transfer-Encoding.
        """
        event = super().next_event()
        if type(event) is h11.Request:
            names = {name for name, _ in event.headers}
            if b"content-length" in names and b"transfer-encoding" in names:
                raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding")
        return event
