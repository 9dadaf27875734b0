"""Crates, versions, owners, users, tokens, downloads: what the rows keep, and what they refuse."""

import itertools
from datetime import date, timedelta

import pytest
from sqlalchemy import Connection, text

from cargo_registry.crate.names import CrateName
from cargo_registry.db import crates, downloads, owners, search, tokens, users
from cargo_registry.db.users import Role
from cargo_registry.errors import Conflict, NotFound
from tests.db.conftest import NOW, Db, add_crate


def add_user(tx: Connection, login: str) -> int:
    return users.add(tx, login, name=None, role=Role.PUBLISHER, now=NOW).id


# --- Crates and versions ---


def test_crate_is_found_by_any_spelling_and_keeps_its_own(db: Db) -> None:
    db.write(add_crate, "Foo-bar_Baz")
    for spelling in ("Foo-bar_Baz", "foo_bar_baz", "FOO-BAR-BAZ", "foo-bar_baz"):
        assert db.look_up(crates.get, "main", spelling).name == "Foo-bar_Baz"


@pytest.mark.parametrize(
    "name",
    ["", "other", "foo.bar", "foo/bar", "ﬀoo", "foo\0", "Foo-bar_Baz ", "\ud800", "x" * 10_000, "1foo"],
)
def test_what_cannot_be_a_crate_is_not_found(db: Db, name: str) -> None:
    db.write(add_crate, "Foo-bar_Baz")
    assert db.look_up(crates.find, "main", name) is None
    with pytest.raises(NotFound, match="does not exist in registry `main`"):
        db.look_up(crates.get, "main", name)


def test_claim_says_who_was_first(db: Db) -> None:
    def claim(tx: Connection, name: str, registry: str = "main") -> tuple[str, bool]:
        crate, is_new = crates.claim(tx, registry, CrateName(name), now=NOW)
        return crate.name, is_new

    assert db.write(claim, "Foo-Bar") == ("Foo-Bar", True)
    assert db.write(claim, "foo_bar") == ("Foo-Bar", False)
    assert db.write(claim, "foo_bar", "other") == ("foo_bar", True)


@pytest.mark.parametrize(
    ("published", "again"),
    [
        ("1.0.0", "1.0.0"),
        ("1.0.0+a", "1.0.0"),
        ("1.0.0", "1.0.0+a"),
        ("1.0.0+a", "1.0.0+b"),
        ("1.0.0-rc.1+a", "1.0.0-rc.1"),
    ],
)
@pytest.mark.parametrize("yanked", [False, True])
def test_version_exists_once_whatever_its_build_metadata(
    db: Db, published: str, again: str, yanked: bool
) -> None:
    crate = db.write(add_crate, "foo", published)
    db.write(crates.set_yanked, crate, published, yanked, now=NOW)
    with pytest.raises(Conflict, match=r"`foo@.*already uploaded.*never changes"):
        db.write(add_crate, "foo", again)
    assert [version.vers for version in db.look_up(crates.versions_of, crate)] == [published]


def test_versions_that_differ_in_more_are_others(db: Db) -> None:
    versions = ["1.0.0", "1.0.0-rc.1", "1.0.0-RC.1", "1.0.1", "10.0.0"]
    crate = db.write(add_crate, "foo", *versions)
    assert [version.vers for version in db.look_up(crates.versions_of, crate)] == versions
    assert len(db.look_up(crates.lines, "main", CrateName("foo"))) == 5


@pytest.mark.parametrize("vers", ["1.0", "1.0.0+other", "v1.0.0", "", "\u0661.0.0", "1.0.0\0", "\ud800"])
def test_version_is_found_only_as_published(db: Db, vers: str) -> None:
    crate = db.write(add_crate, "foo", "1.0.0+b.1")
    assert db.look_up(crates.listed, "main", "FOO", "1.0.0+b.1") is not None
    assert db.look_up(crates.listed, "main", "foo", vers) is None
    with pytest.raises(NotFound, match="does not have a version"):
        db.look_up(crates.get_version, crate, vers)


def test_yank_is_a_flag_beside_the_line(db: Db) -> None:
    crate = db.write(add_crate, "foo", "1.0.0", "1.1.0")
    before = db.look_up(crates.lines, "main", CrateName("foo"))
    assert db.write(crates.set_yanked, crate, "1.1.0", True, now=NOW) is True
    assert db.write(crates.set_yanked, crate, "1.1.0", True, now=NOW) is False
    assert db.look_up(crates.lines, "main", CrateName("foo")) == [before[0], (before[1][0], True)]
    assert db.look_up(crates.get, "main", "foo").max_version == "1.0.0"
    assert db.write(crates.set_yanked, crate, "1.1.0", False, now=NOW) is True
    assert db.look_up(crates.lines, "main", CrateName("foo")) == before
    assert db.look_up(crates.get, "main", "foo").max_version == "1.1.0"


