"""`web/server.py` from outside: real processes on loopback, signals, killed workers, half-sent uploads.

Run as a program, this file is the server under test.
"""

import contextlib
import functools
import http.client
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import cargo_registry
from cargo_registry.errors import ConfigError
from cargo_registry.web import server

# A publish of cargo 1.97 over plain HTTP, as it was seen on the wire.
CARGO_UPGRADE = (
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
)
BODY = b"x" * 100_000


# --- The app ---


def make_app(marks: Path, url: str) -> ASGIApp:
    """Answer `PID BYTES URL` to any request; leave marks of the lifespan in a directory, and obey some there."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(scope, receive, send)
            return
        size = 0
        more = True
        while more:
            message: Message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        if scope["path"] == "/raise":
            raise RuntimeError("the app is wrong here")
        answer = f"{os.getpid()} {size} {url} {scope['state']['from_lifespan']}".encode()
        headers = [(b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        sys.stdout.write("noise on stdout\n")
        sys.stdout.flush()
        if (marks / "refuse").exists():
            raise ConfigError("The database is away; bring it back.")
        if (marks / "break").exists():
            raise RuntimeError("the app is broken")
        scope["state"]["from_lifespan"] = "state"
        (marks / f"started {os.getpid()}").touch()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        (marks / f"stopped {os.getpid()}").touch()
        await send({"type": "lifespan.shutdown.complete"})

    return AtOnce(app, marks / "body") if (marks / "at once").exists() else app


class AtOnce:
    """An app that answers `/at-once` and `/file` from whatever thread asks, and gets stuck on `/stuck`."""

    def __init__(self, app: ASGIApp, file: Path) -> None:
        self._app = app
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["path"] == "/stuck":
            time.sleep(2)  # noqa: ASYNC251
        scope["state"]["from_lifespan"] = "called"
        await self._app(scope, receive, send)

    def answer_at_once(self, scope: Scope) -> tuple[Message, Message] | None:
        if scope["path"] == "/file":
            headers = [(b"content-length", b"%d" % len(BODY))]
            return (
                {"type": "http.response.start", "status": 200, "headers": headers},
                {"type": "http.response.pathsend", "path": str(self._file)},
            )
        if scope["path"] != "/at-once":
            return None
        start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"7")]}
        return start, {"type": "http.response.body", "body": b"at once"}


def main(implementation: str, workers: str, host: str, port: str, grace_s: str, marks: str) -> int:
    listen = server.Listen(
        host, int(port), int(workers), "uvicorn" if implementation == "uvicorn" else "granian"
    )
    try:
        return server.run(
            listen,
            functools.partial(make_app, Path(marks)),
            on_ready=lambda url: print(f"hint: {url}", file=sys.stderr),
            grace_s=float(grace_s),
        )
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))


# --- The server under test ---


class Running:
    """A started server, in a process group of its own."""

    def __init__(self, implementation: str, process: subprocess.Popen[bytes], marks: Path) -> None:
        self.implementation = implementation
        self.process = process
        self.pid = process.pid
        self.marks = marks
        self.url = ""
        self.connections: list[socket.socket] = []

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stderr(self) -> str:
        return (self.marks / f"stderr {self.pid}").read_text()

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], 10)
        line = os.read(self.process.stdout.fileno(), 1000).decode() if readable else "nothing"
        assert line.startswith("listening on http://"), line + self.stderr()
        assert line.count("\n") == 1
        self.url = line.removeprefix("listening on ").strip()

    def workers(self) -> set[int]:
        with contextlib.suppress(FileNotFoundError):
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            return {int(pid) for pid in children if is_alive(int(pid))}
        return set()

    def connect(self, sent: str | bytes = b"", host: str = "127.0.0.1") -> socket.socket:
        """Return a connection on which `sent` was sent; closed with the server."""
        connection = socket.create_connection((host, self.port), timeout=10)
        self.connections.append(connection)
        connection.sendall(sent if isinstance(sent, bytes) else sent.encode())
        return connection

    def get(self, path: str = "/", host: str = "127.0.0.1") -> list[str]:
        """Return the words of the answer: pid, size, url, state."""
        connection = http.client.HTTPConnection(host, self.port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode().split()
        finally:
            connection.close()

    def is_listening(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=10).close()
        except ConnectionRefusedError:
            return False
        except ConnectionResetError:  # it closed while we came
            return True
        return True

    def ends(self, within_s: float = 10) -> int:
        return self.process.wait(within_s)

    def marked(self, what: str) -> set[int]:
        return {int(path.name.split()[1]) for path in self.marks.glob(f"{what} *")}

    def rest_of_stdout(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.read()


Start = Callable[..., Running]
Implementation = Literal["granian", "uvicorn"]

BOTH = pytest.mark.parametrize("implementation", ["granian", "uvicorn"])
ONE_AND_TWO = pytest.mark.parametrize("workers", [1, 2])


@contextlib.contextmanager
def starting(marks: Path) -> Iterator[Start]:
    started: list[Running] = []

    def start(
        implementation: str = "granian",
        workers: int = 1,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        grace_s: float = 25,
        ready: bool = True,
    ) -> Running:
        arguments = [implementation, str(workers), host, str(port), str(grace_s), str(marks)]
        errors = marks / "stderr"
        with errors.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, __file__, *arguments],
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(Path(cargo_registry.__file__).parent.parent)},
            )
        running = Running(implementation, process, marks)
        errors.rename(marks / f"stderr {process.pid}")
        started.append(running)
        if ready:
            running.wait_until_ready()
        return running

    try:
        yield start
    finally:
        for running in started:
            for connection in running.connections:
                connection.close()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            running.process.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with starting(tmp_path) as start:
        yield start


@pytest.fixture(scope="module", params=["granian", "uvicorn"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server for tests that leave it as it was."""
    with starting(tmp_path_factory.mktemp("marks")) as start:
        yield start(request.param)


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"  # a zombie of an orphan waits for init


