"""Requests of all kinds against a real server: `python -m fuzz.api --seconds 60`.

Each is a valid request with some parts exchanged for odd ones, or with some of its bytes changed. Nothing may
be answered with 5xx, take longer than 5 s, put a traceback into the log, show anything of the inside, or let the
server grow.
"""

import argparse
import contextlib
import http.client
import json
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.crates import crate_file, metadata, publish_body
from tests.programs import Server

_CONFIG = """
[registries.main]
[registries.other]
[registries.secret]
access = "auth-required"
[limits]
rate_limits = false
max_crate_mib = 1
"""
_HANG_S = 5
_MAX_GROWTH_MIB = 96
_LEAKS = (b"Traceback", b"/tmp", b"sqlite", b"crates_storage", b".py", b"site-packages")

_METHODS = [
    "GET",
    "GET",
    "GET",
    "HEAD",
    "PUT",
    "POST",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "FOO",
    "get",
    "CONNECT",
    "TRACE",
]
_NAMES = ["alpha", "Alpha", "beta-two", "beta_two", "new", "check", "gone", "nul", "std"]
_VERSIONS = ["1.0.0", "1.0.0+a", "2.0.0-rc.1", "0.0.0", "01.0.0", "1", "latest", "99999999999999999999.0.0"]
_ODD = [
    *(
        "",
        ".",
        "..",
        "%2e%2e",
        "%2F",
        "%5C",
        "%00",
        "%0a",
        "%0d%0aX:1",
        "%",
        "%zz",
        "%C3%A9",
        "%ff%fe",
        "%ED%A0%80",
    ),
    *(
        "%F0%9F%A6%80",
        "a" * 65,
        "a" * 3000,
        "-1",
        "0",
        "1e9",
        "abc",
        "%C2%B2",
        "%D9%A3",
        "1000000000000",
        "true",
    ),
    *(
        "null",
        "[]",
        "{}",
        "'",
        '"',
        "%22%3Cscript%3E",
        "*",
        "%25",
        "+",
        "%2B",
        ";",
        "a;b",
        "$(id)",
        "{name}",
        "~",
    ),
    *(
        "NEAR(a)",
        "a%20OR%20b",
        "a*",
        "^a",
        "%22a",
        "-a",
        "a:b",
        "%E2%80%AE",
        "a%1bb",
        "1,2",
        "18446744073709551616",
    ),
]
_ROUTES = [
    *(
        "/index/config.json",
        "/index/al/ph/alpha",
        "/index/3/a/abc",
        "/index/be/ta/beta-two",
        "/me",
        "/healthz",
        "/",
    ),
    *("/api/v1/crates", "/api/v1/crates/{n}", "/api/v1/crates/{n}/versions", "/api/v1/crates/{n}/downloads"),
    *("/api/v1/crates/{n}/owners", "/api/v1/crates/{n}/owner_user", "/api/v1/crates/{n}/owner_team"),
    *(
        "/api/v1/crates/{n}/reverse_dependencies",
        "/api/v1/crates/{n}/{v}",
        "/api/v1/crates/{n}/{v}/dependencies",
    ),
    *("/api/v1/crates/{n}/{v}/downloads", "/api/v1/crates/{n}/{v}/readme", "/api/v1/crates/{n}/{v}/download"),
    *(
        "/api/v1/crates/{n}/{v}/yank",
        "/api/v1/crates/{n}/{v}/unyank",
        "/api/v1/crates/new",
        "/api/v1/crates/check",
    ),
    *("/api/v1/crates/{n}/{v}/authors", "/api/v1/summary", "/api/v1/keywords", "/api/v1", "/api"),
]
_PARAMS = [
    "q",
    "per_page",
    "page",
    "sort",
    "include",
    "nums[]",
    "seek",
    "ids[]",
    "letter",
    "before_date",
    "x",
]
_VALUES = [
    "alpha",
    "10",
    "1",
    "2",
    "semver",
    "date",
    "downloads",
    "recent-downloads",
    "relevance",
    "versions,full",
]
_HEADERS = [
    *("Accept", "Accept-Encoding", "If-None-Match", "If-Modified-Since", "Range", "If-Range", "Content-Type"),
    *(
        "Authorization",
        "X-Forwarded-For",
        "Forwarded",
        "Host",
        "Expect",
        "Cookie",
        "Origin",
        "Upgrade",
        "TE",
        "Via",
    ),
    *(
        "User-Agent",
        "Content-Encoding",
        "X-Http-Method-Override",
        "Cargo-Protocol",
        "Traceparent",
        "Transfer-Encoding",
    ),
]
_HEADER_VALUES = [
    *(
        "application/json",
        "gzip",
        "gzip;q=0",
        "gzip;q=nan",
        "*",
        "identity;q=0, *;q=0",
        '"x"',
        'W/"x"',
        "bytes=0-0",
    ),
    *(
        "bytes=-1",
        "bytes=5-1",
        "bytes=0-,5-",
        "bytes=99999999999999999999-",
        "Basic é",
        "Basic YTpi",
        "Bearer x",
        "crg_x",
    ),
    *(
        "100-continue",
        "h2c",
        "websocket",
        "chunked",
        "1.2.3.4",
        "::1, fe80::1%eth0",
        "a" * 9000,
        "\xff\xfe",
        "",
        ",,,,",
    ),
    *(
        "text/html",
        "application/json;q=1e999",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "trailers",
        "Basic",
        "Bearer",
        " ",
    ),
]


