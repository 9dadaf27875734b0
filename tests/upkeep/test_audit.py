"""Everything that changes state is written down: who, what, when, from where, with which token."""

import json
from pathlib import Path
from typing import Any

from tests.crates import crate_file, metadata, publish_body
from tests.programs import Server
from tests.upkeep.client import Client
from tests.upkeep.conftest import CONFIG, operate, succeed, token_of

PROXY = CONFIG.replace("[limits]", '[server]\ntrusted_proxies = ["127.0.0.1"]\n[limits]')


def events(folder: Path, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = succeed(folder, "audit", *options, "--json").json()
    return found


def test_every_change_over_http_says_who_and_from_where(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with Server(folder, PROXY) as server:
        token = token_of(folder, "alice")
        succeed(folder, "user", "add", "bob")
        (listed,) = succeed(folder, "token", "list", "alice", "--json").json()
        before = len(events(folder))
        with Client(server.direct_url, token) as client:
            # The proxy adds the last; what stands before it, anybody can make up.
            headers = {"X-Forwarded-For": "6.6.6.6, 203.0.113.7"}
            client.publish("warm-up")
            changes = [
                ("PUT", "/api/v1/crates/foo/owners", {"users": ["bob"]}),
                ("DELETE", "/api/v1/crates/foo/owners", {"users": ["bob"]}),
                ("DELETE", "/api/v1/crates/foo/1.0.0/yank", None),
                ("DELETE", "/api/v1/crates/foo/1.0.0/yank", None),  # changes nothing
                ("PUT", "/api/v1/crates/foo/1.0.0/unyank", None),
            ]
            body = publish_body(metadata("foo", "1.0.0"), crate_file("foo", "1.0.0"))
            for _ in range(2):  # the second is refused, which changes nothing
                client.ask("PUT", "/api/v1/crates/new", body, headers)
            for method, path, sent in changes:
                data = None if sent is None else json.dumps(sent).encode()
                assert client.ask(method, path, data, headers).status == 200
        found = events(folder)[before:]
    assert found[0]["address"] == "127.0.0.1"
    assert [(event["action"], event["crate"], event["vers"], event["detail"]) for event in found[1:]] == [
        ("publish", "foo", "1.0.0", ""),
        ("owner-add", "foo", None, "bob"),
        ("owner-remove", "foo", None, "bob"),
        ("yank", "foo", "1.0.0", ""),
        ("unyank", "foo", "1.0.0", ""),
    ]
    for event in found[1:]:
        assert event["actor"] == "alice"
        assert event["address"] == "203.0.113.7"
        assert event["token_id"] == listed["id"]
        assert event["registry"] == "main"
        assert event["at"].startswith("20")
    assert token not in json.dumps(found)


def test_every_change_by_the_operator_is_written_down(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (tmp_path / "foo-1.0.0.crate").write_bytes(crate_file("foo", "1.0.0"))
    secret = token_of(folder, "alice")
    succeed(folder, "user", "add", "bob")
    (listed,) = succeed(folder, "token", "list", "alice", "--json").json()
    for command in (
        ["publish", str(tmp_path / "foo-1.0.0.crate"), "--as", "alice"],
        ["owner", "add", "foo", "bob"],
        ["owner", "remove", "foo", "bob"],
        ["crate", "yank", "foo@1.0.0"],
        ["crate", "unyank", "foo@1.0.0"],
        ["crate", "delete", "foo", "--reason", "a test"],
        ["token", "revoke", str(listed["id"])],
    ):
        succeed(folder, *command)
    found = events(folder)
    assert {"user-add", "token-create", "token-revoke"} <= {event["action"] for event in found}
    assert [event["action"] for event in found if event["crate"]] == [
        "publish",
        "owner-add",
        "owner-remove",
        "yank",
        "unyank",
        "delete",
    ]
    assert all(event["token_id"] is None for event in found), "at the command line, nobody shows a token"
    assert len({event["address"] for event in found}) == 1, "the command line, not an address of the network"
    assert secret not in json.dumps(found)
    assert [event["action"] for event in events(folder, "--crate", "foo", "--limit", "2")] == [
        "unyank",
        "delete",
    ]
    assert {event["actor"] for event in events(folder, "--actor", "alice")} == {"alice"}
    assert len(events(folder, "--since", "1h")) == len(found)
    assert "publish" in succeed(folder, "audit").stdout
    assert operate(folder, "audit", "--registry", "nobody").code == 1
