"""granian as the HTTP server of a worker: HTTP/1.1 and HTTP/2 in Rust, the app on the worker's event loop.

Each request comes in on a thread of granian's. Waking the event loop for it, making a task there, and waking
granian again takes as long as everything else about an index file. So an app that has `answer_at_once`, as
`web.app.App`, is asked there and then, and only what it leaves goes to the loop: 20 µs of CPU instead of 35 for
an index file on 32 connections, 40 instead of 67 for a small tarball on 8.
"""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from granian._futures import _cbsched_aioschedule, _future_watcher_wrapper
from granian._granian import ASGIWorker, CallbackScheduler
from granian.asgi import _callback_wrapper
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP2Settings
from granian.log import LogLevels
from granian.net import SocketHolder  # type: ignore[attr-defined]
from granian.server import embed
from starlette.types import ASGIApp, Message, Scope

from cargo_registry.web import tls
from cargo_registry.web.tls import Tls

AnswerAtOnce = Callable[[Scope], tuple[Message, Message] | None]
"""Gives the whole answer to a request, its start and its body; None: call the app. From any thread; never raises."""

# To the root logger, which writes to stderr. Of its own, granian would write to stdout.
_LOGGING = {
    "formatters": {},
    "handlers": {},
    "loggers": {"_granian": {"handlers": [], "propagate": True}},
}
# Open connections of one worker; more wait in the backlog.
_MAX_CONNECTIONS = 4096
_BACKLOG = 2048
# Over HTTP/2; granian would take 16 MiB with each of 200 requests at a time.
_MAX_HEADER_BYTES = 64 * 1024


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
    loop = asyncio.get_running_loop()
    server, serving = await _start(app, sock, certificate)
    started()
    stopping = loop.create_task(stop.wait())
    all_serving = {serving}
    renewed = aiter(renewals) if renewals is not None else None
    while renewed is not None and not stop.is_set():
        renewing = asyncio.ensure_future(anext(renewed))
        await asyncio.wait({serving, stopping, renewing}, return_when=asyncio.FIRST_COMPLETED)
        if not renewing.done() or serving.done():
            renewing.cancel()
            break
        # granian reads a certificate once. A second one on the same socket takes over; the first answers what
        # it has accepted.
        successor = await _start(app, sock, certificate)
        server.stop()  # type: ignore[no-untyped-call]
        server, serving = successor
        all_serving.add(serving)
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    sock.close()
    server.stop()  # type: ignore[no-untyped-call]
    await asyncio.gather(*all_serving)


async def _start(
    app: ASGIApp, sock: socket.socket, certificate: Tls | None
) -> "tuple[_Granian, asyncio.Task[None]]":
    """Return a granian that accepts on the socket, and the task that ends with its last answer."""
    loop = asyncio.get_running_loop()
    accepting = asyncio.Event()
    with tls.loaded(certificate) if certificate is not None else contextlib.nullcontext() as files:
        server = _Granian(app, sock.dup(), files, certificate)
        # At the hook, the task that accepts is not there yet. It begins in the next round of the loop, and
        # the event is set in the one after.
        server.on_startup(lambda: loop.call_soon(loop.call_soon, accepting.set))
        serving = loop.create_task(server.serve())
        waiting = loop.create_task(accepting.wait())
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not accepting.is_set():
            waiting.cancel()
            await serving
    return server, serving


class _Granian(embed.Server):
    """granian without its own processes and signals, and with `_Scheduler`.

    Those of `granian.Granian` listen with SO_REUSEPORT, kill what is stuck without ending the app's lifespan,
    and give up when a worker is killed twice within 5 s. What is overridden is private to granian: its next
    minor version must be tried before pyproject.toml allows it.
    """

    def __init__(
        self, app: ASGIApp, sock: socket.socket, files: tuple[Path, Path] | None, certificate: Tls | None
    ) -> None:
        super().__init__(
            app,
            # No address on purpose: a granian that binds one itself, because it no longer calls
            # `_init_shared_socket`, shall fail at once.
            address="the socket we are given",
            interface=Interfaces.ASGINL,
            http=HTTPModes.auto,
            websockets=False,
            backlog=_BACKLOG,
            backpressure=_MAX_CONNECTIONS,
            http2_settings=HTTP2Settings(max_headers_size=_MAX_HEADER_BYTES),
            # Errors are exceptions of the app. The one warning is that the embedded server is experimental.
            log_level=LogLevels.error,
            log_dictconfig=_LOGGING,
            ssl_cert=files[0] if files else None,
            ssl_key=files[1] if files else None,
            ssl_protocol_min=(
                SSLProtocols.tls13 if certificate and certificate.min_version == "1.3" else SSLProtocols.tls12
            ),
        )
        self._listening_fd = sock.detach()

    def _init_shared_socket(self) -> None:
        backlog = [self.backlog] if sys.platform.startswith(("linux", "freebsd")) else []
        self._shd = SocketHolder(self._listening_fd, False, *backlog)  # type: ignore[assignment, call-arg]

    @staticmethod
    @embed.AsyncWorker.wrap_target  # type: ignore[untyped-decorator]
    async def _spawn_asgi_worker(
        number: int,
        stop: Any,
        app: ASGIApp,
        sock: Any,
        loop: asyncio.AbstractEventLoop,
        threads: int,
        runtime_blocking_threads: int | None,
        blocking_threads: int,
        blocking_idle_s: int,
        backpressure: int,
        _task_impl: Any,
        http: Any,
        http1: Any,
        http2: Any,
        websockets: bool,
        static: Any,
        _access_log: Any,
        tls_: tuple[Any, ...],
        _scope: Any,
    ) -> None:
        """Do as the one it overrides, but with `_Scheduler`."""
        stopped = loop.create_future()
        stop.add_cb(lambda: loop.call_soon_threadsafe(stopped.set_result, None))
        # Its stub describes an older one.
        worker = cast("Any", ASGIWorker)(
            number,
            sock,
            None,
            threads,
            runtime_blocking_threads,
            blocking_threads,
            blocking_idle_s,
            backpressure,
            http,
            http1,
            http2,
            websockets,
            static,
            *tls_,
            (None, None),
        )
        worker.serve_async(_Scheduler(loop, app), loop, stop)
        await stopped


class _Scheduler(CallbackScheduler):
    """Is told of each request by a thread of granian's, and answers it or gives it to the event loop.

    Must not raise: granian does not look.
    """

    def __new__(cls, loop: asyncio.AbstractEventLoop, app: ASGIApp) -> "_Scheduler":
        """Make what granian wants; it keeps more than it uses for tasks of asyncio."""
        made: _Scheduler = super().__new__(cls, loop, app, None, None, None)  # type: ignore[call-arg]
        return made

    def __init__(self, loop: asyncio.AbstractEventLoop, app: ASGIApp) -> None:
        super().__init__()
        call = _future_watcher_wrapper(_callback_wrapper(app, {}, {}))  # type: ignore[no-untyped-call]
        schedule = _cbsched_aioschedule(loop, self._ctx, call)  # type: ignore[no-untyped-call]
        at_once: AnswerAtOnce | None = getattr(app, "answer_at_once", None)

        def answer(request: Any) -> None:
            found = at_once(request.scope) if at_once is not None else None
            if found is None:
                schedule(request)
                return
            # Whole answers are passed on by the call; there is nothing to wait for.
            start, body = found
            request.proto.send(start)
            request.proto.send(body)

        self._schedule_fn = answer
