import dataclasses
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cargo_registry.crate import entry, manifest, publish_body, tarball
from cargo_registry.crate.entry import CRATES_IO, IndexDep, IndexEntry, OwnUrls
from cargo_registry.crate.names import CrateName
from cargo_registry.crate.publish_body import PublishMetadata
from cargo_registry.errors import Disagreement, InvalidManifest, InvalidName

from .conftest import RealCrate

RECORDED = Path(__file__).parent / "recorded"
NOW = datetime(2026, 11, 25, 15, 4, 5, 999_999, UTC)
US = OwnUrls(["sparse+http://127.0.0.1:8765/index/"])
NOBODY = OwnUrls([])
CRATES_IO_ITSELF = OwnUrls([CRATES_IO])


def line(text: str, own_urls: OwnUrls = NOBODY) -> dict[str, Any]:
    made = IndexEntry.from_manifest(
        manifest.parse(text.encode()), cksum="0" * 64, pubtime=NOW, own_urls=own_urls
    )
    read: dict[str, Any] = json.loads(made.to_line())
    return read


HEAD = '[package]\nname = "a"\nversion = "1.0.0"\n'


# ── Real crates ──


def test_every_real_line_follows_from_its_tarball(real_crates: list[RealCrate]) -> None:
    """Byte for byte: the lines as served, without the spaces that the cache between put in."""
    assert len(real_crates) == 339
    for crate in real_crates:
        held = tarball.inspect(crate.tarball, crate.line["name"], crate.line["vers"])
        made = IndexEntry.from_manifest(
            manifest.parse(held.manifest),
            cksum=hashlib.sha256(crate.tarball.read_bytes()).hexdigest(),
            pubtime=datetime.fromisoformat(crate.line["pubtime"]),
            own_urls=CRATES_IO_ITSELF,
        )
        served = crate.line | {"yanked": False}
        expected = json.dumps(served, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        assert made.to_line() == expected


# ── Paths ──


# https://doc.rust-lang.org/cargo/reference/registry-index.html#index-files
@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a", "1/a"),
        ("AB", "2/ab"),
        ("abc", "3/a/abc"),
        ("Serde", "se/rd/serde"),
        ("foo-bar_Baz", "fo/o-/foo-bar_baz"),
    ],
)
def test_an_index_file_has_its_path(name: str, path: str) -> None:
    assert entry.index_path(CrateName(name)) == path


def test_a_tarball_has_its_key() -> None:
    key = entry.tarball_key(CrateName("Foo-Bar"), "1.0.0+b", "0f")
    assert key == "fo/o-/Foo-Bar/Foo-Bar-1.0.0+b-0f.crate"


# ── Lines ──


def test_the_smallest_line_has_the_keys_of_crates_io_in_their_order() -> None:
    made = IndexEntry.from_manifest(
        manifest.parse(HEAD.encode()), cksum="f" * 64, pubtime=NOW, own_urls=NOBODY
    )
    assert made.to_line().decode() == (
        f'{{"name":"a","vers":"1.0.0","deps":[],"cksum":"{"f" * 64}","features":{{}},"yanked":false,'
        '"pubtime":"2026-11-25T15:04:05Z"}\n'
    )


