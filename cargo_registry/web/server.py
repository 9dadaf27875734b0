"""The processes of `cargo-registry serve`: one that watches, and workers that answer on a socket they share.

The first process binds the port, starts the workers, tells when they answer, replaces one that dies and ends
them in order. It serves nothing and starts no thread, so it may fork. A worker runs the app's lifespan and,
on the same event loop, an HTTP server: granian's or uvicorn's. Either only has to serve a socket until told
to stop; processes, signals, grace and exit code are the same for both.

Lifespan: https://asgi.readthedocs.io/en/latest/specs/lifespan.html
"""

import asyncio
import contextlib
import ctypes
import errno
import importlib
import ipaddress
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any, Literal, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cargo_registry.errors import ConfigError, RegistryError
from cargo_registry.web import granian_server, tls, uvicorn_server
from cargo_registry.web.tls import Tls

log = logging.getLogger(__name__)
access_log = logging.getLogger("cargo_registry.access")

MakeApp = Callable[[str], ASGIApp]
"""Makes a worker's app from the server's base URL. Picklable, because not every system can fork."""

# How long requests in flight may take to end after SIGTERM.
GRACE_S = 25.0
# What the end of the app's lifespan may take on top: there it writes what it has counted.
_LIFESPAN_END_S = 5.0
# Connections the kernel holds while all workers are busy or being replaced; net.core.somaxconn may be less.
_BACKLOG = 2048
# `uv run` passes on a Ctrl-C that the terminal has already sent to every process.
_SAME_KEY_PRESS_S = 0.5
# A worker that answers and then dies is replaced at this pace, whatever kills it.
_RESPAWN_S = 1.0
# One that does not get as far is tried again after 0.2 s, 0.4 s and so on, about 3 s in all.
_MAX_FAILED_STARTS = 5

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# With TLS: the certificate has been renewed. Without, a terminal that closes ends the server as any program.
_RENEW_SIGNAL = signal.SIGHUP
_READY = "ready"


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen and with what; port 0 takes a free one."""

    host: str
    port: int
    workers: int
    implementation: Literal["granian", "uvicorn"]
    tls: Tls | None = None  # None: plain HTTP
    access_log: bool = False


def run(
    listen: Listen, make_app: MakeApp, *, on_ready: Callable[[str], None], grace_s: float = GRACE_S
) -> int:
    """Serve until SIGTERM or Ctrl-C and return the exit code, 0 after an orderly stop.

    With TLS, SIGHUP makes new connections use the certificate as it is then; a change of the file is noticed
    by itself. When every worker answers, writes `listening on URL` to stdout and calls `on_ready(URL)`. What workers
    write to stdout goes to stderr. To be called in the main thread of a process that has no other thread and
    no open database: on Linux, workers are forks of it.

    Raises:
        ConfigError: the address cannot be listened on, the certificate cannot be used, or the app of a worker
            said why it cannot start.
    """
    if listen.tls is not None:
        with tls.loaded(listen.tls):
            pass
    with _bind(listen.host, listen.port) as sock, _Signals.caught(renew=listen.tls is not None) as signals:
        url = _url("https" if listen.tls else "http", listen.host, sock.getsockname()[1])
        return _Supervisor(listen, make_app, url, sock, signals, grace_s).run(on_ready)


def _bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; only one process can have one on a port.

    Raises:
        ConfigError: the address is unknown, another machine's, taken or not for this user.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"{port} is not a port; choose one from 0 to 65535.")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise ConfigError(
            f"The host `{host}` is unknown; use an address of this machine, or `0.0.0.0` for all of them."
        ) from None
    # `localhost` is both ::1 and 127.0.0.1. Clients try both too, and not every machine has the first.
    family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Without it, connections that a killed server has left would keep the port for a minute. Not
        # SO_REUSEPORT: two servers on one port would share the requests silently.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by accepted connections; granian does not set it on them.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if host == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ConfigError(_why_not_bound(error, host, port)) from None
    return sock


def _why_not_bound(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"Port {port} of `{host}` is taken; stop the program that listens there or choose another."
        case errno.EACCES:
            return f"Port {port} is not for this user to listen on; choose one from 1024 up."
        case errno.EADDRNOTAVAIL:
            return f"`{host}` is not this machine; use one of its addresses, or `0.0.0.0` for all of them."
        case _:
            return f"Cannot listen on port {port} of `{host}`: {error.strerror}."


def _url(scheme: str, host: str, port: int) -> str:
    """Return the base URL by which this machine reaches the server."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return f"{scheme}://{host}:{port}"
    if ip.is_unspecified:
        ip = ipaddress.ip_address("127.0.0.1" if ip.version == 4 else "::1")
    return f"{scheme}://{ip}:{port}" if ip.version == 4 else f"{scheme}://[{ip}]:{port}"


