"""The sparse index over the wire: what cargo's validators, encodings and odd paths get.

What is right comes from cargo-client.md §0, §1.2, §2 and RFC 9110.
"""

import gzip
import json
import re

import pytest

from tests.crates import crate_file
from tests.programs import Server
from tests.web.conftest import Answer, ask, publish, published

CARGO = {
    "User-Agent": "cargo/1.95.0 (f2d3ce0bd 2026-03-21)",
    "Accept-Encoding": "deflate, gzip",
    "cargo-protocol": "version=1",
    "accept": "text/plain",
}
FOO = "/index/fo/o-/foo-bar_baz"


@pytest.fixture(scope="module")
def server(either: Server) -> Server:
    token = either.token("alice")
    published(either, token, "Foo-Bar_baz")
    published(either, token, "Foo-Bar_baz", "1.1.0")
    for name in ("a", "ab", "abc", "abcd", "aux_2"):
        published(either, token, name)
    return either


def tag(answered: Answer) -> str:
    found = answered.header("etag")
    assert found is not None
    return found


# --- What a file is ---


def test_file_is_served_as_it_lies_on_disk(server: Server) -> None:
    answered = ask(server, FOO)
    assert answered.status == 200
    assert answered.body == (server.data_dir / "index_data/main/fo/o-/foo-bar_baz").read_bytes()
    lines = answered.body.splitlines()
    assert [json.loads(line)["vers"] for line in lines] == ["1.0.0", "1.1.0"]
    assert {json.loads(line)["name"] for line in lines} == {"Foo-Bar_baz"}
    assert answered.body.endswith(b"\n")
    assert answered.header("content-type") == "text/plain; charset=utf-8"
    assert answered.header("content-length") == str(len(answered.body))


@pytest.mark.parametrize("path", ["1/a", "2/ab", "3/a/abc", "ab/cd/abcd", "au/x_/aux_2"])
def test_path_is_the_one_that_cargo_makes_of_the_name(server: Server, path: str) -> None:
    assert ask(server, f"/index/{path}").status == 200