def test_the_fullest_line_has_the_keys_in_their_order() -> None:
    text = (
        '[package]\nname="größe"\nversion="1.0.0"\nlinks="größe"\nrust-version="1.60"\n'
        '[dependencies.b]\nversion="1"\npackage="c"\nregistry-index="https://example.com/i"\noptional=true\npublic=true\n'
        'artifact="bin"\ntarget="x"\nlib=true\n[features]\nz=["dep:b"]\na=[]\n'
    ).replace('name="größe"', 'name="a"')
    assert list(line(text)) == [
        "name", "vers", "deps", "cksum", "features", "features2", "yanked", "links", "rust_version", "pubtime", "v",
    ]  # fmt: skip
    assert line(text)["deps"] == [
        {
            "name": "b",
            "req": "^1",
            "features": [],
            "optional": True,
            "default_features": True,
            "target": None,
            "kind": "normal",
            "registry": "https://example.com/i",
            "package": "c",
            "public": True,
            "artifact": ["bin"],
            "bindep_target": "x",
            "lib": True,
        }
    ]
    assert list(line(text)["deps"][0]) == [
        "name", "req", "features", "optional", "default_features", "target", "kind", "registry", "package", "public",
        "artifact", "bindep_target", "lib",
    ]  # fmt: skip
    assert (
        "größe".encode()
        in IndexEntry.from_manifest(
            manifest.parse(text.encode()), cksum="", pubtime=NOW, own_urls=NOBODY
        ).to_line()
    )


@pytest.mark.parametrize(
    ("text", "v"),
    [
        ("", None),
        ("[features]\na = []", None),
        ('[dependencies]\nb = { version = "1", optional = true }\n[features]\na = ["dep:b"]', 2),
        ('[dependencies]\nb = { version = "1", artifact = "bin" }', 3),
        (
            '[dependencies]\nb = { version = "1", artifact = "bin", optional = true }\n[features]\na = ["dep:b"]',
            3,
        ),
    ],
)
def test_v_keeps_away_cargos_that_would_misread_the_line(text: str, v: int | None) -> None:
    assert line(HEAD + text).get("v") == v


@pytest.mark.parametrize(
    "zone", [UTC, timezone(timedelta(hours=2)), timezone(timedelta(hours=-9, minutes=-30))], ids=str
)
def test_pubtime_is_in_utc_to_the_second(zone: timezone) -> None:
    made = IndexEntry.from_manifest(
        manifest.parse(HEAD.encode()), cksum="", pubtime=NOW.astimezone(zone), own_urls=NOBODY
    )
    assert json.loads(made.to_line())["pubtime"] == "2026-11-25T15:04:05Z"


def test_dependencies_are_sorted_as_on_crates_io() -> None:
    text = HEAD + (
        '[dev-dependencies]\nb = "1"\n[build-dependencies]\nb = "1"\n'
        '[dependencies]\nz = { version = "1", package = "a1" }\nb = "2"\n'
        '[target.x86.dependencies]\nb = "2"\n[target.arm.dependencies]\nb = { version = "2", optional = true }\n'
        '[target.mips.dependencies]\nb = { version = "2", default-features = false }\n'
        '[target."cfg(unix)".dependencies]\nb = "1.5"\n[target.x86.dev-dependencies]\nb = "1"\n'
    )
    keys = ("name", "kind", "req", "optional", "default_features", "target")
    assert [tuple(dep[key] for key in keys) for dep in line(text)["deps"]] == [
        ("b", "normal", "^1.5", False, True, "cfg(unix)"),
        ("b", "normal", "^2", False, False, "mips"),
        ("b", "normal", "^2", False, True, None),
        ("b", "normal", "^2", False, True, "x86"),
        ("b", "normal", "^2", True, True, "arm"),
        ("b", "build", "^1", False, True, None),
        ("b", "dev", "^1", False, True, None),
        ("b", "dev", "^1", False, True, "x86"),
        ("z", "normal", "^1", False, True, None),
    ]  # fmt: skip


def test_features_are_sorted_by_name_and_keep_their_values() -> None:
    features = line(HEAD + '[features]\nz = []\nb = ["z", "a", "z"]\na = []')["features"]
    assert list(features.items()) == [("a", []), ("b", ["z", "a", "z"]), ("z", [])]


def test_targets_stay_as_the_author_wrote_them() -> None:
    assert line(HEAD + '[target."cfg( unix )".dependencies]\nb = "1"')["deps"][0]["target"] == "cfg( unix )"


