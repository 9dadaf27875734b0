"""Publishing what cargo would never send; and what a refused publish leaves: nothing."""

import asyncio
import contextlib
import gzip
import io
import json
import os
import random
import socket
import sqlite3
import subprocess
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from starlette.types import Message

from cargo_registry.cli import main
from cargo_registry.config import load
from cargo_registry.web import body as bodies
from cargo_registry.web.app import create_app
from tests.crates import crate_file, metadata, publish_body
from tests.programs import Server, until
from tests.storage.conftest import fill
from tests.web.conftest import SITE, Site, answer, ask, connect, publish, published, stored

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server(either: Site) -> Iterator[Site]:
    either.token("alice")
    published(either, either.token("alice"), "taken", "1.0.0")
    yield either
    assert "Traceback" not in either.stderr()


def rows(root: Path) -> list[tuple[object, ...]]:
    """Return what there is of crates, versions and owners."""
    with closing(sqlite3.connect(root / "registry.db", timeout=10)) as db:
        return [
            row
            for table in ("crates", "versions", "owners", "dependencies", "crate_words", "crate_names")
            for row in db.execute(f"SELECT * FROM {table}")
        ]


def refused(server: Server, body: bytes, status: int, *, token: str | None = None) -> str:
    """Publish a body that must be refused, see that nothing is left of it, and return why."""
    before = rows(server.data_dir), stored(server)
    answered = publish(server, token or server.token("alice"), "", body=body)
    assert answered.status == status, answered.body
    assert (rows(server.data_dir), stored(server)) == before
    return answered.detail()


# --- Framing ---


GOOD = publish_body(metadata("framed", "1.0.0"), crate_file("framed", "1.0.0"))
JSON_SIZE = int.from_bytes(GOOD[:4], "little")
DOCUMENT = GOOD[4 : 4 + JSON_SIZE]
TARBALL = crate_file("framed", "1.0.0")


def u32(number: int) -> bytes:
    return number.to_bytes(4, "little")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(GOOD[:1], id="a byte"),
        pytest.param(GOOD[:3], id="not a whole length"),
        pytest.param(GOOD[:4], id="only a length"),
        pytest.param(GOOD[:50], id="half the JSON"),
        pytest.param(GOOD[: 4 + JSON_SIZE], id="only the JSON"),
        pytest.param(GOOD[: 6 + JSON_SIZE], id="half the second length"),
        pytest.param(GOOD[: 8 + JSON_SIZE], id="no tarball"),
        pytest.param(GOOD[:-1], id="one byte short"),
        pytest.param(GOOD + b"x", id="one byte more"),
        pytest.param(GOOD + GOOD, id="twice"),
        pytest.param(u32(0) + GOOD[4:], id="JSON of no length"),
        pytest.param(u32(0) + u32(0), id="two lengths of nothing"),
        pytest.param(u32(JSON_SIZE - 1) + GOOD[4:], id="first length too small"),
        pytest.param(u32(JSON_SIZE + 1) + GOOD[4:], id="first length too large"),
        pytest.param(JSON_SIZE.to_bytes(4, "big") + GOOD[4:], id="big endian"),
        pytest.param(u32(JSON_SIZE) + DOCUMENT + u32(0), id="tarball of no length"),
        pytest.param(
            u32(JSON_SIZE) + DOCUMENT + u32(len(TARBALL) - 1) + TARBALL, id="second length too small"
        ),
        pytest.param(
            u32(JSON_SIZE) + DOCUMENT + u32(len(TARBALL) + 1) + TARBALL, id="second length too large"
        ),
        pytest.param(TARBALL, id="only a tarball"),
        pytest.param(DOCUMENT, id="only JSON"),
        pytest.param(b"\xff" * 100, id="ones"),
        pytest.param(b"\0" * 100, id="zeros"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(server: Site, body: bytes) -> None:
    first = int.from_bytes(body[:4], "little")
    assert refused(server, body, 413 if len(body) >= 4 and first > MIB else 400)


def framed(document: object, tarball: bytes = TARBALL) -> bytes:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return u32(len(data)) + data + u32(len(tarball)) + tarball


WITHOUT = object()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", WITHOUT), ("name", None), ("name", 1), ("name", ["framed"]), ("name", ""), ("name", "other"),
        ("name", "Framed"), ("name", "fra/med"), ("name", "../framed"), ("name", "framed\0"), ("name", "x" * 65),
        ("name", "1framed"), ("name", "é"), ("name", "nul"), ("name", "std"), ("name", "a::b"),
        ("vers", WITHOUT), ("vers", None), ("vers", ""), ("vers", "1"), ("vers", "1.0"), ("vers", "v1.0.0"),
        ("vers", "1.0.0 "), ("vers", "01.0.0"), ("vers", "1.0.1"), ("vers", "1.0.0+b"), ("vers", "\u0661.0.0"),
        ("vers", "1.0.0/../../x"), ("vers", 1.0),
        ("deps", "none"), ("deps", {}), ("deps", [1]), ("deps", [{}]), ("deps", [{"name": "x"}]),
        ("deps", [{"name": "x", "version_req": "^1"}]),
        ("features", []), ("features", {"a": "b"}), ("features", {"a": ["b"]}), ("features", {"a": []}),
        ("links", "z"), ("links", 1), ("rust_version", "1.60"), ("authors", "me"), ("keywords", {}),
        ("badges", []), ("description", 1), ("license", ["MIT"]),
    ],
)  # fmt: skip
def test_json_of_another_shape_or_meaning_is_refused(server: Site, key: str, value: object) -> None:
    document = metadata("framed", "1.0.0")
    document[key] = value
    if value is WITHOUT:
        del document[key]
    assert refused(server, framed(document), 400)