def test_line_has_every_field_that_old_cargos_need(server: Server) -> None:
    (line,) = ask(server, "/index/1/a").body.splitlines()
    entry = json.loads(line)
    assert entry["name"] == "a"
    assert {"name", "vers", "deps", "cksum", "features", "yanked"} <= set(entry)
    assert re.fullmatch(r"[0-9a-f]{64}", entry["cksum"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry["pubtime"])


def test_cargo_gets_gzip(server: Server) -> None:
    answered = ask(server, FOO, headers=CARGO)
    assert answered.header("content-encoding") == "gzip"
    assert gzip.decompress(answered.body) == ask(server, FOO).body
    assert answered.header("content-length") == str(len(answered.body))


@pytest.mark.parametrize(
    ("accepted", "encoded"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("deflate, gzip", True),
        ("gzip, deflate, br, zstd", True),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", True),
        ("gzip;q=0.001", True),
        ("gzip ; q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip;q=0.0", False),
        ("gzip;q=0.000, *", False),
        ("GZIP;Q=0", False),
        ("identity", False),
        ("identity;q=1, *;q=0", False),
        ("*;q=0", False),
        ("deflate", False),
        ("br", False),
        ("", False),
        ("gzipped", False),
        ("gzip;q=nonsense", False),
        (";;;,,,=q", False),
    ],
)
def test_gzip_only_for_who_takes_it(server: Server, accepted: str, encoded: bool) -> None:
    answered = ask(server, FOO, headers={"Accept-Encoding": accepted})
    assert answered.status == 200
    assert answered.header("content-encoding") == ("gzip" if encoded else None)
    # A cache must not give one form to who asked for the other.
    assert (answered.header("vary") or "").lower() == "accept-encoding"


def test_gzip_in_one_of_two_headers_counts(server: Server) -> None:
    headers = [("Accept-Encoding", "br"), ("Accept-Encoding", "gzip")]
    assert ask(server, FOO, headers=headers).header("content-encoding") == "gzip"


# --- Validators ---


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_etag_is_one_strong_quoted_tag(server: Server, encoding: str) -> None:
    answered = ask(server, FOO, headers={"Accept-Encoding": encoding})
    assert re.fullmatch(r'"[!#-~]+"', tag(answered))
    assert answered.header("last-modified") is None
    assert answered.header("expires") is None
    assert answered.header("cache-control") == "no-cache"


def test_two_forms_have_two_etags(server: Server) -> None:
    assert tag(ask(server, FOO)) != tag(ask(server, FOO, headers=CARGO))


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
@pytest.mark.parametrize(
    "condition",
    ["{}", "W/{}", '"other", {}', '{},"other"', '"a" , W/{} , "b"', "*", " {} ", '"x",\t{}'],
)
def test_known_tag_gets_304(server: Server, encoding: str, condition: str) -> None:
    headers = {"Accept-Encoding": encoding}
    etag = tag(ask(server, FOO, headers=headers))
    answered = ask(server, FOO, headers={**headers, "If-None-Match": condition.format(etag)})
    assert (answered.status, answered.body) == (304, b"")
    assert tag(answered) == etag
    assert answered.header("cache-control") == "no-cache"
    assert (answered.header("vary") or "").lower() == "accept-encoding"
    assert answered.header("content-encoding") is None


def test_known_tag_in_a_second_header_gets_304(server: Server) -> None:
    headers = [("If-None-Match", '"other"'), ("If-None-Match", tag(ask(server, FOO)))]
    assert ask(server, FOO, headers=headers).status == 304


@pytest.mark.parametrize(
    "condition", ['"other"', "", "W/", "{bare}", "'{bare}'", '"{bare}', '"**"', "{gzip}"]
)
def test_other_tag_gets_the_file(server: Server, condition: str) -> None:
    bare = tag(ask(server, FOO)).strip('"')
    other_form = tag(ask(server, FOO, headers=CARGO))
    answered = ask(server, FOO, headers={"If-None-Match": condition.format(bare=bare, gzip=other_form)})
    assert answered.status == 200
    assert answered.body


def test_date_is_no_validator(server: Server) -> None:
    """It cannot tell two changes within one second apart."""
    headers = {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}
    assert ask(server, FOO, headers=headers).status == 200
    assert ask(server, FOO, headers={**headers, "If-None-Match": tag(ask(server, FOO))}).status == 304


def test_yank_and_its_undoing_change_the_tag_and_change_it_back(server: Server) -> None:
    """They have one size and fall into one second."""
    token = server.token("alice")
    published(server, token, "to-yank")
    path = "/index/to/-y/to-yank"
    before = ask(server, path)
    tags = [tag(before)]
    for method, verb in (("DELETE", "yank"), ("PUT", "unyank")):
        answered = ask(server, f"/api/v1/crates/to-yank/1.0.0/{verb}", method=method, token=token, body=b"")
        assert answered.json() == {"ok": True}
        changed = ask(server, path, headers={"If-None-Match": tags[-1]})
        assert changed.status == 200
        assert json.loads(changed.body)["yanked"] is (verb == "yank")
        tags.append(tag(changed))
    assert tags[0] == tags[2] != tags[1]
    assert ask(server, path).body == before.body


# --- HEAD ---


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
@pytest.mark.parametrize("path", [FOO, "/index/config.json", "/index/no/ne/none", "/index/1/a"])
def test_head_is_get_without_the_body(server: Server, path: str, encoding: str) -> None:
    headers = {"Accept-Encoding": encoding}
    status, fields, body = ask(server, path, headers=headers).without_date()
    head = ask(server, path, headers=headers, method="HEAD").without_date()
    assert head == (status, fields, b"")
    assert dict(fields)["content-length"] == str(len(body))


def test_head_knows_validators(server: Server) -> None:
    headers = {"If-None-Match": tag(ask(server, FOO))}
    assert ask(server, FOO, headers=headers, method="HEAD").status == 304


# --- What is not there ---


@pytest.mark.parametrize(
    "path",
    [
        # other spellings
        "fo/o_/foo_bar_baz", "fo/o-/foo-bar-baz", "fo/o_/foo_bar-baz", "fo/o-/Foo-Bar_baz", "Fo/o-/foo-bar_baz",
        "FO/O-/FOO-BAR_BAZ", "1/A", "2/AB", "3/A/abc",
        # other shards
        "fo/ob/foo-bar_baz", "foo-bar_baz", "fo/foo-bar_baz", "3/f/foo-bar_baz", "2/a", "1/ab", "3/b/abc", "a/a",
        # slashes
        "fo/o-//foo-bar_baz", "fo//o-/foo-bar_baz", "/fo/o-/foo-bar_baz", "fo/o-/foo-bar_baz/",
        "fo/o-/foo-bar_baz//", "1//a", "1/a/", "./1/a", "1/./a", "x/../1/a", "1/a/.", "1/a/..", "../index/1/a",
        "..", "../..", "../registry.db", "../../registry.db", "../other/1/a", "", ".", "/",
        # percent-encoding
        "fo%2fo-%2ffoo-bar_baz", "fo%2Fo-%2Ffoo-bar_baz", "1%2fa", "1/%61", "%31/a", "fo/o%2d/foo-bar_baz", "1/a%00",
        "1/a%2f", "%2e%2e/registry.db", "..%2fregistry.db", "1/a%0a", "1/a%", "1/a%zz", "1/a%20", "%2e/1/a",
        # suffixes
        "fo/o-/foo-bar_baz.gz", "1/a.gz", "1/a.json", "1/a~", "1/a;x", "1/a.", "1/a,b", "config.json.gz",
        "config.json/", "Config.json", "CONFIG.JSON", "config%2ejson", "//config.json", "config", ".locks/00",
        # files and folders that are there, and are not the index
        "fo", "fo/", "fo/o-", "fo/o-/", "1", "1/", ".pending", ".pending/x", ".locks", ".spool", "main/1/a",
        # never there
        "no/ne/none", "1/z", "fo/o-/foo-bar_ba", "fo/o-/foo-bar_bazz", "x" * 3000, "é", "1/é", "1/a\xff",
    ],
)  # fmt: skip
def test_only_the_exact_path_is_a_file(server: Server, path: str) -> None:
    answered = ask(server, f"/index/{path}", headers=CARGO)
    # The HTTP servers refuse bytes beyond ASCII before these get to us.
    assert answered.status == (404 if path.isascii() else 400)
    assert len(answered.body) < 200
    assert b"<" not in answered.body
    assert "html" not in (answered.header("content-type") or "")
    assert "max-age" not in (answered.header("cache-control") or "")


@pytest.mark.parametrize(
    "path", ["//index/1/a", "/index//1/a", "/Index/1/a", "/%69ndex/1/a", "/index", "/index%2f1/a"]
)
def test_only_the_exact_folder_is_the_index(server: Server, path: str) -> None:
    answered = ask(server, path, headers=CARGO)
    assert answered.status == 404
    assert len(answered.body) < 200


def test_file_that_only_keeps_room_for_one_is_no_file(server: Server) -> None:
    """A publish makes one before it is decided, and a power cut may leave one; cargo would cache an empty crate."""
    file = server.data_dir / "index_data/main/ro/om/room"
    file.parent.mkdir(parents=True)
    file.touch()
    try:
        assert ask(server, "/index/ro/om/room").status == 404
    finally:
        file.unlink()


@pytest.mark.parametrize(
    "path", ["xx/yy/stray", "1/stray", "3/s/stray", "2/stray", "st/ra/stray.gz", "st/ra/Stray"]
)
def test_file_that_lies_where_none_belongs_is_not_served(server: Server, path: str) -> None:
    file = server.data_dir / "index_data/main" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b'{"name":"stray"}\n')
    try:
        assert ask(server, f"/index/{path}").status == 404
    finally:
        file.unlink()