def test_a_reserved_name_makes_no_entry() -> None:
    with pytest.raises(InvalidName, match="`std` is reserved"):
        line('[package]\nname = "std"\nversion = "1.0.0"')


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
DEPS = st.builds(
    IndexDep,
    name=TEXT,
    package=st.none() | TEXT,
    req=TEXT,
    features=st.lists(TEXT, max_size=2).map(tuple),
    optional=st.booleans(),
    default_features=st.booleans(),
    target=st.none() | TEXT,
    kind=st.sampled_from(["normal", "build", "dev"]),
    registry=st.none() | TEXT,
)
ENTRIES = st.builds(
    IndexEntry,
    name=st.just(CrateName("a")),
    vers=st.just('1.0.0+"yanked":false'),  # cannot be, but would be the worst
    deps=st.lists(DEPS, max_size=2).map(tuple),
    features=st.dictionaries(TEXT | st.just('"yanked":false'), st.lists(TEXT, max_size=2), max_size=2),
    cksum=st.just("0"),
    links=st.none() | TEXT | st.just(',"yanked":false,'),
    rust_version=st.none() | TEXT,
    pubtime=st.just(NOW),
)


@given(ENTRIES)
def test_a_line_is_one_line_that_says_what_the_entry_says(made: IndexEntry) -> None:
    text = made.to_line()
    assert (text.count(b"\n"), text[-1:]) == (1, b"\n")
    read = json.loads(text)
    assert (read["vers"], read.get("links"), read.get("rust_version")) == (
        made.vers,
        made.links,
        made.rust_version,
    )
    assert read["features"] | read.get("features2", {}) == made.features
    for dep, held in zip(read["deps"], made.deps, strict=True):
        assert (
            IndexDep(**{"registry": None, "package": None} | dep | {"features": tuple(dep["features"])})
            == held
        )


@given(ENTRIES)
def test_yanking_changes_that_one_key(made: IndexEntry) -> None:
    text = made.to_line()
    assert entry.render([(text, False)]) == text
    assert json.loads(entry.render([(text, True)])) == json.loads(text) | {"yanked": True}
    assert entry.render([(text, True), (text, False)]) == entry.render([(text, True)]) + text


# ── Registries ──


def test_a_dependency_without_registry_is_of_crates_io() -> None:
    text = HEAD + '[dependencies]\nb = "1"'
    assert line(text)["deps"][0]["registry"] == "https://github.com/rust-lang/crates.io-index"
    assert "registry" not in line(text, CRATES_IO_ITSELF)["deps"][0]


@pytest.mark.parametrize(
    ("url", "registry"),
    [
        ("sparse+https://index.crates.io/", CRATES_IO),
        (CRATES_IO, CRATES_IO),
        ("sparse+https://other.example/index/", "sparse+https://other.example/index/"),
        ("https://other.example/index.git", "https://other.example/index.git"),
        ("ssh://git@other.example/index", "ssh://git@other.example/index"),
        ("file:///srv/index", "file:///srv/index"),
    ],
)
def test_a_dependency_of_another_registry_keeps_its_url(url: str, registry: str) -> None:
    assert (
        line(f'{HEAD}[dependencies.b]\nversion = "1"\nregistry-index = "{url}"', US)["deps"][0]["registry"]
        == registry
    )


@pytest.mark.parametrize(
    "url", ["sparse+https://index.crates.io/", "sparse+https://index.crates.io", CRATES_IO + "/"]
)
def test_who_stands_in_for_crates_io_is_meant_by_its_urls(url: str) -> None:
    text = f'{HEAD}[dependencies.b]\nversion = "1"\nregistry-index = "{url}"'
    assert "registry" not in line(text, CRATES_IO_ITSELF)["deps"][0]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "is not a URL"),
        ("other", "is not a URL"),
        ("/srv/index", "is not a URL"),
        ("https://", "is not a URL"),
        ("https://a b/", "is not a URL"),
        ("https://ex\\nample/", "is not a URL"),
        ("https://größe.example/", "is not a URL"),
        ("sparse+https://other.example/index", "must end in `/`"),
        ("ftp://other.example/", "unknown kind"),
        ("sparse+ssh://other.example/", "unknown kind"),
        ("registry+https://other.example/", "unknown kind"),
        ("javascript://x/", "unknown kind"),
        ("https://ann:secret@other.example/", "holds a user name or password"),
        ("sparse+https://token@other.example/", "holds a user name or password"),
    ],
)
def test_a_registry_that_is_no_url_is_refused(url: str, message: str) -> None:
    with pytest.raises(
        InvalidManifest, match=f"dependency `b`.*{message}|{message}.*|.*dependency `b` {message}"
    ):
        line(f'{HEAD}[dependencies.b]\nversion = "1"\nregistry-index = "{url}"')