# --- The first process ---


class _Signals:
    """SIGTERM, Ctrl-C and SIGHUP as claims, and a socket that becomes readable when one arrives."""

    def __init__(self, waker: socket.socket) -> None:
        self.waker = waker
        self.stop = False
        self.at_once = False
        self.renew = False
        self._first_interrupt: float | None = None

    @classmethod
    @contextlib.contextmanager
    def caught(cls, *, renew: bool) -> "Iterator[_Signals]":
        reader, writer = socket.socketpair()
        with reader, writer:
            reader.setblocking(False)
            writer.setblocking(False)
            signals = cls(reader)
            numbers = (*_STOP_SIGNALS, _RENEW_SIGNAL) if renew else _STOP_SIGNALS
            before = {number: signal.signal(number, signals._handle) for number in numbers}
            wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
            try:
                yield signals
            finally:
                signal.set_wakeup_fd(wakeup)
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _handle(self, number: int, _frame: object) -> None:
        if number == _RENEW_SIGNAL:
            self.renew = True
            return
        self.stop = True
        if number == signal.SIGINT:
            now = time.monotonic()
            if self._first_interrupt is None:
                self._first_interrupt = now
            self.at_once = now - self._first_interrupt > _SAME_KEY_PRESS_S


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    # Says one thing: `_READY`, or a sentence why it cannot start.
    report: Connection
    born: float
    ready: bool = False
    refusal: str = ""

    def listen(self) -> None:
        """Take in what the worker has said, if anything."""
        if self.report.closed or not self.report.poll():
            return
        with contextlib.suppress(EOFError, OSError):  # it died
            words = self.report.recv()
            self.ready = words == _READY
            self.refusal = "" if self.ready else words
        self.report.close()

    def end(self) -> str:
        """Say how the worker ended."""
        code = self.process.exitcode or 0
        return f"signal {-code}" if code < 0 else f"exit code {code}"


@dataclass(slots=True)
class _Seat:
    """The place of one worker, whoever has it; `due` is when an empty one is filled (`time.monotonic`)."""

    worker: _Worker | None = None
    due: float = 0.0
    failed_starts: int = 0