@pytest.mark.parametrize("yanked", ["", "1.0.0", "2.0.0", "2.1.0-rc.1"])
@pytest.mark.parametrize("order", list(itertools.permutations(["1.0.0", "2.0.0", "2.1.0-rc.1"])))
def test_crate_is_shown_as_its_highest_stable_version_says_in_whatever_order_they_came(
    db: Db, order: tuple[str, ...], yanked: str
) -> None:
    for vers in order:
        db.write(add_crate, "foo", vers, description=f"text of {vers}", keywords=("all", vers[:1]))
        if vers == yanked:
            db.write(crates.set_yanked, db.look_up(crates.get, "main", "foo"), vers, True, now=NOW)
    left = [vers for vers in ("1.0.0", "2.0.0", "2.1.0-rc.1") if vers != yanked]
    highest_stable = "1.0.0" if yanked == "2.0.0" else "2.0.0"
    crate = db.look_up(crates.get, "main", "foo")
    assert (crate.max_version, crate.max_stable_version) == (left[-1], highest_stable)
    assert (crate.default_version, crate.description) == (highest_stable, f"text of {highest_stable}")
    wanted = {"all": 1, highest_stable[:1]: 1}
    assert db.look_up(crates.label_counts, "main", "keyword", ["all", "1", "2"]) == wanted
    for vers in order:
        found, _ = db.look_up(search.find, "main", f"text of {vers}", limit=5, offset=0)
        assert bool(found) is (vers == highest_stable)


# --- Users and teams ---


@pytest.mark.parametrize("login", ["alice", "Alice", "ALICE"])
def test_login_is_unique_whatever_its_case(db: Db, login: str) -> None:
    db.write(add_user, "Alice")
    with pytest.raises(Conflict):
        db.write(add_user, login)
    found = db.look_up(users.find, login)
    assert found is not None
    assert found.login == "Alice"


def test_team_takes_all_members_or_none(db: Db) -> None:
    db.write(add_user, "alice")
    with pytest.raises(NotFound, match="no user `nobody`"):
        db.write(users.add_to_team, "core", ["alice", "nobody"], now=NOW)
    assert db.look_up(users.every_team) == []
    db.write(users.add_to_team, "core", ["ALICE", "alice"], now=NOW)
    assert db.write(users.add_to_team, "Core", [], now=NOW).members == ["alice"]


def test_team_that_owns_crates_stays(db: Db) -> None:
    crate = db.write(add_crate, "foo")
    db.write(users.add_to_team, "core", [], now=NOW)
    team = db.look_up(users.find_team, "core")
    assert team is not None
    db.write(owners.add_team, crate.id, team.id)
    with pytest.raises(Conflict, match="still owns 1"):
        db.write(users.remove_from_team, "core", [])
    (owner,) = db.look_up(owners.of_crate, crate.id)
    db.write(owners.remove, crate.id, owner)
    db.write(users.remove_from_team, "core", [])
    assert db.look_up(users.every_team) == []


def test_no_such_team_or_member_is_named(db: Db) -> None:
    db.write(add_user, "alice")
    db.write(users.add_to_team, "core", [], now=NOW)
    with pytest.raises(NotFound, match="no team `other`"):
        db.write(users.remove_from_team, "other", [])
    with pytest.raises(NotFound, match="`alice` is not a member of the team `core`"):
        db.write(users.remove_from_team, "core", ["alice"])


# --- Owners ---


def test_members_of_a_team_own_what_it_owns_while_they_are_members(db: Db) -> None:
    crate = db.write(add_crate, "foo")
    alice, bob = db.write(add_user, "alice"), db.write(add_user, "bob")
    team = db.write(users.add_to_team, "core", ["bob"], now=NOW)
    db.write(owners.add_user, crate.id, alice)
    db.write(owners.add_team, crate.id, team.id)
    assert db.look_up(owners.is_owner, crate.id, alice)
    assert db.look_up(owners.is_owner, crate.id, bob)
    assert not db.look_up(owners.is_owner, crate.id + 1, bob)
    db.write(users.remove_from_team, "core", ["bob"])
    assert not db.look_up(owners.is_owner, crate.id, bob)
    assert [owner.login for owner in db.look_up(owners.of_crate, crate.id)] == ["alice", "team:core"]


def test_owner_is_one_once(db: Db) -> None:
    crate = db.write(add_crate, "foo")
    alice = db.write(add_user, "alice")
    assert db.write(owners.add_user, crate.id, alice) is True
    assert db.write(owners.add_user, crate.id, alice) is False
    assert len(db.look_up(owners.of_crate, crate.id)) == 1


