"""`cargo owner`: users and teams, all or none, and never nobody."""

import pytest

from tests.programs import Cargo, Server


@pytest.fixture
def user(cargo: Cargo, server: Server) -> Cargo:
    """Cargo of alice, who knows the registry `main` as `test`."""
    cargo.use(server, token=server.token("alice"))
    return cargo


def owner(cargo: Cargo, *arguments: str, fails: bool = False) -> str:
    return cargo("owner", "--registry", "test", *arguments, fails=fails)


def owners(cargo: Cargo, crate: str) -> list[str]:
    """Return the logins that `cargo owner --list` prints."""
    lines = owner(cargo, "--list", crate, "--quiet").splitlines()
    return [line.split()[0] for line in lines if line.strip() and not line.lstrip().startswith("Updating")]


def another(user: Cargo, server: Server, login: str) -> Cargo:
    """Return the cargo of another user on another machine."""
    cargo = Cargo(user.root / login, user.toolchain)
    cargo.use(server, token=server.token(login))
    return cargo


def test_added_owner_may_publish_and_removed_one_no_longer(user: Cargo, server: Server) -> None:
    bob = another(user, server, "bob")
    user.publish(user.new("shared-by-two"))
    assert owners(user, "shared-by-two") == ["alice"]
    assert "`bob` has been added to crate `shared-by-two`" in owner(user, "--add", "bob", "shared-by-two")
    assert owners(user, "shared-by-two") == ["alice", "bob"]
    bob.publish(bob.new("shared-by-two", "1.1.0"))
    bob("yank", "--registry", "test", "shared-by-two@1.1.0")
    owner(user, "--remove", "bob", "shared-by-two")
    assert owners(user, "shared-by-two") == ["alice"]
    assert "not one of its owners" in bob.publish(bob.new("shared-by-two", "1.2.0"), fails=True)


def test_members_of_an_owning_team_may_publish(user: Cargo, server: Server) -> None:
    bob = another(user, server, "bob")
    carol = another(user, server, "carol")
    server.cli("team", "add", "smiths", "bob")
    user.publish(user.new("team-work"))
    assert "not one of its owners" in bob.publish(bob.new("team-work", "1.1.0"), fails=True)
    owner(user, "--add", "team:smiths", "team-work")
    assert owners(user, "team-work") == ["alice", "team:smiths"]
    bob.publish(bob.new("team-work", "1.1.0"))
    assert "not one of its owners" in carol.publish(carol.new("team-work", "1.2.0"), fails=True)
    # Whoever joins may publish at once, without a restart.
    server.cli("team", "add", "smiths", "carol")
    carol.publish(carol.new("team-work", "1.2.0"))
    server.cli("team", "remove", "smiths", "bob")
    assert "not one of its owners" in bob.publish(bob.new("team-work", "1.3.0"), fails=True)
    owner(user, "--remove", "team:smiths", "team-work")
    assert owners(user, "team-work") == ["alice"]


def test_one_unknown_login_is_named_and_nobody_is_added(user: Cargo, server: Server) -> None:
    server.user("bob")
    user.publish(user.new("all-or-none"))
    for nobody in ("no-such-user", "team:no-such-team"):
        said = owner(user, "--add", "bob", "--add", nobody, "all-or-none", fails=True)
        assert f"`{nobody.removeprefix('team:')}`" in said
        assert owners(user, "all-or-none") == ["alice"]


def test_last_owner_stays(user: Cargo) -> None:
    user.publish(user.new("last-one"))
    said = owner(user, "--remove", "alice", "last-one", fails=True)
    assert "would be left without an owner" in said
    assert owners(user, "last-one") == ["alice"]


def test_remove_and_list_in_one_command_removes_only_who_was_named(user: Cargo, server: Server) -> None:
    """cargo ≤ 1.96 sends the list as a second `DELETE`, with an empty body: never "remove all"."""
    for login in ("bob", "carol"):
        server.user(login)
    user.publish(user.new("listed-too"))
    owner(user, "--add", "bob", "--add", "carol", "listed-too")
    owner(user, "--remove", "bob", "--list", "listed-too", fails=user.version < (1, 97))
    assert owners(user, "listed-too") == ["alice", "carol"]


def test_owner_of_one_crate_does_not_rule_others(user: Cargo, server: Server) -> None:
    bob = another(user, server, "bob")
    user.publish(user.new("not-bobs"))
    said = owner(bob, "--add", "bob", "not-bobs", fails=True)
    assert "`bob` is not an owner of crate `not-bobs`" in said
    assert "status 404 Not Found" in owner(user, "--list", "no-such-crate", fails=True)
