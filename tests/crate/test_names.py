import pytest

from cargo_registry.crate import names
from cargo_registry.crate.names import CrateName
from cargo_registry.errors import InvalidName

from .conftest import RealCrate

GARBAGE = [
    "",
    " ",
    "a b",
    "a\0",
    "\0",
    "a\n",
    "é",
    "aé",
    "\uff11a",
    "a\uff11",
    "a.b",
    "a/b",
    "../a",
    "a::b",
    "🦀",
    "\u017ferde",
]


def test_the_names_of_real_crates_and_their_dependencies_are_allowed(real_crates: list[RealCrate]) -> None:
    for crate in real_crates:
        CrateName(crate.line["name"])
        for dep in crate.line["deps"]:
            CrateName(dep.get("package", dep["name"]))
            names.check_rename(dep["name"])


@pytest.mark.parametrize(
    "text", ["a", "A", "a1", "a-", "a_", "a--b", "Serde_JSON", "a" * 64, "com10", "stdx"]
)
def test_allowed_crate_names(text: str) -> None:
    assert str(CrateName(text)) == text


@pytest.mark.parametrize("text", [*GARBAGE, "1a", "-a", "_a", "a" * 65, "a" * 1_000_000])
def test_crate_names_that_are_not_allowed(text: str) -> None:
    with pytest.raises(InvalidName, match="the crate name"):
        CrateName(text)


@pytest.mark.parametrize(
    "text",
    [
        "std",
        "Core",
        "alloc",
        "test",
        "proc-macro",
        "proc_macro",
        "rustc",
        "rust-installer",
        "nul",
        "CON",
        "com0",
        "lpt9",
    ],
)
def test_reserved_crate_names(text: str) -> None:
    with pytest.raises(InvalidName, match="reserved"):
        CrateName(text)


def test_a_crate_name_has_a_form_for_paths_and_one_for_comparing() -> None:
    name = CrateName("Tiny-Base_x")
    assert (name.text, name.lower, name.canonical) == ("Tiny-Base_x", "tiny-base_x", "tiny_base_x")


@pytest.mark.parametrize(("text", "form"), [("Tiny-Base", "tiny_base"), ("a" * 64, "a" * 64), ("std", "std")])
def test_a_look_up_finds_every_spelling(text: str, form: str) -> None:
    assert names.canonical(text) == form


@pytest.mark.parametrize("text", [*GARBAGE, "1a", "a" * 65, "\ud800"])
def test_a_look_up_of_anything_else_finds_nothing(text: str) -> None:
    assert names.canonical(text) is None


@pytest.mark.parametrize("name", ["std", "core", "compiler_builtins", "nul"])
def test_a_dependency_may_be_a_crate_that_another_registry_has(name: str) -> None:
    names.check_dependency_name(name)


@pytest.mark.parametrize("name", ["_a", "_", "1a", "a.b"])
def test_a_dependency_is_named_like_a_crate(name: str) -> None:
    with pytest.raises(InvalidName, match="the dependency name"):
        names.check_dependency_name(name)


@pytest.mark.parametrize("name", ["a", "_", "_a", "core", "a-b"])
def test_a_renamed_dependency_may_start_with_an_underscore(name: str) -> None:
    names.check_rename(name)


@pytest.mark.parametrize("name", ["", "1a", "-a", "a.b", "é", "a\n", "a" * 65])
def test_other_renames_are_not_allowed(name: str) -> None:
    with pytest.raises(InvalidName, match="the dependency name"):
        names.check_rename(name)


# (cargo: cargo-util-schemas/src/restricted_names.rs, `valid_feature_names` and `invalid_feature_names`)
@pytest.mark.parametrize(
    "name", ["c++17", "128bit", "_foo", "feat-name", "feat_name", "foo.bar", "größe", "a" * 200]
)
def test_allowed_feature_names(name: str) -> None:
    names.check_feature_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "+foo", "-foo", ".foo", "foo:bar", "foo?", "?foo", "ⒶⒷⒸ", "a¼", "dep:a", "a/b", "a b", "a\n", "a\0"],
)
def test_feature_names_that_are_not_allowed(name: str) -> None:
    with pytest.raises(InvalidName, match="feature"):
        names.check_feature_name(name)


@pytest.mark.parametrize("text", ["a", "1", "Ann", "ann.b-c_d", "a" * 64])
def test_allowed_logins_and_teams(text: str) -> None:
    names.check_login(text)
    names.check_team(text)


@pytest.mark.parametrize("text", ["", ".a", "-a", "_a", "a b", "a\n", "é", "a@b", "a:b", "a/b", "a" * 65])
def test_logins_and_teams_that_are_not_allowed(text: str) -> None:
    with pytest.raises(InvalidName, match="the login"):
        names.check_login(text)
    with pytest.raises(InvalidName, match="the team name"):
        names.check_team(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("serde", "`serde`"),
        ("größe", "`größe`"),
        ("a\x1b[2J\n", r"`a\x1b[2J\n`"),
        ("x" * 81, f"`{'x' * 80}…`"),
    ],
)
def test_a_message_shows_text_short_and_harmless(text: str, shown: str) -> None:
    assert names.shown(text) == shown
