"""The web API as it treats odd requests: routes, methods, errors, search and what surrounds them."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.programs import Server
from tests.web.conftest import SITE, Site, answer, ask, connect, publish, published


@pytest.fixture(scope="module")
def server(either: Site) -> Iterator[Site]:
    token = either.token("alice")
    for name in ("tiny", "tiny-json", "json-lines", "other-thing"):
        published(either, token, name)
    published(either, token, "tiny", "1.1.0-rc.1+b.1")
    yield either
    assert "Traceback" not in either.stderr()


# --- Addresses ---


@pytest.mark.parametrize(
    "path",
    ["/", "/nothing", "/api", "/api/v2/crates", "/api/v1", "/api/v1/nothing", "/api/v1/crates/a/b/c/d", "/~"],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
def test_unknown_address_is_404_in_json(server: Server, path: str, method: str) -> None:
    answered = ask(server, path, method=method, body=b"" if method in ("PUT", "POST") else None)
    if path == "/" and method == "GET" and answered.status == 200:
        return  # the pages, once they are there
    assert answered.status in (404, 405)
    assert answered.detail()


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/api/v1/crates/new", "GET, HEAD, PUT"),
        ("DELETE", "/api/v1/crates/new", "GET, HEAD, PUT"),
        ("POST", "/api/v1/crates", "GET, HEAD"),
        ("POST", "/api/v1/crates/tiny/owners", "DELETE, GET, HEAD, PUT"),
        ("GET", "/api/v1/crates/tiny/1.0.0/yank", "DELETE"),
        ("PUT", "/api/v1/crates/tiny/1.0.0/yank", "DELETE"),
        ("HEAD", "/api/v1/crates/tiny/1.0.0/yank", "DELETE"),
        ("DELETE", "/api/v1/crates/tiny/1.0.0/unyank", "PUT"),
        ("PUT", "/me", "GET, HEAD"),
        ("POST", "/healthz", "GET, HEAD"),
        ("OPTIONS", "/api/v1/crates", "GET, HEAD"),
        ("FOO", "/api/v1/crates", "GET, HEAD"),
    ],
)
def test_wrong_method_is_405_in_json_and_says_which_are_right(
    server: Server, method: str, path: str, allowed: str
) -> None:
    answered = ask(server, path, method=method, body=b"" if method in ("PUT", "POST") else None)
    assert answered.status == 405
    assert answered.header("allow") == allowed
    if method != "HEAD":
        assert method in answered.detail()


@pytest.mark.parametrize("prefix", ["", "/", "//"])
@pytest.mark.parametrize("suffix", ["", "/", "//"])
def test_slashes_around_the_path_do_not_matter(server: Server, prefix: str, suffix: str) -> None:
    """An `api` that ends in a slash makes `//api/v1/…`, and nothing may be redirected: cargo fails on it."""
    token = server.token("alice")
    name = f"slash{len(prefix)}{len(suffix)}"
    body = None
    path = f"{prefix}/api/v1/crates"
    published(server, token, name)
    assert ask(server, f"{path}{suffix}?q=tiny").status == 200
    assert ask(server, f"{path}/{name}/owners{suffix}").status == 200
    for method, verb in (("DELETE", "yank"), ("PUT", "unyank")):
        answered = ask(server, f"{path}/{name}/1.0.0/{verb}{suffix}", method=method, token=token, body=b"")
        assert answered.json() == {"ok": True}
    # A publish without a token says 401, and not that it should go elsewhere.
    assert ask(server, f"{path}/new{suffix}", method="PUT", body=body or b"x").status == 401
    assert ask(server, f"/other{path}{suffix}").status == 200


@pytest.mark.parametrize(
    "vers", ["1.1.0-rc.1+b.1", "1.1.0-rc.1%2Bb.1", "1.1.0-rc.1%2bb.1", "%31.1.0-rc.1+b.1"]
)
def test_plus_in_a_version_is_a_plus(server: Server, vers: str) -> None:
    token = server.token("alice")
    for method, verb, yanked in (("DELETE", "yank", True), ("PUT", "unyank", False)):
        answered = ask(server, f"/api/v1/crates/tiny/{vers}/{verb}", method=method, token=token, body=b"")
        assert answered.json() == {"ok": True}
        lines = ask(server, "/index/ti/ny/tiny").body.splitlines()
        assert [json.loads(line)["yanked"] for line in lines] == [False, yanked]


@pytest.mark.parametrize(
    "vers", ["1.1.0-rc.1", "1.1.0-rc.1%20b.1", "1.1.0-rc.1+b.2", "9.9.9", "%00", "é", "%f0%9f%a6%80"]
)
@pytest.mark.parametrize("crate", ["tiny", "none", "%00", "..%2f..", "a" * 200])
def test_yank_of_what_is_not_there_is_404(server: Server, crate: str, vers: str) -> None:
    if not vers.isascii():
        vers = "%C3%A9"
    path = f"/api/v1/crates/{crate}/{vers}/yank"
    answered = ask(server, path, method="DELETE", token=server.token("alice"))
    assert answered.status == 404
    assert answered.detail()


def test_answers_of_the_api_are_not_kept(server: Server) -> None:
    for path in ("/api/v1/crates?q=tiny", "/api/v1/crates/tiny/owners", "/api/v1/none", "/healthz"):
        assert ask(server, path).header("cache-control") == "no-store"


def test_healthz_answers(server: Server) -> None:
    assert ask(server, "/healthz").status == 200
    head = ask(server, "/healthz", method="HEAD")
    assert (head.status, head.body) == (200, b"")


def test_bug_is_a_500_that_says_nothing_of_the_inside(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Damage a row as no code of ours would."""
    with Site(tmp_path_factory.mktemp("bug"), SITE) as server:
        published(server, server.token("alice"), "tiny")
        with closing(sqlite3.connect(server.data_dir / "registry.db")) as db:
            db.execute("UPDATE crates SET keywords = 'not JSON'")
            db.commit()
        answered = ask(server, "/api/v1/crates/tiny/owners")
        assert answered.status == 500
        assert "log" in answered.detail()
        assert "Traceback" in server.stderr()
        assert ask(server, "/index/ti/ny/tiny").status == 200
        server.kill()