@dataclass
class Run:
    """What has been tried and seen."""

    requests: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0
    findings: list[str] = field(default_factory=list)


class Fuzzer:
    """Makes requests from a seeded chance, sends them, and looks at the answers."""

    def __init__(self, server: Server, chance: random.Random) -> None:
        self._server = server
        self._address = ("127.0.0.1", int(server.direct_url.rpartition(":")[2]))
        self._chance = chance
        self._tokens = [server.token("alice"), server.token("bob")]
        self._count = 0
        self.run = Run()

    def prepare(self) -> None:
        """Publish what the requests are about."""
        for base in ("", "/other", "/secret"):
            for name, vers in (
                ("alpha", "1.0.0"),
                ("alpha", "2.0.0-rc.1"),
                ("beta-two", "1.0.0"),
                ("abc", "1.0.0"),
            ):
                files = {"src/lib.rs": b"", "README.md": b"# hi\n<script>x</script>\n" * 50}
                body = publish_body(metadata(name, vers), crate_file(name, vers, files=files))
                headers = {"authorization": self._tokens[0]}
                answer = self._server.http.put(f"{base}/api/v1/crates/new", content=body, headers=headers)
                assert answer.status_code == 200, answer.text
        owners = {"users": ["bob"]}
        url = "/api/v1/crates/alpha/owners"
        assert self._server.http.put(url, json=owners, headers=headers).status_code == 200

    def step(self) -> None:
        """Send one request."""
        method, sent = self._request()
        mutated = self._chance.random() < 0.15
        if mutated:
            sent = self._mutate(sent)
        started = time.monotonic()
        # What may be cut short, or promises more than there is, shall not be waited for.
        status, body = self._send(method, sent, ends=mutated or b"Transfer-Encoding" in sent)
        took = time.monotonic() - started
        self.run.requests += 1
        self.run.statuses[status] += 1
        self.run.slowest_s = max(self.run.slowest_s, took)
        if status[0] == "5" or took > _HANG_S or any(leak in body for leak in _LEAKS):
            self._note(f"{status} in {took:.1f} s: {sent[:3000]!r} -> {body[:500]!r}")
        elif status[0] == "4" and not mutated and method != "HEAD" and body[:1] == b"{":
            detail = json.loads(body)["errors"][0]["detail"]
            if not detail.isprintable():
                self._note(f"unprintable {detail!r}: {sent[:3000]!r}")

    def _note(self, text: str) -> None:
        if len(self.run.findings) < 20:
            self.run.findings.append(text)

    def _request(self) -> tuple[str, bytes]:
        pick = self._chance.choice
        route = pick(_ROUTES)
        target = pick(["", "", "", "/other", "/secret", "/nowhere"]) + route
        for placeholder, usual in (("{n}", _NAMES), ("{v}", _VERSIONS)):
            target = target.replace(placeholder, pick(_ODD if self._chance.random() < 0.3 else usual))
        if self._chance.random() < 0.1:
            target = target.replace("/", pick(["//", "/./", "/%2e/", "/x/../", "%2f", "\\"]), 1)
        if self._chance.random() < 0.5:
            count = self._chance.choice([1, 1, 2, 3, 300])
            target += "?" + "&".join(f"{self._text(_PARAMS)}={self._text(_VALUES)}" for _ in range(count))
        if self._chance.random() < 0.02:
            target = "http://example.org" + target
        method, body = self._method_and_body(route)
        headers = ["Host: x", "Connection: close"]
        if self._chance.random() < 0.6:
            headers.append(f"Authorization: {pick(self._tokens)}")
        while self._chance.random() < 0.35:
            headers.append(
                f"{pick(_HEADERS)}: {self._text(_HEADER_VALUES) if pick([0, 1]) else pick(_HEADER_VALUES)}"
            )
        if body is not None:
            headers.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([f"{method} {target} HTTP/1.1", *headers, "", ""])
        return method, head.encode("latin-1", "replace") + (body or b"")

    def _text(self, usual: list[str]) -> str:
        return self._chance.choice(_ODD if self._chance.random() < 0.4 else usual)

    def _method_and_body(self, route: str) -> tuple[str, bytes | None]:
        pick = self._chance.choice
        if self._chance.random() < 0.2:
            return pick(_METHODS), pick([None, b"", b"{}", b"x" * 3000])
        if route.endswith("/new"):
            return "PUT", self._publish()
        if route.endswith("/check"):
            return "POST", self._publish()
        if route.endswith("/owners") and self._chance.random() < 0.7:
            logins = [
                pick(["bob", "carol", "team:x", "", " ", "nobody", "\ud800", "a\0b"])
                for _ in range(pick([0, 1, 2]))
            ]
            document: object = pick(
                [{"users": logins}, {"owners": logins}, logins, {"users": pick([1, None, "bob"])}]
            )
            return pick(["PUT", "DELETE"]), json.dumps(document).encode()
        if route.endswith("/yank"):
            return "DELETE", None
        if route.endswith("/unyank"):
            return "PUT", None
        return pick(["GET", "GET", "GET", "HEAD"]), None

    def _publish(self) -> bytes:
        """Return the body of a publish with something wrong, or now and then nothing."""
        self._count += 1
        name = self._chance.choice(["alpha", "Beta_Two", f"made-{self._count}", *_NAMES])
        document = metadata(name, self._chance.choice(_VERSIONS))
        values: list[object] = [
            None,
            0,
            -1,
            1e300,
            True,
            "",
            "x",
            [],
            {},
            [[]],
            ["x"],
            {"x": ["y"]},
            {"x": 1},
        ]
        while self._chance.random() < 0.4:
            document[self._chance.choice(list(document))] = self._chance.choice(values)
        lines = ""
        while self._chance.random() < 0.4:
            key = self._chance.choice(
                ["edition", "links", "license", "keywords", "readme", "x", "rust-version"]
            )
            lines += f"{key} = {json.dumps(self._chance.choice(values[1:11]))}\n"
        while self._chance.random() < 0.3:
            table = self._chance.choice(
                ["dependencies", "features", "target.x.dependencies", "lib", "bin", "patch"]
            )
            lines += f"[{table}]\n{self._chance.choice(['a', 'b'])} = {json.dumps(self._chance.choice(values[1:11]))}\n"
        manifest = f'[package]\nname = "{name}"\nversion = "{document["vers"]}"\n{lines}'
        tarball = crate_file(str(document["name"])[:90], str(document["vers"])[:90], manifest=manifest)
        body = publish_body(document, tarball)
        return self._mutate(body) if self._chance.random() < 0.4 else body

    def _mutate(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self._chance.choice([1, 1, 2, 5])):
            at = self._chance.randrange(len(changed) + 1)
            match self._chance.randrange(5):
                case 0:
                    changed[at : at + 1] = bytes([self._chance.randrange(256)])
                case 1:
                    changed[at:at] = self._chance.choice(
                        [b"\0", b"\r\n", b"\r\n\r\n", b" ", b"\xff", b"%", b"/"]
                    )
                case 2:
                    del changed[at : at + self._chance.choice([1, 4, 100])]
                case 3:
                    changed[at:at] = changed[at : at + self._chance.choice([1, 10, 1000])]
                case 4:
                    del changed[at:]
        return bytes(changed)

    def _send(self, method: str, sent: bytes, *, ends: bool) -> tuple[str, bytes]:
        """Return the status, or what happened instead, and the body. `ends`: say that nothing more comes."""
        try:
            with socket.create_connection(self._address, timeout=_HANG_S * 2) as connection:
                with contextlib.suppress(OSError):  # an early answer has closed it
                    connection.sendall(sent)
                    if ends:
                        connection.shutdown(socket.SHUT_WR)
                response = http.client.HTTPResponse(connection, method=method)
                response.begin()
                return str(response.status), response.read()
        except (http.client.HTTPException, ConnectionError):
            return "no answer", b""
        except TimeoutError:
            return "timeout", b""