def until(claim: Callable[[], bool], within_s: float = 10) -> None:
    end = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.01)


def answer_on(connection: socket.socket) -> tuple[int, bytes]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


def half_upload(running: Running) -> socket.socket:
    """Return a connection on which the app waits for the second half of BODY."""
    connection = running.connect(
        f"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\nExpect: 100-continue\r\n\r\n"
    )
    # The server says so when the app asks for the body.
    assert connection.recv(1000).startswith(b"HTTP/1.1 100")
    connection.sendall(BODY[: len(BODY) // 2])
    return connection


def idle_connection(running: Running) -> socket.socket:
    connection = running.connect("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer_on(connection)[0] == 200
    return connection


# --- Starting ---


@BOTH
@ONE_AND_TWO
def test_stdout_is_one_line_and_then_the_server_answers(
    start: Start, implementation: Implementation, workers: int
) -> None:
    running = start(implementation, workers)
    pid, size, url, state = running.get()
    assert (int(pid) in running.workers(), size, url, state) == (True, "0", running.url, "state")
    assert len(running.workers()) == workers
    idle_connection(running)
    running.connect()
    running.connect(f"GET / HTTP/1.1\r\nHost: x\r\n{CARGO_UPGRADE}\r\n").recv(1000)

    at = time.monotonic()
    running.process.terminate()
    assert running.ends() == 0
    assert time.monotonic() - at < 2
    assert running.rest_of_stdout() == b""
    assert sorted(running.stderr().splitlines()) == [f"hint: {running.url}"] + ["noise on stdout"] * workers
    assert running.marked("started") == running.marked("stopped")
    assert len(running.marked("stopped")) == workers


@BOTH
def test_start_takes_less_than_a_second(start: Start, implementation: Implementation) -> None:
    def start_s() -> float:
        at = time.monotonic()
        start(implementation, 2)
        return time.monotonic() - at

    assert any(start_s() < 1 for _ in range(3)), "not even once in three"


@BOTH
@ONE_AND_TWO
def test_taken_port_is_refused_in_one_sentence(
    start: Start, implementation: Implementation, workers: int
) -> None:
    first = start(implementation, workers)
    second = start(implementation, workers, port=first.port, ready=False)
    assert second.ends() == 1
    assert second.rest_of_stdout() == b""
    assert second.stderr() == (
        f"error: Port {first.port} of `127.0.0.1` is taken; stop the program that listens there or choose another.\n"
    )
    assert first.get()


def may_listen_on_port_1() -> bool:
    try:
        socket.create_server(("127.0.0.1", 1)).close()
    except PermissionError:
        return False
    return True


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("no-such-host.invalid", 0, "`no-such-host.invalid` is unknown"),
        ("", 0, "`` is unknown"),
        ("203.0.113.7", 0, "`203.0.113.7` is not this machine"),  # TEST-NET-3 (RFC 5737)
        ("127.0.0.1", 70000, "70000 is not a port"),
        pytest.param(
            "127.0.0.1",
            1,
            "Port 1 is not for this user",
            marks=pytest.mark.skipif(may_listen_on_port_1(), reason="this user may"),
        ),
    ],
)
def test_wrong_address_is_refused_in_one_sentence(host: str, port: int, words: str, tmp_path: Path) -> None:
    listen = server.Listen(host, port, 1, "granian")
    with pytest.raises(ConfigError, match=words) as raised:
        server.run(listen, functools.partial(make_app, tmp_path), on_ready=print)
    assert str(raised.value).endswith(".")
    assert "\n" not in str(raised.value)


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")


@BOTH
@pytest.mark.parametrize(
    ("host", "url", "reachable"),
    [
        ("0.0.0.0", "http://127.0.0.1", ["127.0.0.1"]),
        ("localhost", "http://localhost", ["127.0.0.1"]),
        pytest.param("::1", "http://[::1]", ["::1"], marks=needs_ipv6),
        pytest.param("::", "http://[::1]", ["::1", "127.0.0.1"], marks=needs_ipv6),
    ],
)
def test_url_is_one_that_works_here(
    start: Start, implementation: Implementation, host: str, url: str, reachable: list[str]
) -> None:
    running = start(implementation, host=host)
    assert running.url == f"{url}:{running.port}"
    for address in reachable:
        assert running.get(host=address)[2] == running.url


@BOTH
def test_app_that_refuses_to_start_says_why_in_one_sentence(
    start: Start, implementation: Implementation, tmp_path: Path
) -> None:
    (tmp_path / "refuse").touch()
    running = start(implementation, 2, ready=False)
    assert running.ends() == 1
    assert running.rest_of_stdout() == b""
    lines = [line for line in running.stderr().splitlines() if line != "noise on stdout"]
    assert lines == ["error: The database is away; bring it back."]


@BOTH
def test_app_that_breaks_at_start_ends_the_server(
    start: Start, implementation: Implementation, tmp_path: Path
) -> None:
    (tmp_path / "break").touch()
    running = start(implementation, 2, ready=False)
    assert running.ends() == 1
    assert running.rest_of_stdout() == b""
    assert "RuntimeError: the app is broken" in running.stderr()


# --- Dying ---


@BOTH
@ONE_AND_TWO
def test_killed_server_is_gone_and_starts_again_on_its_port(
    start: Start, implementation: Implementation, workers: int
) -> None:
    first = start(implementation, workers)
    idle_connection(first)
    half_upload(first)
    pids = first.workers()
    first.process.kill()
    first.process.wait()
    second = start(implementation, workers, port=first.port)
    assert second.get()
    until(lambda: not any(is_alive(pid) for pid in pids))


@BOTH
@ONE_AND_TWO
def test_killed_workers_are_replaced(start: Start, implementation: Implementation, workers: int) -> None:
    running = start(implementation, workers)
    for _ in range(2):
        before = running.workers()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        until(lambda before=before: not before & running.workers())  # type: ignore[misc]
        # A request that comes in between waits.
        assert int(running.get()[0]) not in before
        until(lambda: len(running.workers()) == workers)
    assert running.process.poll() is None
    assert running.stderr().count("a worker ended with signal 9") == 2 * workers


@BOTH
def test_workers_that_cannot_start_any_more_end_the_server(
    start: Start, implementation: Implementation, tmp_path: Path
) -> None:
    running = start(implementation, 2)
    (tmp_path / "break").touch()
    victim, other = running.workers()
    os.kill(victim, signal.SIGKILL)
    assert running.ends() == 1
    assert running.stderr().count("RuntimeError: the app is broken") == 5
    assert running.marked("stopped") == {other}


# --- Stopping ---


@pytest.mark.parametrize(
    ("number", "whole_group", "workers"),
    [
        (signal.SIGTERM, False, 1),
        (signal.SIGTERM, True, 1),
        (signal.SIGTERM, False, 2),
        (signal.SIGTERM, True, 2),
        (signal.SIGINT, False, 1),
        (signal.SIGINT, True, 2),
    ],
)
@BOTH
def test_stop_answers_what_is_in_flight(
    start: Start, implementation: Implementation, number: signal.Signals, whole_group: bool, workers: int
) -> None:
    running = start(implementation, workers)
    pids = running.workers()
    upload = half_upload(running)
    # Whole headers of one that has sent nothing yet, half of those of another.
    head = running.connect("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n")
    idle = idle_connection(running)

    (os.killpg if whole_group else os.kill)(running.pid, number)
    until(lambda: not running.is_listening())
    assert idle.recv(1) == b""
    head.sendall(b"\r\nabc")
    assert answer_on(head)[1].split()[1] == b"3"
    assert running.process.poll() is None
    upload.sendall(BODY[len(BODY) // 2 :])
    status, answer = answer_on(upload)
    assert (status, answer.split()[1]) == (200, b"%d" % len(BODY))

    assert running.ends(2) == 0
    assert running.rest_of_stdout() == b""
    assert running.marked("stopped") == pids
    assert sorted(running.stderr().splitlines()) == [f"hint: {running.url}"] + ["noise on stdout"] * workers


@BOTH
@ONE_AND_TWO
def test_stuck_upload_is_cut_after_the_grace(
    start: Start, implementation: Implementation, workers: int
) -> None:
    running = start(implementation, workers, grace_s=1)
    pids = running.workers()
    half_upload(running)
    at = time.monotonic()
    running.process.terminate()
    assert running.ends() == 0
    assert 1 <= time.monotonic() - at < 2.5
    assert running.marked("stopped") == pids
    assert running.stderr().count("requests that did not end within 1 s are cut") == 1
    assert "Traceback" not in running.stderr()


@BOTH
def test_second_ctrl_c_ends_at_once(start: Start, implementation: Implementation) -> None:
    running = start(implementation, 2)
    half_upload(running)
    os.killpg(running.pid, signal.SIGINT)
    until(lambda: not running.is_listening())
    with pytest.raises(subprocess.TimeoutExpired):
        running.ends(0.6)  # what comes earlier is taken for the same key press
    os.killpg(running.pid, signal.SIGINT)
    assert running.ends(1) == 130
    assert "Traceback" not in running.stderr()


@BOTH
def test_signal_while_starting_stops(start: Start, implementation: Implementation, tmp_path: Path) -> None:
    running = start(implementation, 2, ready=False)
    until(lambda: bool(running.workers()))
    os.killpg(running.pid, signal.SIGTERM)
    assert running.ends() == 0
    assert running.marked("started") == running.marked("stopped")
    assert "Traceback" not in running.stderr()


# --- HTTP ---


def test_body_of_a_put_that_offers_an_upgrade_arrives(running: Running) -> None:
    connection = running.connect(
        f"PUT / HTTP/1.1\r\nHost: x\r\n{CARGO_UPGRADE}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY
    )
    status, answer = answer_on(connection)
    assert (status, answer.split()[1]) == (200, b"%d" % len(BODY))
    assert "pgrade" not in running.stderr()


def test_client_that_expects_100_continue_gets_it(running: Running) -> None:
    connection = half_upload(running)
    connection.sendall(BODY[len(BODY) // 2 :])
    assert answer_on(connection)[1].split()[1] == b"%d" % len(BODY)


@pytest.mark.parametrize(
    ("lengths", "statuses"),
    [
        # RFC 9112, 6.3: refuse it or go by Transfer-Encoding, and close the connection in any case.
        ("Content-Length: 3\r\nTransfer-Encoding: chunked", {"granian": b"200", "uvicorn": b"400"}),
        ("Transfer-Encoding: chunked\r\nContent-Length: 3", {"granian": b"200", "uvicorn": b"400"}),
        ("Content-Length: 3\r\nContent-Length: 4", {"granian": b"400", "uvicorn": b"400"}),
    ],
)
def test_no_request_hides_behind_one_with_two_lengths(
    running: Running, lengths: str, statuses: dict[str, bytes]
) -> None:
    first = f"PUT / HTTP/1.1\r\nHost: x\r\n{lengths}\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    connection = running.connect(f"{first}GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n")
    with connection.makefile("rb") as answers:
        everything = answers.read()
    assert everything.count(b"HTTP/1.1 ") == 1
    assert everything.split()[1] == statuses[running.implementation]


def test_exception_of_the_app_is_a_500_and_a_traceback_on_stderr(running: Running) -> None:
    assert answer_on(running.connect("GET /raise HTTP/1.1\r\nHost: x\r\n\r\n"))[0] == 500
    until(lambda: "RuntimeError: the app is wrong here" in running.stderr())


def test_what_is_at_hand_is_answered_while_the_event_loop_is_stuck(start: Start, tmp_path: Path) -> None:
    (tmp_path / "at once").touch()
    (tmp_path / "body").write_bytes(BODY)
    running = start()
    connection = running.connect("GET /at-once HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer_on(connection) == (200, b"at once")
    stuck = running.connect("GET /stuck HTTP/1.1\r\nHost: x\r\n\r\n")
    time.sleep(0.2)
    at = time.monotonic()
    for _ in range(3):  # on one connection, also after what the app was asked for
        connection.sendall(b"GET /at-once HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer_on(connection) == (200, b"at once")
        connection.sendall(b"GET /file HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer_on(connection) == (200, BODY)
    assert time.monotonic() - at < 1.5
    connection.sendall(b"GET /else HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer_on(connection)[1].split()[-1] == b"called"
    assert answer_on(stuck)[1].split()[-1] == b"called"
    running.process.terminate()
    assert running.ends() == 0
    assert "Traceback" not in running.stderr()