class _Supervisor:
    def __init__(
        self,
        listen: Listen,
        make_app: MakeApp,
        url: str,
        sock: socket.socket,
        signals: _Signals,
        grace_s: float,
    ) -> None:
        self._listen = listen
        self._make_app = make_app
        self._url = url
        self._sock = sock
        self._signals = signals
        self._grace_s = grace_s
        self._seats = [_Seat() for _ in range(max(1, listen.workers))]
        # Nothing is ever written; workers read one end, and only this process keeps the other open.
        self._life = multiprocessing.Pipe(duplex=False)

    def run(self, on_ready: Callable[[str], None]) -> int:
        announced = False
        try:
            while not self._signals.stop:
                self._fill_seats()
                empty = [seat.due for seat in self._seats if seat.worker is None]
                self._wait(max(0.0, min(empty) - time.monotonic()) if empty else None)
                if self._signals.renew:
                    self._signals.renew = False
                    self._pass_on_renewal()
                for seat in self._seats:
                    if not self._look_after(seat, announced=announced):
                        return max(1, self._stop())
                if not announced and all(seat.worker and seat.worker.ready for seat in self._seats):
                    announced = True
                    self._announce()
                    on_ready(self._url)
            return self._stop()
        finally:
            for worker in self._workers():  # any left only after an exception, `on_ready`'s for example
                worker.process.kill()

    def _announce(self) -> None:
        if sys.stdout is not None:  # None if started with stdout closed
            sys.stdout.write(f"listening on {self._url}\n")
            sys.stdout.flush()

    def _pass_on_renewal(self) -> None:
        for worker in self._workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.process.pid or 0, _RENEW_SIGNAL)

    def _workers(self) -> list[_Worker]:
        return [seat.worker for seat in self._seats if seat.worker is not None]

    def _fill_seats(self) -> None:
        now = time.monotonic()
        for seat in self._seats:
            if seat.worker is None and seat.due <= now:
                seat.worker = self._start_worker()

    def _start_worker(self) -> _Worker:
        # A fork is there in some milliseconds, shares its memory and runs our code even if that has been
        # updated on disk. macOS kills forks that use its frameworks.
        context: ForkContext | SpawnContext = (
            multiprocessing.get_context("fork")
            if sys.platform == "linux"
            else multiprocessing.get_context("spawn")
        )
        report, its_report = context.Pipe(duplex=False)
        process = context.Process(
            target=_work,
            name="cargo-registry worker",
            args=(
                self._listen,
                self._make_app,
                self._url,
                self._sock,
                its_report,
                self._life,
                os.getpid(),
                self._grace_s,
            ),
        )
        # A signal to the whole group waits until the worker can handle it: it must not be lost, nor kill it.
        signal.pthread_sigmask(signal.SIG_BLOCK, (*_STOP_SIGNALS, _RENEW_SIGNAL))
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (*_STOP_SIGNALS, _RENEW_SIGNAL))
        its_report.close()
        return _Worker(process, report, born=time.monotonic())

    def _wait(self, timeout_s: float | None) -> None:
        """Return when a signal arrived, a worker spoke or ended, or the time is over."""
        workers = self._workers()
        reports = [worker.report for worker in workers if not worker.report.closed]
        wait([self._signals.waker, *reports, *(worker.process.sentinel for worker in workers)], timeout_s)
        with contextlib.suppress(BlockingIOError):
            self._signals.waker.recv(4096)

    def _look_after(self, seat: _Seat, *, announced: bool) -> bool:
        """Empty the seat of a worker that died and say when the next is due. False means to give up."""
        worker = seat.worker
        if worker is None:
            return True
        worker.listen()
        if worker.ready:
            seat.failed_starts = 0
        if worker.process.is_alive() or self._signals.stop:
            return True
        seat.worker = None
        if worker.ready:
            log.error("a worker ended with %s and is replaced", worker.end())
            seat.due = worker.born + _RESPAWN_S
            return True
        if not announced and worker.refusal:
            self._stop()
            raise ConfigError(worker.refusal)
        log.error("a worker ended with %s before it answered. %s", worker.end(), worker.refusal)
        seat.failed_starts += 1
        seat.due = time.monotonic() + 0.1 * 2**seat.failed_starts
        return announced and seat.failed_starts < _MAX_FAILED_STARTS

    def _stop(self) -> int:
        """End all workers; return 0 if they ended in order."""
        self._sock.close()
        for worker in self._workers():
            worker.process.terminate()
        deadline = time.monotonic() + self._grace_s + _LIFESPAN_END_S + 1
        code = 0
        while workers := self._workers():
            late = time.monotonic() >= deadline
            if late or self._signals.at_once:
                log.error("workers that have not ended are killed")
                for worker in workers:
                    worker.process.kill()
                return 1 if late else 130
            self._wait(deadline - time.monotonic())
            for seat in self._seats:
                if seat.worker is not None and not seat.worker.process.is_alive():
                    code = code or (1 if seat.worker.process.exitcode else 0)
                    seat.worker = None
                elif seat.worker is not None:
                    seat.worker.listen()
        return code


# --- A worker ---


def _work(
    listen: Listen,
    make_app: MakeApp,
    url: str,
    sock: socket.socket,
    report: Connection,
    life: tuple[Connection, Connection],
    parent: int,
    grace_s: float,
) -> None:
    """Serve until SIGTERM, Ctrl-C or the death of the first process; does not return."""
    signal.set_wakeup_fd(-1)  # in a fork, that of the first process
    _die_with(parent, life)
    if sys.stdout is not None and sys.stderr is not None:
        os.dup2(2, 1)
    loop = _new_event_loop()
    asyncio.set_event_loop(loop)
    code = loop.run_until_complete(_serve(listen, make_app, url, sock, report, grace_s))
    # Requests that were cut still hang in the loop, in threads, in granian: tidying up would wait for them
    # and complain about them.
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    os._exit(code)


def _die_with(parent: int, life: tuple[Connection, Connection]) -> None:
    """See that this process ends with the first one, however that ends, and the port is free again."""
    reader, writer = life
    writer.close()
    if sys.platform == "linux":
        # The kernel does it even if this interpreter hangs. (prctl(2): PR_SET_PDEATHSIG is 1)
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            reader.recv_bytes()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="die with the first process", daemon=True).start()


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


