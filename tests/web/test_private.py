"""A private registry says nothing to strangers, not even which crates there are; and tokens go only so far."""

import base64
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import product

import pytest

from tests.crates import crate_file
from tests.programs import Server
from tests.web.conftest import Answer, ask, publish, published

SECRET = "/secret"


@pytest.fixture(scope="module")
def server(site: Server) -> Iterator[Server]:
    token = site.token("alice")
    published(site, token, "here", base=SECRET)
    published(site, token, "here-too")
    published(site, token, "here", base="/other")
    yield site
    # Whatever was asked, nobody saw a traceback, nor did the log see one.
    assert "Traceback" not in site.stderr()


def get_crate(server: Server, token: str | None, base: str = SECRET, **more: str) -> Answer:
    return ask(server, f"{base}/index/he/re/here", token=token, headers=more)


# --- Strangers ---


ROUTES = [
    "/index/{shard}/{crate}",
    "/index/{shard}/{crate}/",
    "/index//{shard}/{crate}",
    "/index/{crate}",
    "/api/v1/crates/{crate}/1.0.0/download",
    "//api/v1/crates/{crate}/1.0.0/download/",
    "/api/v1/crates/{crate}/2.0.0/download",
    "/api/v1/crates/{crate}/%2e/download",
    "/api/v1/crates?q={crate}",
    "/api/v1/crates/{crate}",
    "/api/v1/crates/{crate}/",
    "/api/v1/crates/{crate}/owners",
    "//api//v1/crates/{crate}/owners",
    "/api/v1/crates/{crate}/1.0.0",
    "/api/v1/crates/{crate}/1.0.0/yank",
    "/api/v1/crates/{crate}/1.0.0/unyank",
    "/api/v1/crates/{crate}/versions",
    "/api/v1/crates/{crate}/1.0.0/dependencies",
    "/api/v1/crates/{crate}/1.0.0/readme",
    "/api/v1/crates/{crate}/reverse_dependencies",
    "/api/v1/crates/{crate}/no/such/route",
    "/crates/{crate}",
    "/{crate}",
    "/./index/{shard}/{crate}",
    "/%69ndex/{shard}/{crate}",
    "/api/v1/crates%2f{crate}",
]
METHODS = ["GET", "HEAD", "PUT", "DELETE", "POST", "PATCH", "OPTIONS"]
BAD_TOKENS = [None, "crg_" + "0" * 48]


@pytest.mark.parametrize("route", ROUTES)
def test_stranger_cannot_tell_whether_a_crate_exists(server: Server, route: str) -> None:
    for method, token in product(METHODS, BAD_TOKENS):
        answers = [
            ask(
                server,
                SECRET + route.format(shard=shard, crate=crate),
                method=method,
                token=token,
                headers={"If-None-Match": "*", "Range": "bytes=0-0"},
                body=b"" if method in ("PUT", "POST") else None,
            )
            for shard, crate in (("he/re", "here"), ("go/ne", "gone"))
        ]
        assert answers[0].without_date() == answers[1].without_date(), (method, token)
        assert answers[0].status == 401, (method, token)
        assert b"here" not in answers[0].body
        if method != "HEAD":
            assert answers[0].detail()


