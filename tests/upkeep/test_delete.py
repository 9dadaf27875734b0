"""`cargo-registry crate delete`: it is gone, and its number stays taken."""

from pathlib import Path

import pytest

from tests.crates import crate_file
from tests.programs import Server
from tests.upkeep.client import Client
from tests.upkeep.conftest import all_is_well, operate, succeed

SAME = crate_file("foo", "1.0.0")
OTHER = crate_file("foo", "1.0.0", files={"src/lib.rs": b"// other bytes"})


def test_deleted_version_comes_back_only_with_the_same_bytes(running: Server, alice: Client) -> None:
    folder = running.data_dir
    assert alice.publish("foo", "1.0.0", SAME).status == 200
    assert alice.publish("foo", "1.1.0").status == 200
    said = succeed(folder, "crate", "delete", "foo@1.0.0", "--reason", "a secret slipped in")
    assert said.stderr == "deleted `foo@1.0.0`\n"
    assert list(alice.lines("foo")) == ["1.1.0"]
    assert alice.download("foo").status == 404
    assert alice.get("/api/v1/crates/foo/1.0.0").status == 404
    assert len(list((folder / "crates_storage").rglob("foo-1.0.0-*"))) == 0
    all_is_well(folder)

    refused = alice.publish("foo", "1.0.0", OTHER)
    assert refused.status == 409
    assert "deleted" in refused.refusal()
    build = crate_file("foo", "1.0.0+again")
    assert alice.publish("foo", "1.0.0+again", build).status == 409, "build metadata makes no other version"
    assert alice.publish("foo", "1.0.0", SAME).status == 200
    assert alice.download("foo").body == SAME
    all_is_well(folder)

    (event,) = [event for event in succeed(folder, "audit", "--json").json() if event["action"] == "delete"]
    assert (event["crate"], event["vers"], event["detail"]) == ("foo", "1.0.0", "a secret slipped in")
    assert event["token_id"] is None


def test_name_of_a_deleted_crate_is_free_and_its_numbers_are_not(running: Server, alice: Client) -> None:
    folder = running.data_dir
    for vers in ("1.0.0", "1.1.0"):
        assert alice.publish("foo", vers).status == 200
    said = succeed(folder, "crate", "delete", "Foo", "--reason", "no longer ours", "--json")
    assert said.json()["deleted"] == ["1.0.0", "1.1.0"]
    assert alice.lines("foo") == {}
    assert alice.get("/api/v1/crates/foo").status == 404
    assert alice.get("/api/v1/crates?q=foo").json()["meta"]["total"] == 0
    succeed(folder, "user", "add", "bob")
    token = succeed(folder, "token", "create", "bob").stdout.strip()
    with Client(running.direct_url, token) as bob:
        assert bob.publish("foo", "1.0.0", OTHER).status == 409
        assert bob.lines("foo") == {}, "a refused publish does not claim the name"
        assert bob.publish("foo", "2.0.0").status == 200
        assert bob.owners("foo") == {"bob"}
    all_is_well(folder)


@pytest.mark.parametrize("what", ["nobody", "nobody@1.0.0", "foo@9.9.9"])
def test_what_is_not_there_cannot_be_deleted(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "data"
    succeed(folder, "user", "add", "alice")
    (tmp_path / "foo-1.0.0.crate").write_bytes(SAME)
    succeed(folder, "publish", tmp_path / "foo-1.0.0.crate", "--as", "alice")
    done = operate(folder, "crate", "delete", what, "--reason", "a test")
    assert (done.code, done.stderr.count("\n")) == (1, 1)
    assert "does not" in done.stderr
    all_is_well(folder)