async def _serve(
    listen: Listen, make_app: MakeApp, url: str, sock: socket.socket, report: Connection, grace_s: float
) -> int:
    """Run the app's lifespan and, within it, the HTTP server; return the exit code."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    renewals = None
    if listen.tls is not None:
        renewals = tls.Renewals(listen.tls)
        loop.add_signal_handler(_RENEW_SIGNAL, renewals.look)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*_STOP_SIGNALS, _RENEW_SIGNAL))
    try:
        lifespan = _Lifespan(make_app(url))
        await lifespan.start()
    except RegistryError as error:
        report.send(str(error))
        return 1
    except Exception:
        log.exception("the server cannot start")
        return 1

    app = _logged(lifespan.app()) if listen.access_log else lifespan.app()

    def say_ready() -> None:
        with contextlib.suppress(OSError):  # the first process is gone, and so are we in a moment
            report.send(_READY)

    server = uvicorn_server if listen.implementation == "uvicorn" else granian_server
    serve: _ServeSocket = server.serve
    serving = loop.create_task(serve(app, sock, listen.tls, renewals, started=say_ready, stop=stop))
    stopping = loop.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait({serving}, timeout=grace_s)
    code = 0
    if not serving.done():
        log.warning("requests that did not end within %g s are cut", grace_s)
    elif serving.exception() or not stop.is_set():
        log.error("the HTTP server ended by itself", exc_info=serving.exception())
        code = 1
    try:
        async with asyncio.timeout(_LIFESPAN_END_S):
            await lifespan.stop()
    except Exception:
        log.exception("the server could not end in order")
        code = 1
    return code


def _logged(app: ASGIApp) -> ASGIApp:
    """Return the app with a line in the log for each request. It costs more than an index file does."""

    async def logged(scope: Scope, receive: Receive, send: Send) -> None:
        status, size, began = 0, "-", time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                size = next(
                    (value.decode() for name, value in message["headers"] if name == b"content-length"), "-"
                )
            await send(message)

        try:
            await app(scope, receive, noted)
        finally:
            client = scope.get("client")
            access_log.info(
                '%s "%s %s HTTP/%s" %s %s %.1f ms',
                client[0] if client else "-",
                scope["method"],
                scope["raw_path"].decode("latin-1"),
                scope["http_version"],
                # 0: the connection was cut.
                status,
                size,
                (time.perf_counter() - began) * 1000,
            )

    return logged


class _Lifespan:
    """The lifespan protocol with one app.

    Ours, as granian kills a worker with a stuck request before the app's lifespan has ended, and uvicorn
    cancels the request and prints a traceback of that.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._state: dict[str, Any] = {}
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._from_app: asyncio.Queue[Message] = asyncio.Queue()
        self._task = asyncio.ensure_future(self._talk())

    def app(self) -> ASGIApp:
        """Return the app, which is given with each request what its lifespan put into `scope["state"]`."""
        app, state = self._app, self._state
        if not state:
            return app

        def with_state(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            scope["state"] = state.copy()
            return app(scope, receive, send)

        return with_state

    async def start(self) -> None:
        """Return when the app has started, or raise what it raised."""
        await self._ask("startup")

    async def stop(self) -> None:
        """Return when the app has ended, or raise what it raised."""
        await self._ask("shutdown")

    async def _talk(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        await self._app(scope, self._to_app.get, self._from_app.put)

    async def _ask(self, what: str) -> None:
        self._to_app.put_nowait({"type": f"lifespan.{what}"})
        answering = asyncio.ensure_future(self._from_app.get())
        await asyncio.wait({answering, self._task}, return_when=asyncio.FIRST_COMPLETED)
        answer = answering.result() if answering.done() else {"type": "no answer"}
        if answer["type"] == f"lifespan.{what}.complete":
            return
        # Starlette answers `failed` with a traceback as text, and raises the error, which says more.
        await asyncio.wait({self._task}, timeout=1)
        if self._task.done():
            self._task.result()
        raise RuntimeError(f"lifespan.{what}: {answer.get('message') or answer['type']}")


class _ServeSocket(Protocol):
    """An HTTP server.

    Accepts on `sock`, which is its own from now on, until `stop` is set; calls `started` when it does.
    Returns when what was then in flight is answered; if that takes too long, the process ends without it.
    """

    async def __call__(
        self,
        app: ASGIApp,
        sock: socket.socket,
        certificate: Tls | None,
        renewals: tls.Renewals | None,
        /,
        *,
        started: Callable[[], None],
        stop: asyncio.Event,
    ) -> None:
        """Serve; with a certificate, TLS, and with a renewed one those who connect from then on."""