@pytest.mark.parametrize(
    "path", ["", "/", "/index/config.json", "/index/", "/index", "/api/v1/crates", "/anything"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_stranger_is_challenged_in_the_form_that_cargo_reads(server: Server, path: str, method: str) -> None:
    answered = ask(server, SECRET + path, method=method)
    assert answered.status == 401
    # One challenge, the URL absolute and in quotes: cargo discards an unquoted one.
    assert answered.header("www-authenticate") == f'Cargo login_url="{server.url}{SECRET}/me"'
    assert "public" not in (answered.header("cache-control") or "")


def test_stranger_may_see_how_to_get_a_token(server: Server) -> None:
    for base, name in ((SECRET, "secret"), ("", "main"), ("/other", "other")):
        answered = ask(server, f"{base}/me")
        assert answered.status == 200
        page = answered.body.decode()
        assert (answered.header("content-type") or "").startswith("text/html")
        assert f"cargo login --registry {name}" in page
        assert f"sparse+{server.url}{base}/index/" in page
        assert f"[registries.{name}]" in page
        assert f"CARGO_REGISTRIES_{name.upper()}_TOKEN" in page
        assert ("cargo:token" in page) is (base == SECRET)
        assert "here" not in page.replace("where", "")
        assert ask(server, f"{base}/me", method="HEAD").status == 200


def test_publish_is_refused_before_it_is_looked_at(server: Server) -> None:
    """Who calls comes first: the body may be anything, the crate may exist or not."""
    answers = {
        publish(server, token, name, body=body, base=base).status
        for token, name, body, base in product(
            BAD_TOKENS, ["here", "gone"], [None, b"nonsense"], [SECRET, "", "/other"]
        )
    }
    assert answers == {401}


# --- Those with a token ---


def test_whoever_is_let_in_sees_what_a_public_registry_shows(server: Server) -> None:
    token = server.token("bob")
    assert json.loads(get_crate(server, token).body)["name"] == "here"
    assert ask(server, f"{SECRET}/index/config.json", token=token).json()["auth-required"] is True
    download = ask(server, f"{SECRET}/api/v1/crates/here/1.0.0/download", token=token)
    assert download.body == crate_file("here", "1.0.0")
    search = ask(server, f"{SECRET}/api/v1/crates?q=here", token=token)
    assert [hit["name"] for hit in search.json()["crates"]] == ["here"]
    assert ask(server, f"{SECRET}/index/go/ne/gone", token=token).status == 404
    assert ask(server, f"{SECRET}/no/such/thing", token=token).status == 404


@pytest.mark.parametrize(
    "path",
    [
        "/index/config.json", "/index/he/re/here", "/index/go/ne/gone", "/api/v1/crates/here/1.0.0/download",
        "/api/v1/crates/gone/1.0.0/download", "/api/v1/crates?q=here", "/api/v1/crates/here/owners", "/me", "/x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("headers", [{}, {"If-None-Match": "*"}, {"Range": "bytes=0-3"}])
def test_nothing_private_is_for_shared_caches(server: Server, path: str, headers: dict[str, str]) -> None:
    for token in (server.token("bob"), None):
        answered = ask(server, SECRET + path, token=token, headers=headers)
        cache = answered.header("cache-control")
        assert "public" not in (cache or "")
        if path != "/me":
            # 416 alone has nothing to cache.
            assert cache is not None
            assert "private" in cache or "no-store" in cache


@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "  {}  ",
        "Bearer {}",
        "bearer {}",
        "BEARER {}",
        "Bearer   {}",
        "Bearer \t{}",
        "Bearer\t{}",
        " Bearer {} ",
        "Basic {basic}",
        "basic  {basic}",
        "BASIC {basic}",
        "Basic {basic_no_login}",
        "Basic {basic_colons}",
        "Basic {basic_latin}",
    ],
)
def test_token_is_taken_in_each_form_that_clients_send(server: Server, form: str) -> None:
    token = server.token("bob")

    def basic(login: bytes) -> str:
        return base64.b64encode(login + b":" + token.encode()).decode()

    sent = form.format(
        token,
        basic=basic(b"bob"),
        basic_no_login=basic(b""),
        basic_colons=basic(b"x-access-token"),
        basic_latin=basic(b"b\xf6b"),
    )
    assert get_crate(server, sent).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        "",
        " ",
        "Bearer",
        "Bearer ",
        "Basic",
        "Basic ",
        "Basic !",
        "Basic Og==",
        "Basic \xff\xfe",
        "Basic é",
        "Basic YQ",
        "Basic YQ==",
        "Basic " + base64.b64encode(b"\xff\xff:\xff").decode(),
        "Bearer é",
        "\xff\xfe\xfd",
        "Token {}",
        "{}x",
        "x{}",
        "{} {}",
        "Bearer Bearer {}",
        "null",
        "crg_",
        "{upper}",
        "a" * 8000,
        "' OR 1=1 --",
    ],
)
@pytest.mark.parametrize("base", [SECRET, ""])
def test_anything_else_is_no_token(server: Server, sent: str, base: str) -> None:
    token = server.token("bob")
    sent = sent.format(token, token, upper=token.upper()) if "{" in sent else sent
    if base:
        assert get_crate(server, sent).status == 401
    # To change something, each registry wants one.
    assert publish(server, sent, "here", base=base).status == 401


