"""Requests that are garbage, to the letter, on both servers: 4xx or a closed connection, and the server goes on."""

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.programs import Server
from tests.web.conftest import SITE, ask, connect, published

HOST = b"Host: x\r\nConnection: close\r\n"
PUT = b"PUT /api/v1/crates/new HTTP/1.1\r\n" + HOST
GET = b"GET /healthz HTTP/1.1\r\n" + HOST


@pytest.fixture(scope="module", params=["granian", "uvicorn"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("garbage"), SITE, implementation=request.param) as server:
        published(server, server.token("alice"), "alpha")
        yield server
        # `stop` looks for tracebacks; these would be about a request, too.
        assert "ERROR" not in server.stderr(), server.stderr()


def raw(server: Server, sent: bytes) -> list[int]:
    """Send bytes and nothing after them; return the status of each answer until the server closes."""
    with connect(server) as connection:
        with suppress(OSError):  # closed in the middle of what was too much
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        received = b""
        with suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                received += piece
    lines = [line for line in received.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    return [int(line.split()[1]) for line in lines]


CHUNKED = PUT + b"Transfer-Encoding: chunked\r\n"

# Two parsers could read these differently: where one of them sees another end, a second request hides behind.
SMUGGLING = {
    "two lengths": PUT + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "list of two lengths": PUT + b"Content-Length: 4, 5\r\n\r\nabcde",
    "length with a sign": PUT + b"Content-Length: +4\r\n\r\nabcd",
    "negative length": PUT + b"Content-Length: -1\r\n\r\nabcd",
    "length in hex": PUT + b"Content-Length: 0x4\r\n\r\nabcd",
    "length with a space": PUT + b"Content-Length: 4 4\r\n\r\nabcd",
    "length beyond 2^64": PUT + b"Content-Length: 99999999999999999999999\r\n\r\nabcd",
    "empty length": PUT + b"Content-Length: \r\n\r\nabcd",
    "coding that is none": PUT + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "identity": PUT + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "chunked not last": PUT + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "space before the colon": PUT + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "control character before the coding": PUT + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "size of a chunk that is none": CHUNKED + b"\r\nzz\r\nabc\r\n0\r\n\r\n",
    "negative size of a chunk": CHUNKED + b"\r\n-1\r\nabc\r\n0\r\n\r\n",
    "size of a chunk in hex with 0x": CHUNKED + b"\r\n0x3\r\nabc\r\n0\r\n\r\n",
    "size of a chunk beyond 2^64": CHUNKED + b"\r\nffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "chunk longer than its size": CHUNKED + b"\r\n3\r\nabcX\r\n0\r\n\r\n",
    "chunks that end with a line feed": CHUNKED + b"\r\n3\nabc\n0\n\n",
    "chunks cut off": CHUNKED + b"\r\n3\r\nab",
    "header without a colon": GET + b"XA\r\n\r\n",
    "header with a space in its name": GET + b"X A: b\r\n\r\n",
    "header without a name": GET + b": b\r\n\r\n",
    "header with NUL": GET + b"X-A: a\0b\r\n\r\n",
    "header with a carriage return": GET + b"X-A: a\rb\r\n\r\n",
    "lines that end with a carriage return": b"GET /healthz HTTP/1.1\rHost: x\r\r",
    "no version": b"GET /healthz\r\n\r\n",
    "version in words": b"GET /healthz HTTP/one\r\n" + HOST + b"\r\n",
    "space in the target": b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
    "tab in the target": b"GET /a\tb HTTP/1.1\r\n" + HOST + b"\r\n",
    "NUL in the target": b"GET /a\0b HTTP/1.1\r\n" + HOST + b"\r\n",
    "control character in the target": b"GET /\x7f HTTP/1.1\r\n" + HOST + b"\r\n",
    "byte above ASCII in the target": b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n",
    "no target": b"GET  HTTP/1.1\r\n" + HOST + b"\r\n",
    "NUL in the method": b"G\0T / HTTP/1.1\r\n" + HOST + b"\r\n",
    "space before everything": b" GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "all bytes": bytes(range(256)) * 10,
    "zeros": bytes(10_000),
    "nothing": b"",
    "half a line": b"GET /hea",
    "half the headers": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A",
}


@pytest.mark.parametrize("what", SMUGGLING)
def test_what_two_could_read_differently_is_refused(server: Server, what: str) -> None:
    hidden = (
        b"GET /api/v1/crates/alpha HTTP/1.1\r\nHost: x\r\n\r\n"
        if what not in ("nothing", "half a line", "half the headers")
        else b""
    )
    answered = raw(server, SMUGGLING[what] + hidden)
    assert all(400 <= status < 500 for status in answered), answered
    assert len(answered) <= 1
    assert alive(server)


def test_length_and_chunks_together_hide_nothing(server: Server) -> None:
    """RFC 9112, 6.3: refused, or the chunks count and the connection is closed."""
    hidden = b"GET /api/v1/crates/alpha HTTP/1.1\r\nHost: x\r\n\r\n"
    for fields in (
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    ):
        request = b"PUT /api/v1/crates/new HTTP/1.1\r\nHost: x\r\n" + fields
        answered = raw(server, request + b"\r\n0\r\n\r\n" + hidden)
        assert answered in ([400], [401])
    assert alive(server)


LARGE = {
    "header of 2 MB": GET + b"X-A: " + b"a" * 2_000_000 + b"\r\n\r\n",
    "50,000 headers": GET + b"X-A: b\r\n" * 50_000 + b"\r\n",
    "header that never ends": GET + b"X-A: " + b"a" * 10_000_000,
    "target of 1 MB": b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "target of 100 KB": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "query of 1 MB": b"GET /api/v1/crates?" + b"q=a&" * 250_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "method of 1 MB": b"F" * 1_000_000 + b" / HTTP/1.1\r\n" + HOST + b"\r\n",
    "chunk extension of 1 MB": CHUNKED + b"\r\n3;" + b"a" * 1_000_000 + b"\r\nabc\r\n0\r\n\r\n",
    "trailers of 1 MB": CHUNKED + b"\r\n3\r\nabc\r\n0\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "length of an exabyte": PUT + b"Content-Length: 999999999999999999\r\n\r\nabcd",
}


@pytest.mark.parametrize("what", LARGE)
def test_what_is_too_large_is_refused_or_cut(server: Server, what: str) -> None:
    answered = raw(server, LARGE[what])
    assert all(400 <= status < 500 for status in answered), answered
    assert len(answered) <= 1
    assert alive(server)


@pytest.mark.parametrize(
    "method", ["FOO", "get", "PROPFIND", "TRACE", "CONNECT", "OPTIONS", "PATCH", "POST", "F" * 300]
)
@pytest.mark.parametrize(
    "target",
    [
        "/api/v1/crates/alpha",
        "/index/config.json",
        "/healthz",
        "/api/v1/crates/alpha/1.0.0/download",
        "/nothing",
    ],
)
def test_methods_that_a_path_does_not_have(server: Server, method: str, target: str) -> None:
    answer = ask(server, target, method=method)
    assert answer.status in (404, 405), answer.body
    assert (answer.header("allow") is not None) is (answer.status == 405)
    assert answer.detail().isprintable()


# --- Targets: odd forms of all parts ---

SEGMENTS = [
    *(
        "%",
        "%zz",
        "%0",
        "%00",
        "%0a",
        "%0d%0aX-A:%20b",
        "%1b[31m",
        "%7f",
        "%80",
        "%ff%fe",
        "%C0%AF",
        "%ED%A0%80",
        "%ED%B0%80",
    ),
    *(
        "%F0%9F%A6%80",
        "%2e%2e",
        "..",
        ".",
        "%2F",
        "%5C..",
        "%252e%252e",
        "a%2Fb",
        "a;b",
        "a,b",
        "*",
        "~",
        "'",
        "%22",
        "%3Cb%3E",
    ),
    *(
        "-1",
        "1e9",
        "%C2%B2",
        "%D9%A3",
        "a" * 5000,
        "%E2%80%AE",
        "%EF%BB%BF",
        "%u0041",
        "+",
        "%2B",
        "$%7B7*7%7D",
        "%00alpha",
    ),
]
TARGETS = [
    *(
        "/api/v1/crates/{}",
        "/api/v1/crates/{}/1.0.0",
        "/api/v1/crates/alpha/{}",
        "/api/v1/crates/alpha/{}/dependencies",
    ),
    *(
        "/api/v1/crates/{}/owners",
        "/api/v1/crates/alpha/{}/download",
        "/api/v1/crates/{}/1.0.0/download",
        "/index/{}",
    ),
    *(
        "/api/v1/crates/alpha/{}/readme",
        "/index/al/ph/{}",
        "/index/{}/ph/alpha",
        "/{}",
        "/{}/index/config.json",
        "/other/{}",
    ),
    *(
        "/api/{}",
        "/api/v1/crates/alpha/1.0.0/{}",
        "/api/v1/crates/{}/reverse_dependencies",
        "/api/v1/crates/{}/versions",
    ),
]
# What is refused would hide what comes after it.
PARAMETERS = [["q"], ["sort"], ["per_page"], ["page"], ["include", "nums[]", "nums[]", "seek", "ids[]", "x"]]


@pytest.mark.parametrize("target", TARGETS)
def test_odd_segments_are_a_4xx_and_show_nothing(server: Server, target: str) -> None:
    with one_connection(server) as ask_on:
        for segment in SEGMENTS:
            status, body = ask_on(target.format(segment))
            # An encoded slash is a slash, as cargo's own joining of URLs may leave one at the end.
            assert 400 <= status < 500 or segment == "%2F", (segment, status, body)
            for inside in (b"Traceback", b"/tmp", b"sqlite", b".py", b"crates_storage"):
                assert inside not in body


@pytest.mark.parametrize(
    "target",
    [
        "/api/v1/crates",
        "/api/v1/crates/alpha",
        "/api/v1/crates/alpha/versions",
        "/api/v1/crates/alpha/reverse_dependencies",
    ],
)
def test_odd_parameters_are_a_4xx_or_ignored(server: Server, target: str) -> None:
    with one_connection(server) as ask_on:
        for names in PARAMETERS:
            for value in SEGMENTS:
                status, body = ask_on(f"{target}?" + "&".join(f"{name}={value}" for name in names))
                assert status == 200 or 400 <= status < 500, (names, value, status, body)
        for query in (
            "&",
            "=",
            "==&&=",
            "%",
            "q",
            "q=%",
            "q=a" * 100,
            "&q=a" * 2000,
            "q=" + "a+" * 5000,
            "q=" + "%22" * 3000,
            "q=" + "%F0%9F%A6%80" * 1000,
        ):
            status, body = ask_on(f"{target}?{query}")
            assert status == 200 or 400 <= status < 500, (query[:50], status, body)


@pytest.mark.parametrize(
    "value",
    [
        *(
            "Basic \xe9",
            "Basic",
            "Basic =",
            "Basic YQ",
            "Basic //8=",
            "Bearer",
            "Bearer ",
            "",
            "\xff" * 100,
            "a" * 9000,
        ),
        *("crg_" + "0" * 48, "Basic " + "QQ" * 3000, "\tcrg_x", "Digest username=x", "crg_x, crg_y"),
    ],
)
def test_odd_tokens_are_a_401(server: Server, value: str) -> None:
    for target, method in (("/secret/index/config.json", "GET"), ("/api/v1/crates/new", "PUT")):
        assert ask(server, target, method=method, headers={"Authorization": value}).status == 401


def test_two_tokens_are_none(server: Server) -> None:
    good = server.token("alice")
    for values in ((good, "crg_x"), ("crg_x", good), (good, good)):
        headers = [("Authorization", value) for value in values]
        assert ask(server, "/secret/index/config.json", headers=headers).status == 401


@pytest.mark.parametrize(
    "target",
    [
        "http://x/healthz",
        "http://evil.example/api/v1/crates/alpha",
        "https://x",
        "x://y",
        "*",
        "healthz",
        "alpha:443",
        "/healthz#x",
        "//x/healthz",
        "?",
        "/?",
    ],
)
def test_other_forms_of_a_target(server: Server, target: str) -> None:
    """RFC 9112, 3.2.2: a server takes the absolute form; either way nothing breaks."""
    assert ask(server, target).status in (200, 301, 400, 404)
    assert alive(server)


def test_http2_that_is_garbage(server: Server) -> None:
    raw(server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(range(256)) * 100)
    raw(server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" * 1000)
    assert alive(server)


# --- The slow ---


def test_slow_clients_do_not_slow_the_others(server: Server) -> None:
    token = server.token("alice").encode()
    starts = [
        b"GET /heal",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n",
        PUT + b"Authorization: " + token + b"\r\nContent-Length: 1000\r\n\r\n",
        PUT + b"Authorization: " + token + b"\r\nContent-Length: 1000\r\n\r\n\x10\0\0\0{",
        CHUNKED + b"Authorization: " + token + b"\r\n\r\n3",
    ]
    slow = [connect(server, start) for start in starts * 20]
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.02):
            for connection in slow:
                with suppress(OSError):
                    connection.send(b"0")

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        at = time.monotonic()
        for number in range(20):
            assert alive(server)
            published(server, token.decode(), f"quick-{number}")
        assert time.monotonic() - at < 10
    finally:
        stop.set()
        dripping.join()
        for connection in slow:
            connection.close()


def test_client_that_does_not_read_holds_nobody_up(server: Server) -> None:
    stuck = [
        connect(server, b"GET /api/v1/crates/alpha HTTP/1.1\r\nHost: x\r\n\r\n" * 500) for _ in range(10)
    ]
    try:
        at = time.monotonic()
        for _ in range(20):
            assert alive(server)
        assert time.monotonic() - at < 10
    finally:
        for connection in stuck:
            connection.close()


def alive(server: Server) -> bool:
    return ask(server, "/healthz").status == 200


class one_connection:  # noqa: N801
    """Asks many things on one connection, made anew when the server closes it."""

    def __init__(self, server: Server) -> None:
        self._port = int(server.direct_url.rpartition(":")[2])

    def __enter__(self) -> "one_connection":
        self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        return self

    def __exit__(self, *_error: object) -> None:
        self._connection.close()

    def __call__(self, target: str) -> tuple[int, bytes]:
        self._connection.putrequest("GET", target, skip_host=True, skip_accept_encoding=True)
        self._connection.putheader("Host", "x")
        self._connection.endheaders()
        response = self._connection.getresponse()
        return response.status, response.read()
