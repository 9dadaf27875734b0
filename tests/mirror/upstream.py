"""An upstream that does what it is told: a sparse registry over plain HTTP that can be slow, cut off, gone or wrong.

Its lines are written by hand here, after the Cargo book, not by the package under test.
"""

import hashlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.crates import crate_file


@dataclass
class Asked:
    """One request that came in."""

    method: str
    path: str
    headers: dict[str, str]
    at: float = field(default_factory=time.monotonic)


Behaviour = Callable[["Handler"], bool]
"""Answers a request in its own way and returns True, or returns False."""


def after(seconds: float) -> Behaviour:
    """Answer as usual, but late."""

    def wait(handler: "Handler") -> bool:
        time.sleep(seconds)
        return False

    return wait


class Upstream:
    """Listens on a free port, or the one given. Use as a context manager."""

    def __init__(self, *, token: str = "", port: int = 0) -> None:
        self.token = token
        self.asked: list[Asked] = []
        self.files: dict[str, bytes] = {}
        self.lines: dict[str, dict[str, bytes]] = defaultdict(dict)
        self.behaviour: dict[str, Behaviour] = {}
        self.everywhere: Behaviour | None = None
        self.dl = ""
        self._listen(port)

    def _listen(self, port: int) -> None:
        outer = self

        class Bound(Handler):
            upstream = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Bound)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def index_url(self) -> str:
        return f"sparse+{self.url}/index/"

    def stop(self) -> None:
        """Refuse connections from now on, and end those that are open."""
        self.everywhere = lambda handler: handler.hang_up()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def start(self) -> None:
        """Listen again, at the same port."""
        self.everywhere = None
        self._listen(self.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def add(self, name: str, vers: str, *, data: bytes | None = None, **more: Any) -> bytes:
        """Have a version, and return its tarball; `more` are keys of its line, in place of the usual."""
        data = crate_file(name, vers) if data is None else data
        line = {
            "name": name,
            "vers": vers,
            "deps": [],
            "cksum": hashlib.sha256(data).hexdigest(),
            "features": {},
            "yanked": False,
            "pubtime": "2020-01-01T00:00:00Z",
        } | more
        line = {key: value for key, value in line.items() if value is not None}
        # Not compact, so that bytes of our own making would show.
        self.lines[name][vers] = json.dumps(line).encode()
        self.files[f"/crates/{name}/{vers}/download"] = data
        self.write(name)
        return data

    def change(self, name: str, vers: str, **keys: Any) -> None:
        """Say something else of a version."""
        self.lines[name][vers] = json.dumps(json.loads(self.lines[name][vers]) | keys).encode()
        self.write(name)

    def remove(self, name: str, vers: str | None = None) -> None:
        """Have a version, or a crate, no more."""
        for gone in [vers] if vers else list(self.lines[name]):
            del self.lines[name][gone]
            self.files.pop(f"/crates/{name}/{gone}/download", None)
        self.write(name)

    def write(self, name: str) -> None:
        path = index_path(name)
        if self.lines[name]:
            self.files[path] = b"".join(line + b"\n" for line in self.lines[name].values())
        else:
            self.files.pop(path, None)

    def index_file(self, name: str) -> bytes:
        return self.files[index_path(name)]

    def count(self, part: str) -> int:
        """Return how many requests there were for paths that contain this."""
        return sum(part in asked.path for asked in self.asked)


def index_path(name: str) -> str:
    lower = name.lower()
    match len(lower):
        case 1 | 2 as length:
            return f"/index/{length}/{lower}"
        case 3:
            return f"/index/3/{lower[0]}/{lower}"
    return f"/index/{lower[:2]}/{lower[2:4]}/{lower}"


class Handler(BaseHTTPRequestHandler):
    upstream: Upstream
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        pass

    def do_HEAD(self) -> None:
        self._any()

    def do_GET(self) -> None:
        self._any()

    def _any(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        up = self.upstream
        up.asked.append(Asked(self.command, self.path, headers))
        try:
            for behaviour in (up.everywhere, up.behaviour.get(self.path)):
                if behaviour is not None and behaviour(self):
                    return
            self.usual()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def usual(self) -> bool:
        """Answer as a registry does."""
        up = self.upstream
        if up.token and self.headers.get("authorization") != up.token:
            return self.answer(401, b"no")
        if self.path == "/index/config.json":
            return self.answer(200, json.dumps({"dl": up.dl or f"{up.url}/crates"}).encode())
        data = up.files.get(self.path)
        if data is None:
            return self.answer(404, b"not here")
        etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        if self.headers.get("if-none-match") == etag:
            return self.answer(304, b"", etag=etag)
        wanted = self.headers.get("range")
        if wanted and self.headers.get("if-range", etag) == etag:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            return self.answer(
                206,
                data[start:],
                etag=etag,
                content_range=f"bytes {start}-{len(data) - 1}/{len(data)}",
            )
        return self.answer(200, data, etag=etag)

    def answer(self, status: int, data: bytes, *, cut: int | None = None, **headers: str) -> bool:
        """Send an answer; with `cut`, only as many bytes of it, and then hang up."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if status != 304:
            self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data if cut is None else data[:cut])
        if cut is not None:
            return self.hang_up()
        return True

    def hang_up(self) -> bool:
        self.close_connection = True
        self.connection.close()
        return True
