import http.client
import io
import json
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cargo_registry.cli import main
from tests.crates import crate_file, metadata, publish_body
from tests.programs import Server
from tests.storage.conftest import small_disk

__all__ = ["small_disk"]

# One at the root of the site and two below their names; who may read differs.
SITE = """
[registries.main]
[registries.other]
[registries.secret]
access = "auth-required"
[limits]
rate_limits = false
max_crate_mib = 1
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, to the letter."""

    status: int
    headers: list[tuple[str, str]]  # names in lower case
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the one header of this name."""
        found = [value for key, value in self.headers if key == name]
        assert len(found) < 2, f"{name} came {len(found)} times"
        return found[0] if found else None

    def json(self) -> Any:
        assert self.header("content-type") == "application/json"
        return json.loads(self.body)

    def detail(self) -> str:
        """Return the one error, in the form that cargo prints."""
        (error,) = self.json()["errors"]
        detail = error["detail"]
        assert isinstance(detail, str)
        # A sentence that shows nothing of the machine.
        assert detail
        assert not detail.startswith(("{", "<"))
        for leak in ("/tmp", "Traceback", "sqlite", "crates_storage", "index_data", ".py"):
            assert leak not in detail
        return detail

    def without_date(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """Return what two equal answers have in common."""
        return self.status, sorted(pair for pair in self.headers if pair[0] != "date"), self.body


def connect(server: Server, sent: bytes = b"") -> socket.socket:
    """Return a connection on which `sent` was sent."""
    connection = socket.create_connection(
        ("127.0.0.1", int(server.direct_url.rpartition(":")[2])), timeout=20
    )
    connection.sendall(sent)
    return connection


def answer(connection: socket.socket, method: str = "GET") -> Answer:
    """Read one answer from a connection."""
    response = http.client.HTTPResponse(connection, method=method)
    response.begin()
    headers = [(name.lower(), value) for name, value in response.getheaders()]
    return Answer(response.status, headers, response.read())


def ask(
    server: Server,
    target: str | bytes,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: bytes | None = None,
    token: str | None = None,
) -> Answer:
    """Send exactly this target and these headers, and return the answer. Nothing is normalised or added."""
    if isinstance(target, str):
        target = target.encode("latin-1")
    fields = list(headers.items() if isinstance(headers, Mapping) else headers)
    fields = [("Host", "x"), ("Connection", "close"), *fields]
    if token is not None:
        fields.append(("Authorization", token))
    if body is not None:
        fields.append(("Content-Length", str(len(body))))
    head = b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in fields)
    with connect(server, method.encode() + b" " + target + b" HTTP/1.1\r\n" + head + b"\r\n") as connection:
        if body:
            connection.sendall(body)
        return answer(connection, method)


def publish(
    server: Server,
    token: str | None,
    name: str,
    vers: str = "1.0.0",
    *,
    base: str = "",
    tarball: bytes | None = None,
    body: bytes | None = None,
    **more: Any,
) -> Answer:
    """Publish as cargo does; `base` is the path of the registry."""
    if body is None:
        body = publish_body(metadata(name, vers, **more), tarball or crate_file(name, vers))
    return ask(server, f"{base}/api/v1/crates/new", method="PUT", body=body, token=token)


def published(server: Server, token: str, name: str, vers: str = "1.0.0", **more: Any) -> None:
    """Publish, and make sure that it went well."""
    answered = publish(server, token, name, vers, **more)
    assert answered.status == 200, answered.body


def stored(server: Server) -> set[str]:
    """Return every file below the data folders, also those in the making; not locks, which are empty."""
    return {
        path.relative_to(server.data_dir).as_posix()
        for folder in ("crates_storage", "index_data")
        for path in (server.data_dir / folder).rglob("*")
        if path.is_file() and ".locks" not in path.parts
    }


class Site(Server):
    """A server whose operator's commands run in the test's own process: a start of Python takes half a second.

    For the data it is the same, another process. What a command prints and how it exits is tested in `tests/cli`.
    """

    def cli(
        self, *arguments: str | Path, fails: bool = False, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        assert not fails
        assert not stdin
        data = ["--data-dir", str(self.data_dir), "--config", str(self.data_dir / "config.toml")]
        command = [*map(str, arguments), *data]
        with redirect_stdout(io.StringIO()) as stdout, redirect_stderr(io.StringIO()) as stderr:
            code = main.app(command, standalone_mode=False) or 0
        assert code == 0, f"{command}\n{stdout.getvalue()}{stderr.getvalue()}"
        return subprocess.CompletedProcess(command, code, stdout.getvalue(), stderr.getvalue())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with three registries, shared by the tests of a module: `main`, `/other`, private `/secret`."""
    with Site(tmp_path_factory.mktemp("site"), SITE) as server:
        yield server


@pytest.fixture(scope="module", params=["granian", "uvicorn"])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """As `site`, once on each HTTP server."""
    folder: Path = tmp_path_factory.mktemp(f"site-{request.param}")
    with Site(folder, SITE, implementation=request.param) as server:
        yield server