def test_query_does_not_change_the_file(server: Server) -> None:
    """Some proxies add one to come past a cache."""
    for query in ("?", "?x=1", "?/../..", "?%00"):
        assert ask(server, f"{FOO}{query}").body == ask(server, FOO).body


def test_missing_crate_is_there_the_moment_it_is_published(server: Server) -> None:
    """cargo asks just before it publishes, and then again each second."""
    missing = ask(server, "/index/br/an/brand-new", headers=CARGO)
    assert missing.status == 404
    assert missing.header("cache-control") == "no-cache"
    assert missing.header("etag") is None
    published(server, server.token("alice"), "brand-new")
    assert ask(server, "/index/br/an/brand-new", headers=CARGO).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO"])
@pytest.mark.parametrize("path", ["/index/config.json", FOO, "/index/no/ne/none"])
def test_other_methods_are_refused_in_json(server: Server, path: str, method: str) -> None:
    answered = ask(server, path, method=method, body=b"" if method in ("POST", "PUT") else None)
    assert answered.status == 405
    assert answered.header("allow") == "GET, HEAD"
    assert method in answered.detail()


# --- config.json ---


@pytest.mark.parametrize(("base", "private"), [("", False), ("/other", False), ("/secret", True)])
def test_config_says_where_api_and_downloads_are(server: Server, base: str, private: bool) -> None:
    config = ask(server, f"{base}/index/config.json", token=server.token("alice") if private else None).json()
    assert config["api"] == f"{server.url}{base}"
    assert config["dl"] == f"{server.url}{base}/api/v1/crates"
    assert config.get("auth-required", False) is private
    assert None not in config.values()