def test_token_is_long_random_and_stored_only_as_a_hash(server: Server) -> None:
    first, second = (server.cli("token", "create", "bob").stdout for _ in range(2))
    assert first != second
    assert re.fullmatch(r"crg_[A-Za-z0-9_-]{27,}\n", first), "160 bits are 27 characters of base64, 40 of hex"
    for file in server.data_dir.iterdir():
        if file.is_file():
            assert first.strip().encode() not in file.read_bytes()
            assert first.strip().removeprefix("crg_").encode() not in file.read_bytes()


# --- How far a token goes ---


def attempt(server: Server, token: str, what: str, crate: str, base: str = "") -> int:
    """Return the status of one thing that needs a scope."""
    path = f"{base}/api/v1/crates/{crate}"
    match what:
        case "publish":
            return publish(server, token, crate, "9.9.9-" + token[-8:] + "a", base=base).status
        case "yank":
            return ask(server, f"{path}/1.0.0/yank", method="DELETE", token=token).status
        case "unyank":
            return ask(server, f"{path}/1.0.0/unyank", method="PUT", token=token, body=b"").status
        case "add":
            body = b'{"users": ["bob"]}'
            return ask(server, f"{path}/owners", method="PUT", token=token, body=body).status
        case "remove":
            body = b'{"users": ["bob"]}'
            return ask(server, f"{path}/owners", method="DELETE", token=token, body=body).status
        case "read":
            return ask(server, f"{base}/index/{crate[:2]}/{crate[2:4]}/{crate}", token=token).status
    raise ValueError(what)


EVERYTHING = ["publish new", "publish", "yank", "unyank", "add", "remove", "read"]


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        ("publish-new", {"publish new"}),
        ("publish-update", {"publish"}),
        ("yank", {"yank", "unyank"}),
        ("change-owners", {"add", "remove"}),
        ("read", set()),
    ],
)
def test_token_may_only_what_its_scope_says_and_read(server: Server, scope: str, allowed: set[str]) -> None:
    token = server.token("alice", "--scope", scope)
    server.user("bob")
    for base in ("", SECRET):
        published(server, server.token("alice"), f"scoped-{scope}", base=base)
        for what in EVERYTHING:
            crate = f"new-{scope}" if what == "publish new" else f"scoped-{scope}"
            status = attempt(server, token, what.removesuffix(" new"), crate, base)
            assert status == (200 if what in allowed or what == "read" else 403), what


def test_token_of_two_scopes_may_both(server: Server) -> None:
    published(server, server.token("alice"), "two-scopes")
    token = server.token("alice", "--scope", "yank", "--scope", "publish-update")
    assert [attempt(server, token, what, "two-scopes") for what in ("publish", "yank", "add")] == [
        200,
        200,
        403,
    ]


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("team-*", ["team-x", "Team_Y", "team-"], ["team", "steam-x", "teams-x"]),
        ("Exact_Name", ["exact-name2"[:-1], "EXACT_NAME"[:5] + "-name"], ["exact-name-x", "exactname"]),
        ("foo-[a-c]*", ["foo-alpha", "Foo_Charlie"], ["foo-delta", "foo"]),
        ("x[!a-m]?", ["xz1", "xn-"], ["xa1", "xz", "xz12"]),
    ],
)
def test_token_may_only_change_crates_that_its_pattern_covers(
    server: Server, pattern: str, matching: list[str], others: list[str]
) -> None:
    token = server.token("alice", "--crate", pattern)
    for number, name in enumerate(matching):
        base = ("", "/other")[number % 2]
        assert publish(server, token, name, base=base).status == 200, name
        assert attempt(server, token, "yank", name.upper().replace("-", "_"), base) == 200, name
    for name in others:
        answered = publish(server, token, name)
        assert answered.status == 403, name
        assert f"not for crate `{name}`" in answered.detail()
        assert pattern in answered.detail()
    # It may still read, or it could not resolve what it builds.
    assert get_crate(server, token).status == 200


