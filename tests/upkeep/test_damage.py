"""A tarball is gone, cut or changed on disk: it is never served as good, the operator hears of it, and can heal it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.crates import crate_file
from tests.programs import Server
from tests.upkeep.client import Client
from tests.upkeep.conftest import CONFIG, all_is_well, operate, soon, succeed, token_of

GOOD = crate_file("foo", "1.0.0", files={"src/lib.rs": b"// the bytes that were published"})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Shared: each test leaves no crate behind that is damaged."""
    with Server(tmp_path_factory.mktemp("damage"), CONFIG) as server:
        yield server


def stored(folder: Path, name: str = "foo") -> Path:
    (path,) = (folder / "crates_storage" / "main").rglob(f"{name}-1.0.0-*.crate")
    return path


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def health(client: Client) -> tuple[str, int]:
    answer = client.get("/healthz")
    assert answer.status == 200
    return answer.json()["status"], answer.json()["damaged_tarballs"]


def damage(path: Path, how: str) -> None:
    match how:
        case "missing":
            path.unlink()
        case "cut":
            path.write_bytes(GOOD[:-1])
        case "longer":
            path.write_bytes(GOOD + b"x")
        case "flipped":
            flip(path)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "the tarball is missing"),
        ("cut", f"the tarball has {len(GOOD) - 1} bytes and should have {len(GOOD)}"),
        ("longer", f"the tarball has {len(GOOD) + 1} bytes and should have {len(GOOD)}"),
        ("flipped", "the tarball's bytes are not those that were published"),
    ],
)
def test_damaged_tarball_is_named_not_served_and_heals(
    running: Server, alice: Client, how: str, says: str
) -> None:
    folder = running.data_dir
    assert alice.publish("foo", "1.0.0", GOOD).status == 200
    assert alice.publish("bar").status in (200, 409)
    path = stored(folder)
    damage(path, how)
    if how != "flipped":  # its size is not the recorded one: known without any check
        answer = alice.download("foo")
        assert answer.status == 500
        assert "damaged" in answer.refusal()
        assert "fsck" in answer.refusal()
    assert health(alice) == ("ok", 0)

    checked = operate(folder, "fsck", "--deep", "--json")
    wanted = {"registry": "main", "what": "foo@1.0.0", "problem": says, "repaired": False}
    assert (checked.code, checked.json()) == (1, {"findings": [wanted], "left": 1})
    assert alice.download("foo").status == 500, "known to be damaged, and not served"
    assert alice.download("bar").status == 200
    assert list(alice.lines("foo")) == ["1.0.0"], "who has it in a lock file hears of it at the download"
    assert health(alice) == ("degraded", 1)
    # It stays named, by the short check and by the repair, which can do nothing.
    for options in ([], ["--repair"], ["--deep", "--resume"]):
        again = operate(folder, "fsck", *options)
        assert again.code == (0 if "--resume" in options else 1), options
        assert ("foo@1.0.0" in again.stdout) is (again.code == 1)

    path.write_bytes(GOOD)
    succeed(folder, "fsck", "--deep")
    assert alice.download("foo").body == GOOD
    assert health(alice) == ("ok", 0)
    events = succeed(folder, "audit", "--crate", "foo", "--json").json()
    assert [(event["action"], event["actor"]) for event in events[-3:]] == [
        ("publish", "alice"),
        ("damage-found", "upkeep"),
        ("damage-gone", "upkeep"),
    ]
    assert events[-2]["detail"] == says
    all_is_well(folder)
    succeed(folder, "crate", "delete", "foo", "--reason", "for the next test")


def test_short_check_finds_what_is_missing(running: Server, alice: Client) -> None:
    assert alice.publish("foo", "1.0.0", GOOD).status == 200
    stored(running.data_dir).unlink()
    checked = operate(running.data_dir, "fsck")
    assert checked.code == 1
    assert "main: foo@1.0.0: the tarball is missing\n" in checked.stdout
    assert health(alice) == ("degraded", 1)
    succeed(running.data_dir, "crate", "delete", "foo", "--reason", "for the next test")


def test_damaged_version_can_be_deleted(running: Server, alice: Client) -> None:
    assert alice.publish("foo", "1.0.0", GOOD).status == 200
    stored(running.data_dir).unlink()
    assert operate(running.data_dir, "fsck").code == 1
    succeed(running.data_dir, "crate", "delete", "foo@1.0.0", "--reason", "damaged")
    assert health(alice) == ("ok", 0)
    all_is_well(running.data_dir)


def test_server_finds_damage_by_itself(tmp_path: Path) -> None:
    """Once in `verify_days` it reads every tarball; here a day has passed."""
    folder = tmp_path / "data"
    token = token_of(folder, "alice")
    for name, data in (("foo", GOOD), ("bar", crate_file("bar", "1.0.0"))):
        (tmp_path / f"{name}-1.0.0.crate").write_bytes(data)
        succeed(folder, "publish", tmp_path / f"{name}-1.0.0.crate", "--as", "alice")
    flip(stored(folder))
    config = CONFIG + "[upkeep]\nverify_days = 1\n"
    with Server(folder, config, workers=2) as server, Client(server.direct_url, token) as client:
        # Verified when it was published, so it is not due.
        assert not soon(lambda: health(client) != ("ok", 0), within_s=0.5)
        assert client.download("foo").status == 200
    with closing(sqlite3.connect(folder / "registry.db")) as rows:
        rows.execute("UPDATE versions SET verified_at = datetime(verified_at, '-2 days')")
        rows.commit()
    with Server(folder, config, workers=2) as server, Client(server.direct_url, token) as client:
        assert soon(lambda: health(client) == ("degraded", 1))
        assert client.download("foo").status == 500
        assert client.download("bar").status == 200
        found = [line for line in server.stderr().splitlines() if "foo@1.0.0 in registry main" in line]
        assert len(found) == 1, "only one process looks"
        assert " ERROR " in found[0]
        assert "the tarball's bytes are not those that were published" in found[0]
    events = succeed(folder, "audit", "--json").json()
    assert [event["crate"] for event in events if event["action"] == "damage-found"] == ["foo"]


def test_server_that_cannot_write_down_what_it_finds_tries_again(tmp_path: Path) -> None:
    """The check must not end for good because the disk was read-only, or the lock file could not be made."""
    folder = tmp_path / "data"
    token_of(folder, "alice")
    locks = folder / "index_data" / ".locks"
    (locks / "upkeep").mkdir()  # stands in for whatever keeps the lock from being taken
    with Server(folder, CONFIG) as server:
        assert soon(lambda: "tarballs are verified later" in server.stderr())
        server.kill()