OURS = OwnUrls(["sparse+https://Crates.Example.com/index/", "http://127.0.0.1:8080/index", "not a url"])


@pytest.mark.parametrize(
    "url",
    [
        "sparse+https://crates.example.com/index/",
        "https://crates.example.com/index",
        "registry+https://crates.example.com/index",
        "sparse+HTTPS://CRATES.EXAMPLE.COM:443/index//",
        "sparse+http://127.0.0.1:8080/index/",
    ],
)
def test_every_spelling_of_our_url_means_us(url: str) -> None:
    assert OURS.means_us(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "sparse+http://crates.example.com/index/",
        "sparse+https://crates.example.com/Index/",
        "sparse+https://crates.example.com/index.git",
        "sparse+https://crates.example.com/index/x/",
        "sparse+https://crates.example.com/",
        "sparse+https://crates.example.com:444/index/",
        "sparse+https://crates.example.com:99999/index/",
        "sparse+https://ann@crates.example.com/index/",
        "sparse+https://crates.example.com/index/?x",
        "sparse+https://crates.example.com/index/#x",
        "sparse+https://crates.exa\nmple.com/index/",
        "sparse+https://crates.example.com.evil.example/index/",
        "sparse+https://[::1/index/",
        "http://127.0.0.1/index",
    ],
)
def test_other_urls_do_not(url: str) -> None:
    assert not OURS.means_us(url)


# ── Agreement ──


def recorded(stem: str) -> tuple[PublishMetadata, manifest.Manifest]:
    return (
        publish_body.decode((RECORDED / f"{stem}.json").read_bytes()),
        manifest.parse((RECORDED / f"{stem}.toml").read_bytes()),
    )


@pytest.mark.parametrize("stem", ["cargo-1.95", "cargo-1.97-artifacts"])
def test_what_cargo_sends_agrees_with_what_it_packs(stem: str) -> None:
    """`recorded/` holds what `cargo publish` sent to `sparse+http://127.0.0.1:8765/index/`."""
    entry.check_agreement(*recorded(stem), US)


def publish(
    deps: list[dict[str, Any]], features: dict[str, list[str]] | None = None, **keys: Any
) -> PublishMetadata:
    body = {"name": "a", "vers": "1.0.0", "deps": deps, "features": features or {}} | keys
    return publish_body.decode(json.dumps(body).encode())


AGREEING: dict[str, tuple[dict[str, Any], str]] = {
    "caret": ({"version_req": "^1.0.0"}, 'version = "1.0.0+meta"'),
    "spaces": ({"version_req": ">=1.0, <3"}, 'version = ">= 1.0 , < 3"'),
    "wildcard": ({"version_req": "1.*"}, 'version = "1.x"'),
    "kind null": ({"version_req": "1", "kind": None}, 'version = "1"'),
    "features in another order": (
        {"version_req": "1", "features": ["y", "x"]},
        'version = "1"\nfeatures = ["x", "y", "x"]',
    ),
    "ours by null": (
        {"version_req": "1", "registry": None},
        'version = "1"\nregistry-index = "http://127.0.0.1:8765/index"',
    ),
    "ours by URL": (
        {"version_req": "1", "registry": "sparse+http://127.0.0.1:8765/index/"},
        'version = "1"\nregistry-index = "http://127.0.0.1:8765/index"',
    ),
    "rename to itself": ({"version_req": "1", "explicit_name_in_toml": "b"}, 'version = "1"'),
}


