"""`cargo publish`: what arrives, and what is refused."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.crates import crate_file, metadata, publish_body
from tests.programs import Cargo, Server


@pytest.fixture
def user(cargo: Cargo, server: Server) -> Cargo:
    """Cargo of alice, who knows the registry `main` as `test`."""
    cargo.use(server, token=server.token("alice"))
    return cargo


def line(server: Server, path: str, registry: str = "") -> dict[str, Any]:
    """Return the only line of an index file."""
    answer = server.http.get(f"{registry}/index/{path}")
    assert answer.status_code == 200, answer.text
    (line,) = answer.text.splitlines()
    value: dict[str, Any] = json.loads(line)
    return value


def sent_tarball(server: Server) -> bytes:
    """Return the tarball of the last publish that was recorded: what follows the JSON and two lengths."""
    body = server.puts[-1]
    return body[8 + int.from_bytes(body[:4], "little") :]


def test_crate_is_served_as_cargo_sent_it(cargo: Cargo, recorded: Server) -> None:
    cargo.use(recorded, token=recorded.token("alice"))
    crate = cargo.new("as-sent", "0.1.0", package='rust-version = "1.60"\nlicense = "MIT"')
    cargo("publish", "--registry", "test", cwd=crate)  # with compiling, as most people do
    tarball = sent_tarball(recorded)
    cksum = hashlib.sha256(tarball).hexdigest()

    entry = line(recorded, "as/-s/as-sent")
    pubtime = entry.pop("pubtime")
    assert (len(pubtime), pubtime[-1]) == (20, "Z")
    assert {key: value for key, value in entry.items() if value is not None} == {
        "name": "as-sent",
        "vers": "0.1.0",
        "deps": [],
        "cksum": cksum,
        "features": {},
        "yanked": False,
        "rust_version": "1.60",
    }
    assert recorded.http.get("/api/v1/crates/as-sent/0.1.0/download").content == tarball
    # On disk: the very bytes that are served, so that nginx or a bucket can serve them.
    stored = f"main/as/-s/as-sent/as-sent-0.1.0-{cksum}.crate"
    assert (recorded.data_dir / "crates_storage" / stored).read_bytes() == tarball
    served = recorded.http.get("/index/as/-s/as-sent").content
    assert (recorded.data_dir / "index_data/main/as/-s/as-sent").read_bytes() == served


def test_workspace_of_three_levels_is_published_in_one_go(user: Cargo, server: Server) -> None:
    workspace = user.root / "levels"
    members = {"level-base": [], "level-middle": ["level-base"], "level-top": ["level-base", "level-middle"]}
    for name, needs in members.items():
        path = workspace / name
        deps = {dep: f'{{ version = "1", path = "../{dep}", registry = "test" }}' for dep in needs}
        user.new(name, deps=deps, folder=path, lib="".join(f"extern crate {dep};\n" for dep in needs))
        # `extern crate level-base` is no Rust.
        (path / "src/lib.rs").write_text((path / "src/lib.rs").read_text().replace("-", "_"))
    (workspace / "Cargo.toml").write_text('[workspace]\nresolver = "2"\nmembers = ["level-*"]\n')
    said = user("publish", "--workspace", "--registry", "test", cwd=workspace)
    assert said.index("Published level-base") < said.index("Published level-middle")
    assert said.index("Published level-middle") < said.index("Published level-top")
    deps = line(server, "le/ve/level-top")["deps"]
    assert [(dep["name"], dep["req"], dep.get("registry")) for dep in deps] == [
        ("level-base", "^1", None),
        ("level-middle", "^1", None),
    ]


def test_crate_of_more_than_a_mebibyte_arrives_whole(cargo: Cargo, recorded: Server) -> None:
    """Beyond 1 MiB cargo ≤ 1.96 sends `Expect: 100-continue` and waits."""
    cargo.use(recorded, token=recorded.token("alice"))
    crate = cargo.new("heavy")
    (crate / "weights.bin").write_bytes(os.urandom(3_000_000))
    cargo.publish(crate)
    tarball = sent_tarball(recorded)
    assert len(tarball) > 3_000_000
    assert recorded.http.get("/api/v1/crates/heavy/1.0.0/download").content == tarball


def test_published_version_never_changes(cargo: Cargo, recorded: Server) -> None:
    token = recorded.token("alice")
    cargo.use(recorded, token=token)
    recorded.forget()
    cargo.publish(cargo.new("tiny"))
    (sent,) = recorded.puts
    before = recorded.http.get("/index/ti/ny/tiny").content
    # cargo looks into the index and does not even ask us:
    assert "already exists" in cargo.publish(cargo.new("tiny", "1.0.0+again"), fails=True)
    assert recorded.puts == [sent]
    # So say it ourselves, with the bytes that cargo sent; also when the version is yanked.
    for _ in range(2):
        again = recorded.http.put("/api/v1/crates/new", content=sent, headers={"authorization": token})
        assert again.status_code == 409
        (error,) = again.json()["errors"]
        assert "`tiny@1.0.0` is already uploaded" in error["detail"]
        assert recorded.http.get("/index/ti/ny/tiny").content == before
        cargo("yank", "--registry", "test", "tiny@1.0.0")
        before = recorded.http.get("/index/ti/ny/tiny").content
        assert b'"yanked":true' in before


def test_other_spelling_means_the_same_crate(user: Cargo, server: Server) -> None:
    crate = user.new("Two-Words")
    user.publish(crate)
    assert line(server, "tw/o-/two-words")["name"] == "Two-Words"
    user("yank", "--registry", "test", "two_words@1.0.0", cwd=crate)
    assert line(server, "tw/o-/two-words")["yanked"] is True
    assert server.http.get("/api/v1/crates/TWO_WORDS/1.0.0/download").status_code == 200
    for name in ("two_words", "two-words"):
        taken = user.publish(user.new(name, "2.0.0"), fails=True)
        assert "status 409 Conflict" in taken
        assert "crate was previously named `Two-Words`" in taken
    assert server.http.get("/index/tw/o_/two_words").status_code == 404


def test_build_metadata_is_kept_and_makes_no_second_version(user: Cargo, server: Server) -> None:
    token = {"authorization": server.token("alice")}
    user.publish(user.new("meta", "1.2.3+linux.5", lib="pub const N: u8 = 7;"))
    assert line(server, "me/ta/meta")["vers"] == "1.2.3+linux.5"
    body = publish_body(metadata("meta", "1.2.3+other"), crate_file("meta", "1.2.3+other"))
    assert server.http.put("/api/v1/crates/new", content=body, headers=token).status_code == 409

    app = user.new("meta-app", deps={"meta": "1.2.3"}, main='fn main() { println!("n={}", meta::N) }')
    assert "n=7" in user("run", cwd=app)
    # cargo writes the `+` of the path as it is.
    user("yank", "--registry", "test", "meta@1.2.3+linux.5")
    assert line(server, "me/ta/meta")["yanked"] is True
    user("yank", "--undo", "--registry", "test", "meta@1.2.3+linux.5")
    assert line(server, "me/ta/meta")["yanked"] is False


def test_only_owners_publish_further_versions_and_yank(user: Cargo, server: Server, tmp_path: Path) -> None:
    user.publish(user.new("alices"))
    mallory = Cargo(tmp_path / "mallory", user.toolchain)
    mallory.use(server, token=server.token("mallory"))
    said = mallory.publish(mallory.new("alices", "1.1.0"), fails=True)
    assert "status 403 Forbidden" in said
    assert "`mallory` is not one of its owners" in said
    assert "status 403 Forbidden" in mallory("yank", "--registry", "test", "alices@1.0.0", fails=True)
    assert line(server, "al/ic/alices")["yanked"] is False


def test_dry_run_sends_nothing(cargo: Cargo, recorded: Server) -> None:
    cargo.use(recorded)
    recorded.forget()
    cargo.publish(cargo.new("dry"), "--dry-run")
    assert {exchange.method for exchange in recorded.requests} == {"GET"}


def test_dependency_on_another_registry_keeps_its_url(user: Cargo, server: Server) -> None:
    token = server.token("alice")
    user.use(server, "other", name="second", token=token)
    user.publish(user.new("far-base", lib="pub const N: u8 = 3;"), registry="second")
    far = user.new("far-user", deps={"far-base": "1"}, registry="second", lib="pub use far_base::N;")
    user.publish(far)
    assert server.http.get("/index/fa/r-/far-base").status_code == 404
    (dep,) = line(server, "fa/r-/far-user")["deps"]
    assert dep["registry"] == server.index_url("other")
    app = user.new("far-app", deps={"far-user": "1"}, main='fn main() { println!("n={}", far_user::N) }')
    assert "n=3" in user("run", cwd=app)


def test_dependency_on_crates_io_keeps_its_git_url(user: Cargo, server: Server) -> None:
    """Never the sparse one, which would be a second source in lock files."""
    user.use(server, "other", name="second", token=server.token("alice"))
    user.publish(user.new("io-base"), registry="second")
    user.configure('[source.crates-io]\nreplace-with = "second"')
    user.publish(user.new("io-user", deps={"io-base": '{ version = "1" }'}))
    (dep,) = line(server, "io/-u/io-user")["deps"]
    assert dep["registry"] == "https://github.com/rust-lang/crates.io-index"


def test_dependency_on_an_alias_is_one_on_this_registry(user: Cargo, server: Server) -> None:
    user.configure('[registries.old]\nindex = "sparse+https://old.example.org/index/"')
    user.configure('[source.old]\nregistry = "sparse+https://old.example.org/index/"\nreplace-with = "test"')
    user.publish(user.new("alias-base"))
    user.publish(user.new("alias-user", deps={"alias-base": "1"}, registry="old"))
    (dep,) = line(server, "al/ia/alias-user")["deps"]
    assert dep.get("registry") is None


def test_every_kind_of_dependency_and_feature_is_in_the_line(user: Cargo, server: Server) -> None:
    for name in ("kinds-a", "kinds-b"):
        user.publish(user.new(name, features={"default": [], "extra": []}))
    crate = user.new(
        "kinds",
        deps={
            "renamed": '{ package = "kinds-a", version = "1.0", registry = "test", features = ["extra"] }',
            "kinds-b": '{ version = ">=1, <3", registry = "test", optional = true, default-features = false }',
        },
        features={"default": ["renamed/extra"], "b": ["dep:kinds-b"], "weak": ["kinds-b?/extra"]},
        more="""
            [dev-dependencies]
            kinds-a = { version = "~1.0", registry = "test" }
            [build-dependencies]
            kinds-b = { version = "=1.0.0", registry = "test" }
            [target.'cfg(windows)'.dependencies]
            kinds-a = { version = "*", registry = "test" }
        """,
    )
    user.publish(crate)
    entry = line(server, "ki/nd/kinds")
    usual = {
        "features": [],
        "optional": False,
        "default_features": True,
        "target": None,
        "kind": "normal",
        "registry": None,
        "package": None,
    }
    wanted: list[dict[str, Any]] = [
        {**usual, "name": "kinds-a", "req": "*", "target": "cfg(windows)"},
        {**usual, "name": "kinds-a", "req": "~1.0", "kind": "dev"},
        {**usual, "name": "kinds-b", "req": ">=1, <3", "optional": True, "default_features": False},
        {**usual, "name": "kinds-b", "req": "=1.0.0", "kind": "build"},
        {**usual, "name": "renamed", "req": "^1.0", "package": "kinds-a", "features": ["extra"]},
    ]
    assert [{**usual, **dep} for dep in entry["deps"]] == wanted
    assert entry["features"] == {"default": ["renamed/extra"]}
    assert entry["features2"] == {"b": ["dep:kinds-b"], "weak": ["kinds-b?/extra"]}
    assert entry["v"] == 2
