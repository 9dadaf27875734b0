"""Listens between cargo and the server, passes every byte on as it is, and keeps what both said."""

import contextlib
import socket
import threading
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer, as they went over the wire."""

    method: str
    target: str
    headers: Message
    body: bytes
    status: int
    answer_headers: Message
    answer: bytes


class Recorder:
    """A TCP proxy on loopback. `url` is known at once; `forward` says where to."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._upstream: tuple[str, int] = ("127.0.0.1", 0)
        self._threads: list[threading.Thread] = []
        self._connections: list[tuple[bytearray, bytearray]] = []

    def forward(self, port: int) -> None:
        """Begin to pass connections on to a port of this machine."""
        self._upstream = ("127.0.0.1", port)
        self._start(self._accept)

    def exchanges(self) -> list[Exchange]:
        """Return what was said and answered so far, connection by connection, each in order."""
        return [
            exchange
            for requests, answers in list(self._connections)
            for exchange in _exchanges(bytes(requests), bytes(answers))
        ]

    def forget(self) -> None:
        """Forget what was said on connections so far. For tests: between two commands of cargo."""
        self._connections.clear()

    def close(self) -> None:
        """Stop listening, and wait for what is still open."""
        # Wakes the thread that waits in accept(); closing alone would not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._upstream)
            except ConnectionRefusedError:
                client.close()
                continue
            said: tuple[bytearray, bytearray] = (bytearray(), bytearray())
            self._connections.append(said)
            self._start(_converse, client, server, said)


def _converse(client: socket.socket, server: socket.socket, said: tuple[bytearray, bytearray]) -> None:
    back = threading.Thread(target=_copy, args=(server, client, said[1]), daemon=True)
    back.start()
    _copy(client, server, said[0])
    back.join()
    client.close()
    server.close()


def _copy(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            kept += piece
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _exchanges(requests: bytes, answers: bytes) -> list[Exchange]:
    """Take two streams of HTTP/1.1 apart; what is not complete is left out."""
    found = []
    while (request := _message(requests)) is not None:
        (method, target, _), headers, rest = request
        size = int(headers["content-length"] or 0)
        body, requests = rest[:size], rest[size:]
        while (answered := _message(answers)) is not None and answered[0][1].startswith("1"):
            answers = answered[2]  # 100 Continue
        if answered is None:
            break
        status, answer_headers, rest = answered
        size = 0 if status[1] == "304" or method == "HEAD" else int(answer_headers["content-length"] or 0)
        answer, answers = rest[:size], rest[size:]
        found.append(Exchange(method, target, headers, body, int(status[1]), answer_headers, answer))
    return found


def _message(stream: bytes) -> tuple[list[str], Message, bytes] | None:
    """Return the words of the first line, the headers, and what follows; None at the end of the stream."""
    head, end, rest = stream.partition(b"\r\n\r\n")
    if not end:
        return None
    first, _, fields = head.partition(b"\r\n")
    return first.decode("latin-1").split(" ", 2), BytesParser().parsebytes(fields, headersonly=True), rest