@pytest.mark.parametrize(("said", "held"), AGREEING.values(), ids=AGREEING)
def test_other_spellings_agree(said: dict[str, Any], held: str) -> None:
    defaults = {} if "registry" in said else {"registry": CRATES_IO}
    entry.check_agreement(
        publish([{"name": "b"} | defaults | said]),
        manifest.parse(f"{HEAD}[dependencies.b]\n{held}".encode()),
        US,
    )


@pytest.mark.parametrize(
    ("said", "held"),
    [
        ('cfg(target_os = "linux")', 'cfg(target_os="linux")'),
        ("cfg(any(unix, windows))", "cfg( any( unix,windows, ) )"),
        ("x86_64-pc-windows-msvc", "x86_64-pc-windows-msvc"),
    ],
)
def test_other_spellings_of_a_target_agree(said: str, held: str) -> None:
    body = publish([{"name": "b", "version_req": "^1", "registry": CRATES_IO, "target": said}])
    entry.check_agreement(body, manifest.parse(f"{HEAD}[target.'{held}'.dependencies]\nb = '1'".encode()), US)


OPTIONAL = HEAD + '[dependencies.b]\nversion = "1"\noptional = true\n'
OPTIONAL_SAID = {"name": "b", "version_req": "^1", "registry": CRATES_IO, "optional": True}


@pytest.mark.parametrize(
    ("said", "held"),
    [
        ({"b": ["dep:b"]}, ""),
        ({}, '[features]\nb = ["dep:b"]'),
        ({"f": ["y", "x"], "x": [], "y": []}, '[features]\nf = ["x", "y", "x"]\nx = []\ny = []'),
    ],
)
def test_other_spellings_of_features_agree(said: dict[str, list[str]], held: str) -> None:
    entry.check_agreement(publish([OPTIONAL_SAID], said), manifest.parse((OPTIONAL + held).encode()), US)


def test_an_old_cargo_that_says_nothing_of_links_and_rust_agrees() -> None:
    held = manifest.parse((HEAD + 'links = "z"\nrust-version = "1.60"').encode())
    entry.check_agreement(publish([]), held, US)
    entry.check_agreement(publish([], links="z", rust_version="1.60"), held, US)


Change = Callable[[dict[str, Any]], object]


