"""Owners over HTTP: all of a change or none of it, and always somebody left."""

import itertools
import json
from collections.abc import Iterator

import pytest

from tests.programs import Server
from tests.web.conftest import Answer, Site, ask, publish, published

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def server(site: Site) -> Iterator[Site]:
    for login in ("alice", "bob", "Carol", "mallory"):
        site.token(login)
    site.cli("team", "add", "core", "bob")
    site.cli("team", "add", "empty")
    yield site
    assert "Traceback" not in site.stderr()


@pytest.fixture
def crate(server: Site) -> str:
    """A new crate of alice's."""
    name = f"owned_{next(NUMBERS)}"
    published(server, server.token("alice"), name)
    return name


def change(
    server: Server, method: str, crate: str, *logins: str, login: str = "alice", body: bytes | None = None
) -> Answer:
    body = json.dumps({"users": logins}).encode() if body is None else body
    return ask(server, f"/api/v1/crates/{crate}/owners", method=method, token=server.token(login), body=body)


def owners(server: Server, crate: str) -> list[str]:
    users = ask(server, f"/api/v1/crates/{crate}/owners").json()["users"]
    for user in users:
        assert isinstance(user["id"], int)
        assert 0 <= user["id"] < 2**32
    return [user["login"] for user in users]


def test_first_publisher_is_the_owner(server: Site, crate: str) -> None:
    assert owners(server, crate) == ["alice"]
    assert owners(server, crate.upper().replace("_", "-")) == ["alice"]


def test_added_and_removed(server: Site, crate: str) -> None:
    added = change(server, "PUT", crate, "bob", "CAROL", "team:core").json()
    assert added["ok"] is True
    assert all(name in added["msg"] for name in ("bob", "Carol", "team:core", crate))
    assert owners(server, crate) == ["alice", "bob", "Carol", "team:core"]
    removed = change(server, "DELETE", crate, "carol", "Team:CORE").json()
    assert removed["ok"] is True
    assert isinstance(removed["msg"], str)
    assert owners(server, crate) == ["alice", "bob"]
    # To add again is no error.
    assert change(server, "PUT", crate, "bob").json()["ok"] is True
    assert owners(server, crate) == ["alice", "bob"]


@pytest.mark.parametrize(
    ("logins", "named"),
    [
        (["bob", "nobody"], "`nobody`"),
        (["nobody", "bob"], "`nobody`"),
        (["bob", "team:none"], "`none`"),
        (["bob", "github:rust-lang:core"], "`github:rust-lang:core`"),
        (["bob", "bob\u0000"], "bob"),
        (["bob", "é"], "`é`"),
        (["bob", "team:"], "team"),
        (["bob", "x" * 5000], "`xxx"),
        (["bob", "\u001b[31mred"], "red"),
    ],
)
def test_unknown_login_is_named_and_nobody_is_added(
    server: Site, crate: str, logins: list[str], named: str
) -> None:
    answered = change(server, "PUT", crate, *logins)
    assert answered.status == 400
    assert named in answered.detail()
    assert len(answered.detail()) < 400
    assert "\x1b" not in answered.detail()
    assert owners(server, crate) == ["alice"]


def test_who_is_no_owner_cannot_be_removed_and_nobody_is(server: Site, crate: str) -> None:
    change(server, "PUT", crate, "bob")
    for logins in (["bob", "carol"], ["bob", "nobody"], ["bob", "team:core"]):
        answered = change(server, "DELETE", crate, *logins)
        assert answered.status == 400
        assert logins[1] in answered.detail()
    assert owners(server, crate) == ["alice", "bob"]


