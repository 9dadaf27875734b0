"""A client of the registry for tests that kill the server: it knows an answer from none."""

import hashlib
import http.client
import json
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.crates import crate_file, metadata, publish_body


class NoAnswer(Exception):
    """The connection ended before the whole answer was there: nobody knows what became of the request."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def refusal(self) -> str:
        """Return what cargo would print; it must be the form it knows."""
        (error,) = self.json()["errors"]
        detail = error["detail"]
        assert isinstance(detail, str)
        assert detail
        assert "/" not in detail.replace("`", ""), "no paths"
        return detail


class Client:
    """One user on one connection, which is made anew when it was lost. Use in one thread."""

    def __init__(self, url: str, token: str = "", timeout_s: float = 40) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self.connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
        self.token = token

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send a request and return the answer.

        Raises:
            NoAnswer: there was none, or not all of it.
        """
        try:
            self.connection.request(method, path, body, {"Authorization": self.token, **(headers or {})})
            response = self.connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            answer = Answer(response.status, found, response.read())
            if answer.status >= 400 and body:
                # Refused before all of it was read: the server may have closed the connection.
                self.connection.close()
            return answer
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            raise NoAnswer(f"{method} {path}") from error

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def publish(self, name: str, vers: str = "1.0.0", tarball: bytes | None = None) -> Answer:
        body = publish_body(metadata(name, vers), tarball if tarball is not None else crate_file(name, vers))
        return self.ask("PUT", "/api/v1/crates/new", body)

    def yank(self, name: str, vers: str = "1.0.0") -> Answer:
        return self.ask("DELETE", f"/api/v1/crates/{name}/{vers}/yank")

    def unyank(self, name: str, vers: str = "1.0.0") -> Answer:
        return self.ask("PUT", f"/api/v1/crates/{name}/{vers}/unyank")

    def set_yanked(self, name: str, vers: str, yanked: bool) -> Answer:
        return self.yank(name, vers) if yanked else self.unyank(name, vers)

    def set_owner(self, name: str, login: str, owns: bool) -> Answer:
        body = json.dumps({"users": [login]}).encode()
        return self.ask("PUT" if owns else "DELETE", f"/api/v1/crates/{name}/owners", body)

    def owners(self, name: str) -> set[str]:
        answer = self.get(f"/api/v1/crates/{name}/owners")
        assert answer.status == 200, answer.body
        return {user["login"] for user in answer.json()["users"]}

    def lines(self, name: str) -> dict[str, dict[str, Any]]:
        """Return the index lines of a crate by version, none if there is no such crate."""
        answer = self.get(f"/index/{index_path(name)}")
        if answer.status == 404:
            return {}
        assert answer.status == 200, answer.body
        assert answer.body.endswith(b"\n"), "a torn index file"
        lines = [json.loads(line) for line in answer.body.splitlines()]
        assert len({line["vers"] for line in lines}) == len(lines)
        return {line["vers"]: line for line in lines}

    def download(self, name: str, vers: str = "1.0.0") -> Answer:
        return self.get(f"/api/v1/crates/{name}/{vers}/download")

    def is_whole(self, name: str, vers: str, cksum: str) -> bool:
        """Return whether the tarball that is served has this checksum."""
        answer = self.download(name, vers)
        return answer.status == 200 and sha256(answer.body) == cksum


def index_path(name: str) -> str:
    """https://doc.rust-lang.org/cargo/reference/registry-index.html#index-files"""
    name = name.lower()
    if len(name) < 3:
        return f"{len(name)}/{name}"
    return f"3/{name[0]}/{name}" if len(name) == 3 else f"{name[:2]}/{name[2:4]}/{name}"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
