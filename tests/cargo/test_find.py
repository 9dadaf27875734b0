"""`cargo search`, `cargo info` and `cargo install`: finding a crate and using it as a program."""

import subprocess

import pytest

from tests.programs import Cargo, Server


@pytest.fixture
def user(cargo: Cargo, server: Server) -> Cargo:
    """Cargo of alice, who knows the registry `shop` as `test`."""
    cargo.use(server, "shop", token=server.token("alice"))
    return cargo


@pytest.fixture
def shop(user: Cargo, server: Server) -> Cargo:
    """The same; thirteen crates are on offer."""
    if not server.http.get("/shop/api/v1/crates").json()["meta"]["total"]:
        wares = {"apple-pie": "sweet pie of apples", "pie": "any pie", "apple_tree": "grows apples"}
        wares |= {f"nail-{number}": "steel nail" for number in range(10)}
        for name, description in wares.items():
            user.publish(user.new(name, package=f'description = "{description}"\nkeywords = ["hardware"]'))
    return user


def found(cargo: Cargo, *words: str) -> list[str]:
    """Return the names that `cargo search` prints."""
    lines = cargo("search", "--registry", "test", *words).splitlines()
    return [line.split()[0] for line in lines if ' = "' in line]


def test_search_puts_the_exact_name_first(shop: Cargo) -> None:
    assert found(shop, "pie") == ["pie", "apple-pie"]
    said = shop("search", "--registry", "test", "pie")
    assert 'pie = "1.0.0"' in said
    assert "# any pie" in said


def test_search_takes_several_words_and_needs_them_all(shop: Cargo) -> None:
    """cargo joins them with a plus, which it then encodes."""
    assert found(shop, "apple", "sweet") == ["apple-pie"]
    assert found(shop, "apple sweet") == ["apple-pie"]
    assert found(shop, "apple", "steel") == []


def test_search_ignores_case_and_the_kind_of_dash(shop: Cargo) -> None:
    assert found(shop, "Apple-Tree") == ["apple_tree"]
    assert found(shop, "apple_pie")[0] == "apple-pie"


def test_search_obeys_the_limit_and_says_how_many_there_are(shop: Cargo) -> None:
    assert len(found(shop, "nail")) == 10
    assert len(found(shop, "hardware", "--limit", "100")) == 13
    said = shop("search", "--registry", "test", "hardware", "--limit", "4")
    assert "... and 9 crates more" in said


@pytest.mark.parametrize("query", ["", "%", '"', "*", "a AND", "né", "-pie", "c++", "🦀", "' OR 1=1 --", "("])
def test_search_takes_any_text(shop: Cargo, query: str) -> None:
    shop("search", "--registry", "test", "--", query)


def test_info_shows_what_the_manifest_says(user: Cargo) -> None:
    package = 'description = "shown by info"\nlicense = "MIT"\nrust-version = "1.60"\nkeywords = ["seen"]'
    user.publish(user.new("informed", "0.3.0", package=package, features={"default": [], "more": []}))
    said = user("info", "informed", "--registry", "test")
    for words in ("shown by info", "version: 0.3.0", "license: MIT", "rust-version: 1.60", "#seen", "more"):
        assert words in said


def test_install_gives_a_program_that_runs(user: Cargo) -> None:
    user.publish(user.new("installed-lib", lib="pub const N: u8 = 5;"))
    main = 'fn main() { println!("n={}", installed_lib::N) }'
    for version in ("1.0.0", "1.1.0"):
        user.publish(user.new("installed", version, deps={"installed-lib": "1"}, main=main))
    user("yank", "--registry", "test", "installed@1.1.0")
    assert "yanked" in user("install", "--registry", "test", "installed@1.1.0", fails=True)
    assert "Installed package `installed v1.0.0" in user("install", "--registry", "test", "installed")
    program = user.home / "bin" / "installed"
    assert subprocess.run([program], capture_output=True, check=True).stdout == b"n=5\n"