@pytest.mark.parametrize("encoding", ["gzip", "identity", "deflate, gzip"])
def test_config_is_always_whole(server: Server, encoding: str) -> None:
    """cargo sends no validators for it, and fails on 304."""
    headers = {"Accept-Encoding": encoding, "If-None-Match": "*", "Range": "bytes=0-3"}
    headers["If-Modified-Since"] = "Fri, 01 Jan 2100 00:00:00 GMT"
    answered = ask(server, "/index/config.json", headers=headers)
    assert answered.status == 200
    assert answered.json()["api"]
    assert "max-age" not in (answered.header("cache-control") or "")


# --- Two registries ---


def test_one_name_in_two_registries_is_two_crates(server: Server) -> None:
    token = server.token("alice")
    published(server, token, "in-both", "1.0.0")
    published(server, token, "in-both", "2.0.0", base="/other")
    first, second = ask(server, "/index/in/-b/in-both"), ask(server, "/other/index/in/-b/in-both")
    assert (json.loads(first.body)["vers"], json.loads(second.body)["vers"]) == ("1.0.0", "2.0.0")
    for base, vers, missing in (("", "1.0.0", "2.0.0"), ("/other", "2.0.0", "1.0.0")):
        path = f"{base}/api/v1/crates/in-both/{{}}/download"
        assert ask(server, path.format(vers)).body == crate_file("in-both", vers)
        assert ask(server, path.format(missing)).status == 404
    bob = server.token("bob")
    assert publish(server, bob, "in-both", "3.0.0").status == 403
    assert (server.data_dir / "index_data/other/in/-b/in-both").read_bytes() == second.body


@pytest.mark.parametrize("base", ["/main", "/Other", "/other%2f", "/nowhere", "//other", "/%6fther"])
def test_registry_is_at_its_exact_path_only(server: Server, base: str) -> None:
    assert ask(server, f"{base}/index/config.json").status == 404