# --- Search ---


def search(server: Server, query: str) -> tuple[list[str], int]:
    found = ask(server, f"/api/v1/crates?{query}").json()
    assert "errors" not in found
    for hit in found["crates"]:
        assert isinstance(hit["max_version"], str)
        assert {"name", "description", "max_version", "max_stable_version"} <= set(hit)
    return [hit["name"] for hit in found["crates"]], found["meta"]["total"]


@pytest.mark.parametrize(
    "query", ["q=tiny%2Bjson", "q=tiny+json", "q=tiny%20json", "q=JSON%2Btiny", "q=tiny-json", "q=tiny_json"]
)
def test_words_come_joined_in_several_ways(server: Server, query: str) -> None:
    assert search(server, f"{query}&per_page=10") == (["tiny-json"], 1)


def test_page_is_a_part_and_total_is_all(server: Server) -> None:
    everything, total = search(server, "q=&per_page=100")
    assert len(everything) == total > 3
    assert search(server, "per_page=100") == (everything, total)
    pages = [search(server, f"q=&per_page=2&page={page}") for page in range(1, (total + 1) // 2 + 1)]
    assert [name for names, _ in pages for name in names] == everything
    assert {page_total for _, page_total in pages} == {total}
    assert search(server, "q=&per_page=2&page=1000") == ([], total)


@pytest.mark.parametrize(
    "query",
    [
        "q=%00", "q=%ff%fe", "q=%22", "q=%27%3B--", "q=" + "x" * 5000, "q=%F0%9F%A6%80", "q=a&q=b", "x=y", "q",
        "q=tiny&unknown=1&all_keywords=x", "&&&", "q=%", "q=%zz", "q=tiny&per_page=", "q=*", "q=%D9%A1",
    ],
)  # fmt: skip
def test_any_query_is_answered(server: Server, query: str) -> None:
    search(server, query)


@pytest.mark.parametrize("key", ["per_page", "page"])
@pytest.mark.parametrize(
    "value",
    [
        "0", "-1", "1.5", "ten", "9999999999", "1e3", "0x10", "%D9%A1", "99999999999999999999999999", "9" * 5000, "+",
        "0000000000001" + "0" * 30, "000000000001" + "9" * 9, "000000000001" + "9" * 30, "1%00", " 1",
    ],
)  # fmt: skip
def test_number_that_is_none_is_named(server: Server, key: str, value: str) -> None:
    if value == " 1":
        value = "%201"
    answered = ask(server, f"/api/v1/crates?q=tiny&{key}={value}")
    assert answered.status == 400
    assert f"`{key}`" in answered.detail()


def test_yanked_crate_has_a_version_that_cargo_can_read(server: Server) -> None:
    """It fails on null."""
    token = server.token("alice")
    published(server, token, "all-yanked")
    assert ask(server, "/api/v1/crates/all-yanked/1.0.0/yank", method="DELETE", token=token).status == 200
    (hit,) = ask(server, "/api/v1/crates?q=all-yanked").json()["crates"]
    assert hit["max_version"] == "0.0.0"


# --- Connections ---


def test_one_connection_serves_many_requests(server: Server) -> None:
    token = server.token("alice")
    with connect(server) as connection:
        for path, status in (
            ("/index/ti/ny/tiny", 200),
            ("/index/no/ne/none", 404),
            ("/api/v1/none", 404),
            ("/secret/index/config.json", 401),
            ("/api/v1/crates/tiny/1.0.0/download", 200),
            ("/index/ti/ny/tiny", 200),
        ):
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert answer(connection).status == status
        head = f"PUT /api/v1/crates/tiny/owners HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n"
        connection.sendall(f"{head}Content-Length: 2\r\n\r\n{{}}".encode())
        assert answer(connection, "PUT").status == 400
        connection.sendall(b"HEAD /index/ti/ny/tiny HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer(connection, "HEAD").status == 200
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer(connection).status == 200


def test_clients_that_hang_up_break_nothing(server: Server) -> None:
    for sent in (
        b"",
        b"GET",
        b"GET /index/ti/ny/tiny HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PUT /api/v1/crates/new HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc",
        b"PUT /api/v1/crates/new HTTP/1.1\r\nHost: x\r\nAuthorization: "
        + server.token("alice").encode()
        + b"\r\nContent-Length: 1000\r\n\r\nabc",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0" * 1000,
        b"GET / HTTP/9.9\r\n\r\n",
    ):
        for _ in range(3):
            connect(server, sent).close()
    assert ask(server, "/healthz").status == 200
    assert publish(server, server.token("alice"), "after-the-storm").status == 200