@pytest.mark.parametrize("logins", [["alice"], ["ALICE", "alice"]])
def test_last_owner_stays(server: Site, crate: str, logins: list[str]) -> None:
    answered = change(server, "DELETE", crate, *logins)
    assert answered.status == 409
    assert "without an owner" in answered.detail()
    change(server, "PUT", crate, "bob")
    assert change(server, "DELETE", crate, "alice", "bob").status == 409
    assert owners(server, crate) == ["alice", "bob"]
    assert change(server, "DELETE", crate, "alice").status == 200
    assert owners(server, crate) == ["bob"]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"null", b"[]", b'"bob"', b'{"users": null}', b'{"users": []}', b'{"users": "bob"}',
        b'{"users": [1]}', b'{"users": [null]}', b'{"users": [""]}', b'{"users": [" "]}', b'{"users": ["bob"]',
        b"\xff\xfe", b'{"users": ["\xff"]}', b'{"users": ["\\ud800"]}', b"[" * 100_000, b'{"users": {"bob": 1}}',
        b'{"users": [["bob"]]}', b'{"user": ["bob"]}', b'\xef\xbb\xbf{"users": ["bob"]}', b"x" * 100,
        b'{"users": [' + b"9" * 5000 + b"]}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_body_that_names_nobody_is_refused(server: Site, crate: str, method: str, body: bytes) -> None:
    """cargo ≤ 1.96 sends DELETE with an empty body when it wants the list; that must not remove anybody."""
    change(server, "PUT", crate, "carol")
    answered = change(server, method, crate, body=body)
    assert answered.status == 400
    assert answered.detail()
    assert owners(server, crate) == ["alice", "Carol"]


def test_body_beyond_a_mebibyte_is_refused(server: Site, crate: str) -> None:
    answered = change(server, "PUT", crate, body=b'{"users": ["' + b"x" * 1_100_000 + b'"]}')
    assert answered.status == 413
    assert answered.detail()


def test_old_key_is_understood(server: Site, crate: str) -> None:
    assert change(server, "PUT", crate, body=b'{"owners": ["bob"], "new_key": 1}').status == 200
    assert owners(server, crate) == ["alice", "bob"]


def test_only_owners_change_owners(server: Site, crate: str) -> None:
    for method in ("PUT", "DELETE"):
        refused = change(server, method, crate, "mallory", login="mallory")
        assert refused.status == 403
        assert "not an owner" in refused.detail()
        path = f"/api/v1/crates/{crate}/owners"
        assert ask(server, path, method=method, body=b'{"users": ["mallory"]}').status == 401
    assert owners(server, crate) == ["alice"]
    assert change(server, "PUT", "no-such-crate", "bob").status == 404


def test_member_of_an_owning_team_may_publish_and_yank_while_a_member(server: Site, crate: str) -> None:
    bob = server.token("bob")
    assert publish(server, bob, crate, "2.0.0").status == 403
    change(server, "PUT", crate, "team:core")
    assert publish(server, bob, crate, "2.0.0").status == 200
    assert ask(server, f"/api/v1/crates/{crate}/2.0.0/yank", method="DELETE", token=bob).status == 200
    assert publish(server, server.token("mallory"), crate, "3.0.0").status == 403
    server.cli("team", "remove", "core", "bob")
    try:
        assert publish(server, bob, crate, "3.0.0").status == 403
        assert ask(server, f"/api/v1/crates/{crate}/2.0.0/yank", method="DELETE", token=bob).status == 403
    finally:
        server.cli("team", "add", "core", "bob")


def test_admin_may_set_owners_and_yank_but_not_publish(server: Site, crate: str) -> None:
    server.user("root", "--role", "admin")
    root = server.token("root")
    assert publish(server, root, crate, "2.0.0").status == 403
    assert ask(server, f"/api/v1/crates/{crate}/1.0.0/yank", method="DELETE", token=root).status == 200
    assert change(server, "PUT", crate, "bob", login="root").status == 200
    assert owners(server, crate) == ["alice", "bob"]


def test_disabled_user_cannot_become_an_owner_and_keeps_what_they_own(server: Site, crate: str) -> None:
    server.token("dave")
    change(server, "PUT", crate, "dave")
    server.cli("user", "disable", "dave")
    assert owners(server, crate) == ["alice", "dave"]
    published(server, server.token("alice"), f"{crate}b")
    assert change(server, "PUT", f"{crate}b", "dave").status == 400


def test_newest_owner_is_asked_at_once(server: Site, crate: str) -> None:
    """What one request changed holds for the next, also for who published before."""
    change(server, "PUT", crate, "bob")
    change(server, "DELETE", crate, "alice", login="bob")
    refused = publish(server, server.token("alice"), crate, "2.0.0")
    assert refused.status == 403
    assert "cargo owner --add alice" in refused.detail()