def memory_mib(pid: int) -> float:
    """Return the memory of a process and those that it started (Linux)."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20 + sum(memory_mib(int(child)) for child in children)


def fuzz(implementation: str, seconds: float, seed: int, tell: Callable[[str], None]) -> Run:
    """Fuzz one kind of server for some time."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        with Server(Path(folder), _CONFIG, implementation=implementation) as server:
            fuzzer = Fuzzer(server, random.Random(seed))
            fuzzer.prepare()
            run = fuzzer.run
            started = time.monotonic()
            settled = 0.0
            while (spent := time.monotonic() - started) < seconds:
                fuzzer.step()
                if not settled and spent > seconds / 4:
                    settled = memory_mib(server.process.pid)
                if run.requests % 200 == 0 and "Traceback" in server.stderr():
                    run.findings.append(server.stderr()[-3000:])
                    break
            grown = memory_mib(server.process.pid) - settled
            if grown > _MAX_GROWTH_MIB:
                run.findings.append(f"memory has grown by {grown:.0f} MiB")
            if server.http.get("/healthz").status_code != 200:
                run.findings.append("the server is gone")
            tell(
                f"api on {implementation}, seed {seed}: {run.requests} requests, slowest {run.slowest_s:.1f} s, "
                f"memory +{grown:.0f} MiB, {dict(sorted(run.statuses.items()))}"
            )
        return run


def main() -> int:
    """Fuzz both servers; return 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.api")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    options = parser.parse_args()
    seed = options.seed or random.SystemRandom().randrange(1, 2**31)
    runs = [fuzz(name, options.seconds / 2, seed, print) for name in ("granian", "uvicorn")]
    for run in runs:
        for finding in run.findings:
            print(finding)
    print(f"both: {sum(run.requests for run in runs)} requests")
    return 1 if any(run.findings for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