def test_token_is_good_only_in_its_registries(server: Server) -> None:
    token = server.token("alice", "--registry", "other", "--registry", "secret")
    assert publish(server, token, "limited", base="/other").status == 200
    assert publish(server, token, "limited", base=SECRET).status == 200
    refused = publish(server, token, "limited")
    assert (refused.status, "`main`" in refused.detail()) == (403, True)
    # It still says nothing about a private one that it is not for.
    elsewhere = server.token("alice", "--registry", "other")
    answers = [
        ask(server, f"{SECRET}{path}", token=elsewhere).without_date()
        for path in (
            "/index/he/re/here", "/index/go/ne/gone", "/api/v1/crates/here/1.0.0/download",
            "/api/v1/crates/gone/1.0.0/download", "/api/v1/crates/here/owners", "/api/v1/crates/gone/owners",
            "/index/config.json",
        )
    ]  # fmt: skip
    assert {status for status, _, _ in answers} == {403}
    assert len({body for _, _, body in answers}) == 1


def test_reader_may_read_and_change_nothing(server: Server) -> None:
    server.user("rita", "--role", "reader")
    token = server.token("rita")
    assert get_crate(server, token).status == 200
    refused = publish(server, token, "of-a-reader")
    assert refused.status == 403
    assert "reader" in refused.detail()
    published(server, server.token("alice"), "made-for-a-reader")
    owners = "/api/v1/crates/made-for-a-reader/owners"
    assert (
        ask(server, owners, method="PUT", token=server.token("alice"), body=b'{"users":["rita"]}').status
        == 200
    )
    assert [attempt(server, token, what, "made-for-a-reader") for what in ("publish", "yank", "add")] == [
        403
    ] * 3


def test_role_holds_from_the_next_request_on(server: Server) -> None:
    token = server.token("walter")
    assert publish(server, token, "of-walter").status == 200
    server.cli("user", "set-role", "walter", "reader")
    assert publish(server, token, "of-walter", "1.1.0").status == 403
    server.cli("user", "set-role", "walter", "publisher")
    assert publish(server, token, "of-walter", "1.1.0").status == 200


def test_revoked_token_and_disabled_user_are_out_at_once(server: Server) -> None:
    token, other = server.token("dora"), server.cli("token", "create", "dora").stdout.strip()
    assert {get_crate(server, one).status for one in (token, other)} == {200}
    issued = json.loads(server.cli("token", "list", "dora", "--json").stdout)
    server.cli("token", "revoke", str(issued[0]["id"]))
    assert [get_crate(server, one).status for one in (token, other)] == [401, 200]
    server.cli("user", "disable", "dora")
    assert {get_crate(server, one).status for one in (token, other)} == {401}
    assert publish(server, other, "of-dora").status == 401
    server.cli("user", "enable", "dora")
    assert [get_crate(server, one).status for one in (token, other)] == [401, 200]


def test_expired_token_is_no_token(server: Server) -> None:
    """Nobody can wait an hour: it is made to have begun two hours ago."""
    token = server.cli("token", "create", "bob", "--expires", "1h").stdout.strip()
    assert get_crate(server, token).status == 200
    with closing(sqlite3.connect(server.data_dir / "registry.db", timeout=10)) as db:
        last = "WHERE id = (SELECT max(id) FROM tokens)"
        db.execute(f"UPDATE tokens SET expires_at = datetime(expires_at, '-2 hours') {last}")
        db.commit()
    assert get_crate(server, token).status == 401


def test_public_registry_asks_nobody_who_reads(server: Server) -> None:
    for token in (None, "nonsense"):
        assert get_crate(server, token, "/other").status == 200
        assert ask(server, "/other/api/v1/crates/here/1.0.0/download", token=token).status == 200
        assert ask(server, "/other/api/v1/crates?q=here", token=token).status == 200
        assert ask(server, "/other/api/v1/crates/here/owners", token=token).status == 200
