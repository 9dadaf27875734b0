"""What cargo makes of the index: add, build, update, yanked versions, and how little it asks twice."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.programs import Cargo, Server


@pytest.fixture
def user(cargo: Cargo, server: Server) -> Cargo:
    """Cargo of alice, who knows the registry `main` as `test`."""
    cargo.use(server, token=server.token("alice"))
    return cargo


def locked(app: Path, name: str) -> str:
    """Return the version of a crate in a lock file."""
    match = re.search(rf'name = "{name}"\nversion = "([^"]*)"', (app / "Cargo.lock").read_text())
    assert match is not None
    return match[1]


def says(version: str) -> str:
    """Return the source of a library that knows its version."""
    return f'pub const VERSION: &str = "{version}";'


def test_published_crate_is_added_built_and_run(user: Cargo, server: Server) -> None:
    user.publish(user.new("greeting", lib='pub fn hello() -> &\'static str { "hello from greeting" }'))
    app = user.new("greeting-app", main='fn main() { println!("{}", greeting::hello()) }')
    assert "Adding greeting v1.0.0" in user("add", "greeting", "--registry", "test", cwd=app)
    assert "hello from greeting" in user("run", cwd=app)
    assert f'source = "{server.index_url()}"' in (app / "Cargo.lock").read_text()


def test_add_finds_the_crate_under_its_other_spelling(user: Cargo) -> None:
    user.publish(user.new("snake_crate"))
    app = user.new("snake-app")
    said = user("add", "snake-crate", "--registry", "test", cwd=app)
    assert "translating `snake-crate` to `snake_crate`" in said
    user("check", cwd=app)


def test_update_leaves_a_yanked_version_and_returns_to_it(user: Cargo) -> None:
    for version in ("1.0.0", "1.1.0"):
        user.publish(user.new("moving", version, lib=says(version)))
    app = user.new("moving-app", deps={"moving": "1"}, main='fn main() { println!("{}", moving::VERSION) }')
    assert "1.1.0" in user("run", cwd=app)
    assert "Yank moving@1.1.0" in user("yank", "--registry", "test", "moving@1.1.0")

    # A locked build goes on, also for somebody who has to download the version first.
    shutil.rmtree(user.home / "registry")
    assert "1.1.0" in user("run", "--locked", cwd=app)
    user("update", cwd=app)
    assert locked(app, "moving") == "1.0.0"
    assert "1.0.0" in user("run", cwd=app)

    user("yank", "--undo", "--registry", "test", "moving@1.1.0")
    user("update", cwd=app)
    assert locked(app, "moving") == "1.1.0"


def test_only_yanked_versions_left_resolves_nothing_new(user: Cargo) -> None:
    user.publish(user.new("withdrawn"))
    user("yank", "--registry", "test", "withdrawn@1.0.0")
    app = user.new("withdrawn-app", deps={"withdrawn": "1"})
    assert "version 1.0.0 is yanked" in user("check", cwd=app, fails=True)


def test_unknown_crate_is_said_to_be_unknown(user: Cargo) -> None:
    app = user.new("nothing-app", deps={"no-such-crate": "1"})
    assert "no matching package named `no-such-crate` found" in user("check", cwd=app, fails=True)


def test_update_asks_for_what_changed_and_only_that_is_sent(cargo: Cargo, recorded: Server) -> None:
    cargo.use(recorded, token=recorded.token("alice"))
    for name in ("etag-a", "etag-b"):
        cargo.publish(cargo.new(name))
    app = cargo.new("etag-app", deps={"etag-a": "1", "etag-b": "1"})

    def answers() -> dict[str, int]:
        recorded.forget()
        cargo("update", cwd=app)
        return {exchange.target: exchange.status for exchange in recorded.requests}

    shutil.rmtree(cargo.home / "registry")
    config, a, b = "/index/config.json", "/index/et/ag/etag-a", "/index/et/ag/etag-b"
    assert answers() == {config: 200, a: 200, b: 200}
    etags = {exchange.target: exchange.answer_headers["etag"] for exchange in recorded.requests}
    assert answers() == {config: 200, a: 304, b: 304}
    asked = {exchange.target: exchange.headers["if-none-match"] for exchange in recorded.requests}
    assert asked == etags

    # Two changes within one second, after which the file has its old length again: both are seen.
    cargo("yank", "--registry", "test", "etag-a@1.0.0")
    cargo("update", cwd=app, fails=True)
    cargo("yank", "--undo", "--registry", "test", "etag-a@1.0.0")
    assert answers() == {config: 200, a: 200, b: 304}
    assert answers() == {config: 200, a: 304, b: 304}


def test_satisfied_lock_file_asks_nothing(cargo: Cargo, recorded: Server) -> None:
    cargo.use(recorded, token=recorded.token("alice"))
    cargo.publish(cargo.new("quiet"))
    app = cargo.new("quiet-app", deps={"quiet": "1"})
    cargo("fetch", cwd=app)
    recorded.forget()
    cargo("fetch", "--locked", cwd=app)
    assert recorded.requests == []


def test_every_kind_of_dependency_resolves_and_builds(user: Cargo) -> None:
    """Renamed, optional behind `dep:`, for this target and another, for the build script and for tests."""
    user.publish(
        user.new(
            "part",
            features={"loud": []},
            lib='pub fn say() -> &\'static str { if cfg!(feature = "loud") { "LOUD" } else { "soft" } }',
        )
    )
    for name in ("part-extra", "part-unix", "part-windows", "part-build", "part-dev"):
        user.publish(user.new(name, lib=f'pub const NAME: &str = "{name}";'))
    whole = user.new(
        "whole",
        deps={
            "piece": '{ package = "part", version = "1", registry = "test" }',
            "part-extra": '{ version = "1", registry = "test", optional = true }',
        },
        features={"default": [], "extra": ["dep:part-extra"], "loud": ["piece/loud"]},
        more="""
            [target.'cfg(unix)'.dependencies]
            part-unix = { version = "1", registry = "test" }
            [target.'cfg(windows)'.dependencies]
            part-windows = { version = "1", registry = "test" }
            [build-dependencies]
            part-build = { version = "1", registry = "test" }
            [dev-dependencies]
            part-dev = { version = "1", registry = "test" }
        """,
        lib="""
            pub fn describe() -> String {
                #[cfg(feature = "extra")]
                let extra = part_extra::NAME;
                #[cfg(not(feature = "extra"))]
                let extra = "none";
                [piece::say(), extra, part_unix::NAME, env!("BUILT_WITH")].join(" ")
            }
            #[test]
            fn dev() { assert_eq!(part_dev::NAME, "part-dev") }
        """,
    )
    (whole / "build.rs").write_text(
        'fn main() { println!("cargo:rustc-env=BUILT_WITH={}", part_build::NAME) }'
    )
    assert "test result: ok. 1 passed" in user("test", "--lib", cwd=whole)
    user("publish", "--registry", "test", cwd=whole)

    main = 'fn main() { println!("({})", whole::describe()) }'
    app = user.new("whole-app", deps={"whole": "1"}, main=main)
    assert "(soft none part-unix part-build)" in user("run", cwd=app)
    # A dependency of tests is none of whoever uses the crate.
    assert "part-dev" not in (app / "Cargo.lock").read_text()
    loud = '{ version = "1", registry = "test", features = ["extra", "loud"] }'
    app = user.new("whole-app", deps={"whole": loud}, main=main)
    assert "(LOUD part-extra part-unix part-build)" in user("run", cwd=app)
    # `dep:` hides the feature that an optional dependency else makes.
    hidden = '{ version = "1", registry = "test", features = ["part-extra"] }'
    app = user.new("whole-app", deps={"whole": hidden}, main=main)
    user("check", cwd=app, fails=True)


def test_rust_version_keeps_a_too_new_version_away(user: Cargo) -> None:
    user.publish(user.new("msrv", "1.0.0", package='rust-version = "1.60"'))
    user.publish(user.new("msrv", "1.1.0", package='rust-version = "1.80"'))
    app = user.new("msrv-app", deps={"msrv": "1"}, package='rust-version = "1.70"')
    env = {"CARGO_RESOLVER_INCOMPATIBLE_RUST_VERSIONS": "fallback"}
    user("generate-lockfile", cwd=app, env=env)
    assert locked(app, "msrv") == "1.0.0"


def test_links_may_appear_once_in_a_graph(user: Cargo) -> None:
    build = "fn main() {}"
    for name in ("links-a", "links-b"):
        crate = user.new(name, package='links = "same"\nbuild = "build.rs"')
        (crate / "build.rs").write_text(build)
        user.publish(crate)
    app = user.new("links-app", deps={"links-a": "1", "links-b": "1"})
    assert "links to the native library `same`" in user("check", cwd=app, fails=True)


def test_source_replacement_serves_a_crates_io_dependency(user: Cargo, server: Server) -> None:
    user.publish(user.new("stand-in", lib="pub const N: u8 = 9;"))
    home = Cargo(user.root / "second-home", user.toolchain)
    home.configure(server.cli("client-config", "--replace-crates-io").stdout)
    app = home.new(
        "stand-in-app",
        deps={"stand-in": '{ version = "1" }'},
        main='fn main() { println!("n={}", stand_in::N) }',
    )
    assert "n=9" in home("run", cwd=app)
    assert "registry+https://github.com/rust-lang/crates.io-index" in (app / "Cargo.lock").read_text()
    facts = json.loads(server.cli("client-config", "--json").stdout)
    assert facts["index"] == server.index_url()