@pytest.mark.parametrize(
    "document",
    [
        b"", b"{", b"null", b"[]", b'"framed"', b"1", b"\xff\xfe", b"[" * 100_000, b'{"name":"framed"}',
        b'\xef\xbb\xbf{"name":"framed","vers":"1.0.0"}', b'{"name":"framed","vers":"1.0.0"} x',
        b'{"name":"\xff","vers":"1.0.0"}', b'{"name":"\\ud800","vers":"1.0.0"}', b'{"name":"framed","vers":"1.0.0",}',
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused(server: Site, document: bytes) -> None:
    assert refused(server, framed(document), 400)


def test_missing_keys_are_null_and_unknown_ones_ignored(server: Site) -> None:
    """Older cargos send less, newer ones more."""
    least = framed({"name": "least", "vers": "1.0.0"}, crate_file("least", "1.0.0"))
    assert publish(server, server.token("alice"), "least", body=least).status == 200
    more = metadata("more", "1.0.0", future={"a": [1]}, authors=None, keywords=None, deps=None, features=None)
    body = framed(more, crate_file("more", "1.0.0"))
    answered = ask(
        server, "/api/v1/crates/new?future=1", method="PUT", body=body, token=server.token("alice")
    )
    assert answered.status == 200
    found = answered.json()
    assert "errors" not in found
    assert all(isinstance(warnings, list) for warnings in found["warnings"].values())


# --- Tarballs: the rules have tests of their own; here, that they are asked ---


def tarball_of(**members: bytes) -> bytes:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for path, data in members.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return gzip.compress(tar.getvalue())


@pytest.mark.parametrize(
    "tarball",
    [
        pytest.param(b"x", id="a byte"),
        pytest.param(b"no gzip at all", id="text"),
        pytest.param(gzip.compress(b""), id="empty"),
        pytest.param(gzip.compress(b"no tar"), id="no tar"),
        pytest.param(TARBALL[:-10], id="cut"),
        pytest.param(TARBALL[:-8] + b"\0" * 8, id="wrong crc"),
        pytest.param(crate_file("framed", "1.0.1"), id="another version"),
        pytest.param(crate_file("other", "1.0.0"), id="another crate"),
        pytest.param(crate_file("framed", "1.0.0", manifest=""), id="empty manifest"),
        pytest.param(crate_file("framed", "1.0.0", manifest="[package"), id="no TOML"),
        pytest.param(crate_file("framed", "1.0.0", files={"../../escape": b"x"}), id="escape"),
        pytest.param(tarball_of(**{"framed-1.0.0/src/lib.rs": b""}), id="no manifest"),
        pytest.param(tarball_of(**{"/etc/passwd": b""}), id="absolute"),
    ],
)
def test_tarball_that_is_none_is_refused(server: Site, tarball: bytes) -> None:
    assert refused(server, framed(metadata("framed", "1.0.0"), tarball), 400)


# --- Taken ---


@pytest.mark.parametrize(
    ("name", "vers", "says"),
    [
        ("taken", "1.0.0", "`taken@1.0.0` is already uploaded"),
        ("taken", "1.0.0+other", "(as `1.0.0`"),
        ("Taken", "2.0.0", "previously named `taken`"),
        ("TAKEN", "1.0.0", "previously named `taken`"),
    ],
)
def test_taken_name_or_version_is_409(server: Site, name: str, vers: str, says: str) -> None:
    body = publish_body(metadata(name, vers), crate_file(name, vers))
    assert says in refused(server, body, 409)


def test_yanked_version_is_taken(server: Site) -> None:
    token = server.token("alice")
    published(server, token, "yanked-one")
    ask(server, "/api/v1/crates/yanked-one/1.0.0/yank", method="DELETE", token=token)
    body = publish_body(metadata("yanked-one", "1.0.0"), crate_file("yanked-one", "1.0.0"))
    assert "already uploaded" in refused(server, body, 409)
    assert json.loads(ask(server, "/index/ya/nk/yanked-one").body)["yanked"] is True


def test_other_bytes_of_a_version_are_refused_and_never_served(server: Site) -> None:
    body = publish_body(
        metadata("taken", "1.0.0"), crate_file("taken", "1.0.0", files={"src/lib.rs": b"evil"})
    )
    assert "never changes" in refused(server, body, 409)
    assert ask(server, "/api/v1/crates/taken/1.0.0/download").body == crate_file("taken", "1.0.0")


def test_stranger_is_refused_and_leaves_nothing(server: Site) -> None:
    body = publish_body(metadata("taken", "2.0.0"), crate_file("taken", "2.0.0"))
    assert "not one of its owners" in refused(server, body, 403, token=server.token("mallory"))


def test_new_name_without_the_right_to_make_one_stays_free(server: Site) -> None:
    token = server.token("alice", "--scope", "publish-update")
    body = publish_body(metadata("still-free", "1.0.0"), crate_file("still-free", "1.0.0"))
    assert "publish-new" in refused(server, body, 403, token=token)
    published(server, server.token("bob"), "still-free")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("same_name", [True, False])
def test_of_equal_uploads_at_once_one_wins(tmp_path: Path, workers: int, same_name: bool) -> None:
    """Sixteen of one crate; or eight of each of two spellings."""
    with Site(tmp_path, SITE, workers=workers) as server:
        token = server.token("alice")
        names = ["race-it"] * 16 if same_name else ["race-it", "race_it"] * 8
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda name: publish(server, token, name), names))
        statuses = sorted(answered.status for answered in answers)
        assert statuses == [200] + [409] * 15
        winner = next(name for name, answered in zip(names, answers, strict=True) if answered.status == 200)
        line = json.loads(ask(server, f"/index/ra/ce/{winner}").body)
        assert line["name"] == winner
        assert ask(server, f"/api/v1/crates/{winner}/1.0.0/download").body == crate_file(winner, "1.0.0")
        files = sorted(path for path in stored(server))
        assert len(files) == 2, files
        assert "Traceback" not in server.stderr()