def dep(number: int, **keys: Any) -> Change:
    return lambda body: body["deps"][number].update(keys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda body: body.update(name="Recorded"), "the name as `Recorded`, but .* as `recorded`"),
        (lambda body: body.update(vers="1.2.3"), r"the version as `1\.2\.3`, but .* as `1\.2\.3\+build\.7`"),
        (lambda body: body.update(links=None), "the `links` as nothing, but .* as `recorded`"),
        (lambda body: body.update(links="x"), "the `links` as `x`"),
        (lambda body: body.update(rust_version=None), "the `rust-version` as nothing"),
        (lambda body: body.update(rust_version="1.70.0"), r"the `rust-version` as `1\.70\.0`"),
        (dep(1, version_req="^2"), r"dependency `from-us`: `req` is `\^2` in .* and `\^1\.0\.0`"),
        (dep(1, name="evil", explicit_name_in_toml="from-us"), "dependency `from-us`: `package` is `evil`"),
        (dep(1, features=["f1"]), "dependency `from-us`: `features` is `f1` in .* and `f1, f2`"),
        (dep(1, features=[]), r"dependency `from-us`: `features` is `\[\]` in"),
        (dep(1, optional=True), "dependency `from-us`: `optional` is `true` in .* and `false`"),
        (
            dep(0, default_features=True),
            "dependency `from-other`: `default_features` is `true` in .* and `false`",
        ),
        (
            dep(1, registry=CRATES_IO),
            "dependency `from-us`: `registry` is `https://github.com.* and nothing in",
        ),
        (dep(2, registry=None), "dependency `implicit`: `registry` is nothing in"),
        (dep(1, artifact=["bin"]), "dependency `from-us`: `artifact` is `bin` in .* and nothing"),
        (dep(1, bindep_target="target"), "dependency `from-us`: `bindep_target` is `target`"),
        (dep(1, lib=True), "dependency `from-us`: `lib` is `true`"),
        (dep(1, kind="dev"), "the dev dependency `from-us` is only in the publish request"),
        (dep(1, target="cfg(unix)"), "the normal dependency `from-us` is only in the publish request"),
        (dep(1, name="evil"), "the normal dependency `evil` is only in the publish request"),
        (lambda body: body["deps"].pop(0), "the normal dependency `from-other` is only in the `Cargo.toml`"),
        (
            lambda body: body["deps"].append(body["deps"][0]),
            "the normal dependency `from-other` is only in the publish",
        ),
        (lambda body: body["features"].update(z=[]), r"the feature `z`: `\[\]` in .* and `a` in"),
        (lambda body: body["features"].update(new=[]), r"the feature `new`: `\[\]` in .* and nothing in"),
        (lambda body: body["features"].pop("z"), "the feature `z`: nothing in .* and `a` in"),
        (lambda body: body["features"].update(renamed=["dep:renamed"]), "the feature `renamed`"),
        (lambda body: body["features"].update(implicit=[]), "the feature `implicit`"),
    ],
)
def test_each_difference_is_refused(change: Change, message: str) -> None:
    body = json.loads((RECORDED / "cargo-1.95.json").read_bytes())
    change(body)
    _, held = recorded("cargo-1.95")
    with pytest.raises(Disagreement, match=message):
        entry.check_agreement(publish_body.decode(json.dumps(body).encode()), held, US)


def test_the_line_of_what_cargo_packed() -> None:
    _, held = recorded("cargo-1.95")
    made = IndexEntry.from_manifest(held, cksum="0" * 64, pubtime=NOW, own_urls=US)
    by_name = {(dep.name, dep.kind): dep for dep in made.deps}
    assert dataclasses.replace(made, deps=(), features={}) == IndexEntry(
        name=CrateName("recorded"),
        vers="1.2.3+build.7",
        deps=(),
        features={},
        cksum="0" * 64,
        links="recorded",
        rust_version="1.70",
        pubtime=NOW,
    )
    assert by_name["renamed", "normal"] == IndexDep(
        name="renamed",
        package="real-name",
        req=">=1.0, <3",
        features=(),
        optional=True,
        default_features=True,
        target=None,
        kind="normal",
        registry=None,
    )
    assert by_name["from-other", "normal"].registry == "sparse+http://127.0.0.1:8765/other/"
    assert by_name["for-test", "dev"].registry == CRATES_IO
    assert "local" not in {name for name, _ in by_name}


# What the Cargo book says of `dl` (Index Format, Index Configuration).
@pytest.mark.parametrize(
    ("dl", "url"),
    [
        ("https://x.example/api/v1/crates", "https://x.example/api/v1/crates/MyCrate/1.2.3/download"),
        ("https://x.example/{crate}/{version}.crate", "https://x.example/MyCrate/1.2.3.crate"),
        ("https://x.example/{prefix}/{crate}", "https://x.example/My/Cr/MyCrate"),
        ("https://x.example/{lowerprefix}/{crate}", "https://x.example/my/cr/MyCrate"),
        ("https://x.example/{sha256-checksum}", "https://x.example/" + hashlib.sha256(b"").hexdigest()),
    ],
)
def test_download_is_where_config_json_says(dl: str, url: str) -> None:
    assert entry.download_url(dl, "MyCrate", "1.2.3", hashlib.sha256(b"").hexdigest()) == url