def test_user_and_team_of_one_id_are_two_owners(db: Db) -> None:
    crate = db.write(add_crate, "foo")
    alice = db.write(add_user, "alice")
    team = db.write(users.add_to_team, "alice", [], now=NOW)
    assert alice == team.id
    db.write(owners.add_user, crate.id, alice)
    db.write(owners.add_team, crate.id, team.id)
    user, team_owner = db.look_up(owners.of_crate, crate.id)
    db.write(owners.remove, crate.id, user)
    assert db.look_up(owners.of_crate, crate.id) == [team_owner]


# --- Tokens ---


SHA256 = (b"%032d" % number for number in itertools.count())


def add_token(tx: Connection, /, user_id: int, **more: object) -> bytes:
    sha256 = next(SHA256)
    values = {"name": "", "scopes": None, "crates": None, "registries": None, "expires_at": None, "now": NOW}
    tokens.add(tx, user_id, sha256=sha256, **(values | more))  # type: ignore[arg-type]
    return sha256


def test_holder_of_a_token_is_its_user_and_knows_when_it_expires(db: Db) -> None:
    sha256 = db.write(add_token, db.write(add_user, "alice"), expires_at=NOW + timedelta(hours=1))
    holder = db.look_up(tokens.holder, sha256)
    assert holder is not None
    assert (holder.token.login, holder.role) == ("alice", Role.PUBLISHER)
    assert holder.token.expires_at == NOW + timedelta(hours=1)


def test_revoked_token_is_useless_and_keeps_the_first_time(db: Db) -> None:
    sha256 = db.write(add_token, db.write(add_user, "alice"))
    (token,) = db.look_up(tokens.issued, "ALICE")
    db.write(tokens.revoke, token.id, now=NOW)
    db.write(tokens.revoke, token.id, now=NOW + timedelta(days=1))
    assert db.look_up(tokens.holder, sha256) is None
    (token,) = db.look_up(tokens.issued, None)
    assert token.revoked_at == NOW
    with pytest.raises(NotFound, match="no token 99"):
        db.write(tokens.revoke, 99, now=NOW)


def test_disabled_user_has_no_good_token_and_gets_them_back(db: Db) -> None:
    sha256 = db.write(add_token, db.write(add_user, "alice"))
    db.write(users.set_disabled, "alice", True)
    assert db.look_up(tokens.holder, sha256) is None
    db.write(users.set_disabled, "alice", False)
    assert db.look_up(tokens.holder, sha256) is not None


def test_limits_of_a_token_are_kept_as_given(db: Db) -> None:
    sha256 = db.write(
        add_token,
        db.write(add_user, "alice"),
        scopes=["yank"],
        crates=["team-*", "ü"],
        registries=["main", "secret"],
    )
    holder = db.look_up(tokens.holder, sha256)
    assert holder is not None
    assert list(holder.token.scopes or ()) == ["yank"]
    assert list(holder.token.crates or ()) == ["team-*", "ü"]
    assert list(holder.token.registries or ()) == ["main", "secret"]


# --- Downloads ---


def test_downloads_add_up_by_day_version_and_crate(db: Db) -> None:
    crate = db.write(add_crate, "foo", "1.0.0", "2.0.0")
    other = db.write(add_crate, "bar")
    first, second = (version.id for version in db.look_up(crates.versions_of, crate))
    day, next_day = date(2026, 8, 1), date(2026, 8, 2)
    db.write(downloads.add, {(first, day): 2, (second, day): 1})
    db.write(downloads.add, {(first, day): 3, (first, next_day): 10})
    assert [version.downloads for version in db.look_up(crates.versions_of, crate)] == [15, 1]
    assert db.look_up(crates.get, "main", "foo").downloads == 16
    assert db.look_up(crates.get, "main", "bar").downloads == 0 == other.downloads
    days = db.look_up(
        lambda tx: tx.execute(text("SELECT version_id, day, downloads FROM download_days")).all()
    )
    assert sorted(map(tuple, days)) == [
        (first, "2026-08-01", 5),
        (first, "2026-08-02", 10),
        (second, "2026-08-01", 1),
    ]


# --- Times ---


def test_time_without_a_zone_is_a_bug(db: Db) -> None:
    with pytest.raises(Exception, match="naive"):
        db.write(users.add, "alice", name=None, role=Role.READER, now=NOW.replace(tzinfo=None))
    user = db.write(users.add, "alice", name=None, role=Role.READER, now=NOW)
    found = db.look_up(users.find, "alice")
    assert found is not None
    assert found.created_at == user.created_at == NOW
    assert found.created_at.tzinfo is not None