def test_versions_published_at_once_are_all_listed(tmp_path: Path) -> None:
    """Each sees its own line the moment it is answered, whichever worker it asks, and none is ever lost."""
    with Site(tmp_path, SITE, workers=2) as server:
        token = server.token("alice")
        published(server, token, "many", "0.0.1")

        def one(number: int) -> None:
            published(server, token, "many", f"1.0.{number}")
            for _ in range(3):
                lines = ask(server, "/index/ma/ny/many").body.splitlines()
                assert f"1.0.{number}" in {json.loads(line)["vers"] for line in lines}

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, range(32)))
        assert len(ask(server, "/index/ma/ny/many").body.splitlines()) == 33


# --- Sizes ---


def head(size: int, token: str, *more: str) -> bytes:
    lines = [
        "PUT /api/v1/crates/new HTTP/1.1",
        "Host: x",
        f"Authorization: {token}",
        f"Content-Length: {size}",
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize("size", [2 * MIB + 9, 2**40])
def test_too_large_a_body_is_refused_before_it_is_read(server: Site, size: int) -> None:
    before = stored(server)
    with connect(server, head(size, server.token("alice"))) as connection:
        answered = answer(connection, "PUT")
    assert answered.status == 413
    assert str(2 * MIB + 8) in answered.detail()
    assert stored(server) == before


def test_limit_is_the_size_of_the_tarball(server: Site) -> None:
    """`max_crate_mib = 1` in these servers."""
    noise = random.Random(1).randbytes(MIB + 10_000)  # does not compress
    big = crate_file("too-big", "1.0.0", files={"src/lib.rs": b"", "noise": noise})
    assert len(big) > MIB
    said = refused(server, publish_body(metadata("too-big", "1.0.0"), big), 413)
    assert "`too-big`" in said
    assert str(MIB) in said
    fits = crate_file("fits", "1.0.0", files={"src/lib.rs": b"", "noise": noise[: MIB - 10_000]})
    assert len(fits) < MIB
    published(server, server.token("alice"), "fits", tarball=fits)


def test_limit_holds_for_bodies_that_announce_no_length(server: Site) -> None:
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    start = u32(JSON_SIZE) + DOCUMENT + u32(MIB + 1)
    request = (
        f"PUT /api/v1/crates/new HTTP/1.1\r\nHost: x\r\nAuthorization: {server.token('alice')}\r\n"
        f"Transfer-Encoding: chunked\r\n\r\n{len(start):x}\r\n"
    ).encode()
    with connect(server, request + start + b"\r\n") as connection:
        with contextlib.suppress(OSError):  # when it has had enough
            for _ in range(40):
                connection.sendall(chunk)
        assert answer(connection, "PUT").status == 413


def test_chunked_upload_is_taken(server: Site) -> None:
    body = publish_body(metadata("chunked", "1.0.0"), crate_file("chunked", "1.0.0"))
    pieces = b"".join(
        b"%x\r\n%s\r\n" % (len(body[i : i + 7]), body[i : i + 7]) for i in range(0, len(body), 7)
    )
    request = (
        f"PUT /api/v1/crates/new HTTP/1.1\r\nHost: x\r\nAuthorization: {server.token('alice')}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    ).encode()
    with connect(server, request + pieces + b"0\r\n\r\n") as connection:
        assert answer(connection, "PUT").status == 200


def test_metadata_beyond_a_mebibyte_is_refused(server: Site) -> None:
    document = json.dumps(metadata("framed", "1.0.0", readme="x" * MIB)).encode()
    assert "metadata" in refused(server, framed(document), 413)


# --- Uploads that wait, stop, or are cut ---


def test_client_that_expects_100_continue_is_told_to_go_on(server: Site) -> None:
    body = publish_body(metadata("expected", "1.0.0"), crate_file("expected", "1.0.0"))
    with connect(server, head(len(body), server.token("alice"), "Expect: 100-continue")) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert answer(connection, "PUT").status == 200


@pytest.mark.parametrize(("token", "size", "status"), [("crg_wrong", 1000, 401), (None, 100 * MIB, 413)])
def test_client_that_expects_100_continue_is_refused_at_once(
    server: Site, token: str | None, size: int, status: int
) -> None:
    with connect(server, head(size, token or server.token("alice"), "Expect: 100-continue")) as connection:
        connection.settimeout(5)
        at = time.monotonic()
        with connection.makefile("rb") as stream:
            assert stream.readline().split()[1] == str(status).encode()
        assert time.monotonic() - at < 1.5


@pytest.mark.parametrize("sent", [0, 3, 4, 100, len(GOOD) - 1])
def test_upload_that_stops_arriving_is_400(server: Site, sent: int) -> None:
    before = rows(server.data_dir), stored(server)
    with connect(server, head(len(GOOD), server.token("alice")) + GOOD[:sent]) as connection:
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(10)
        got = b""
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(10_000):
                got += piece
    # Who has gone cannot be told; who has only stopped sending should be.
    assert got == b"" or got.split()[1] == b"400", got
    if server.implementation == "uvicorn":
        assert got == b"" or b"errors" in got
    until(lambda: (rows(server.data_dir), stored(server)) == before)


@pytest.mark.parametrize("sent", [4, 100, len(GOOD) - 1])
def test_upload_that_is_cut_leaves_nothing(server: Site, sent: int) -> None:
    before = rows(server.data_dir), stored(server)
    for _ in range(5):
        connect(server, head(len(GOOD), server.token("alice")) + GOOD[:sent]).close()
    until(lambda: (rows(server.data_dir), stored(server)) == before)
    assert ask(server, "/index/fr/am/framed").status == 404


def test_slow_upload_is_taken_as_long_as_something_comes(server: Site) -> None:
    body = publish_body(metadata("slow", "1.0.0"), crate_file("slow", "1.0.0"))
    with connect(server, head(len(body), server.token("alice"))) as connection:
        for start in range(0, len(body), 100):
            connection.sendall(body[start : start + 100])
            time.sleep(0.01)
        assert answer(connection, "PUT").status == 200


class Silent:
    """A request in process whose body stops arriving, for what takes half a minute outside."""

    def __init__(self, sent: bytes) -> None:
        self.asked = 0
        self.sent = sent
        self.answered: list[Message] = []

    async def receive(self) -> Message:
        self.asked += 1
        if self.asked == 1:
            return {"type": "http.request", "body": self.sent, "more_body": True}
        if self.asked == 2:
            await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.answered.append(message)


@pytest.mark.parametrize("sent", [b"", GOOD[:3], GOOD[:100], GOOD[:-1]])
def test_upload_that_is_silent_is_408(tmp_path: Path, sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    # The real patience is thirty seconds, and nobody waits so long for a test.
    monkeypatch.setattr(bodies, "_SILENCE_S", 0.05)
    data = ["--data-dir", str(tmp_path)]
    main.app(["user", "add", "alice", *data], standalone_mode=False)
    with contextlib.redirect_stdout(io.StringIO()) as token:
        main.app(["token", "create", "alice", *data], standalone_mode=False)
    silent = Silent(sent)
    scope = {
        "type": "http",
        "method": "PUT",
        "path": "/api/v1/crates/new",
        "raw_path": b"/api/v1/crates/new",
        "query_string": b"",
        "headers": [(b"authorization", token.getvalue().strip().encode())],
        "extensions": {},
    }

    async def run() -> None:
        app = create_app(load(None, data_dir=tmp_path, environ={}), "http://127.0.0.1:1")
        events: asyncio.Queue[Message] = asyncio.Queue()
        said: asyncio.Queue[Message] = asyncio.Queue()

        async def live() -> None:
            await app({"type": "lifespan"}, events.get, said.put)

        lifespan = asyncio.create_task(live())
        await events.put({"type": "lifespan.startup"})
        assert (await said.get())["type"] == "lifespan.startup.complete"
        await app(scope, silent.receive, silent.send)
        await events.put({"type": "lifespan.shutdown"})
        await lifespan

    asyncio.run(run())
    start, rest = silent.answered
    assert start["status"] == 408
    assert "errors" in json.loads(rest["body"])
    assert list((tmp_path / "crates_storage" / ".spool").iterdir()) == []


# --- A full disk ---


def test_full_disk_refuses_publishes_and_goes_on_reading(small_disk: Path) -> None:
    """And when there is space again, all goes on as if nothing had been."""
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    with Site(small_disk / "site", SITE) as server:
        token = server.token("alice")
        published(server, token, "before")
        ballast = fill(small_disk)
        noise = os.urandom(300_000)
        big = crate_file("no-space", "1.0.0", files={"src/lib.rs": b"", "noise": noise})
        before = stored(server)
        for _ in range(3):
            answered = publish(server, token, "no-space", tarball=big)
            assert answered.status == 507
            assert "disk is full" in answered.detail()
            assert answered.header("retry-after") is not None
        assert stored(server) == before
        assert ask(server, "/index/be/fo/before").status == 200
        assert ask(server, "/api/v1/crates/before/1.0.0/download").status == 200
        assert ask(server, "/index/no/-s/no-space").status == 404
        yank = "/api/v1/crates/before/1.0.0/yank"
        # It may still fit into what the database has already.
        assert ask(server, yank, method="DELETE", token=token).status in (200, 507)
        ballast.unlink()
        published(server, token, "no-space", tarball=big)
        assert ask(server, "/index/no/-s/no-space").status == 200
        server.cli("index", "verify")
