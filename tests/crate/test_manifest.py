import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cargo_registry.crate import manifest, tarball
from cargo_registry.crate.manifest import Manifest, ManifestDep
from cargo_registry.errors import Invalid, InvalidManifest, InvalidName, InvalidVersion

from .conftest import RealCrate

HEAD = '[package]\nname = "a"\nversion = "1.0.0"\n'
PACKAGE_KEYS = [
    "links", "rust-version", "edition", "description", "license", "license-file", "homepage", "documentation",
    "repository",
]  # fmt: skip


def parse(text: str, *members: str) -> Manifest:
    return manifest.parse(text.encode(), members=members)


def dep(text: str) -> ManifestDep:
    (found,) = parse(HEAD + text).deps
    return found


def test_everything_that_a_manifest_says() -> None:
    found = parse(
        """
        [package]
        name = "a"
        version = "1.0.0-rc.1+b"
        edition = "2021"
        rust-version = "1.70"
        links = "z"
        description = "d"
        license = "MIT"
        license-file = "LICENSE"
        homepage = "https://h.example"
        documentation = "https://d.example"
        repository = "https://r.example"
        readme = "./docs/README.md"
        keywords = ["k"]
        categories = ["c"]
        authors = ["Ann"]
        future = [{ a = 1979-05-27 }]

        [lib]
        proc-macro = true

        [features]
        z = []
        y = ["z", "z"]
        """,
        "docs/README.md",
        "src/lib.rs",
        "src/main.rs",
    )
    assert found == Manifest(
        name="a",
        version="1.0.0-rc.1+b",
        deps=(),
        features={"z": [], "y": ["z", "z"]},
        links="z",
        rust_version="1.70",
        edition="2021",
        description="d",
        license="MIT",
        license_file="LICENSE",
        homepage="https://h.example",
        documentation="https://d.example",
        repository="https://r.example",
        readme="docs/README.md",
        keywords=["k"],
        categories=["c"],
        authors=["Ann"],
        has_lib=True,
        bin_names=("a",),
        proc_macro=True,
    )


def test_name_and_version_are_enough() -> None:
    found = manifest.parse(HEAD.encode())
    assert (found.name, found.version, found.edition, found.deps) == ("a", "1.0.0", "2015", ())
    assert (found.readme, found.has_lib, found.bin_names) == (None, False, ())


def test_every_key_of_a_dependency() -> None:
    assert dep(
        """
        [target."cfg( unix )".build-dependencies.b]
        package = "c"
        version = ">= 1.0 , < 3"
        features = ["x", "x"]
        optional = true
        default-features = false
        registry-index = "sparse+https://example.com/"
        path = "../c"
        git = "https://example.com/c"
        public = true
        artifact = ["bin", "cdylib"]
        target = "x86_64-unknown-none"
        lib = true
        future = 1
        """
    ) == ManifestDep(
        name="b",
        package="c",
        req=">= 1.0 , < 3",
        features=("x", "x"),
        optional=True,
        default_features=False,
        target="cfg( unix )",
        kind="build",
        registry_index="sparse+https://example.com/",
        public=True,
        artifact=("bin", "cdylib"),
        bindep_target="x86_64-unknown-none",
        lib=True,
    )


def test_a_version_alone_is_a_dependency() -> None:
    assert dep('[dependencies]\nb = "1"') == ManifestDep(
        name="b",
        package=None,
        req="1",
        features=(),
        optional=False,
        default_features=True,
        target=None,
        kind="normal",
        registry_index=None,
        public=False,
        artifact=None,
        bindep_target=None,
        lib=False,
    )


def test_one_artifact_may_stand_without_a_list() -> None:
    assert dep('[dependencies]\nb = { version = "1", artifact = "bin" }').artifact == ("bin",)


def test_the_spellings_of_2014_are_read() -> None:
    found = parse(
        """
        [project]
        name = "a"
        version = "1.0.0"
        [[lib]]
        name = "a"
        crate_type = ["proc-macro"]
        [dev_dependencies]
        b = "1"
        [build_dependencies]
        c = { version = "1", default_features = false }
        """
    )
    assert [(dep.name, dep.kind, dep.default_features) for dep in found.deps] == [
        ("c", "build", False),
        ("b", "dev", True),
    ]
    assert (found.has_lib, found.proc_macro) == (True, True)


def test_of_two_spellings_the_one_with_dashes_counts() -> None:
    text = '[dev_dependencies]\nb = "1"\n[dev-dependencies]\nb = "2"'
    assert dep(text).req == "2"
    assert dep(
        '[dependencies]\nb = { version = "1", default-features = true, default_features = false }'
    ).default_features


def test_a_dependency_without_version_takes_any() -> None:
    assert dep('[dependencies]\nb = { path = "../b" }').req == "*"
    assert dep('[build-dependencies]\nb = { git = "https://example.com/b" }').req == "*"
    assert dep("[dev-dependencies]\nb = {}").req == "*"


def test_a_dependency_for_tests_in_the_authors_tree_is_dropped_as_cargo_drops_it() -> None:
    assert (
        parse(HEAD + '[dev-dependencies]\nb = { path = "../b" }\nc = { git = "https://example.com/c" }').deps
        == ()
    )
    assert dep('[dev-dependencies]\nb = { path = "../b", version = "1" }').req == "1"


@pytest.mark.parametrize("data", [HEAD.replace("\n", "\r\n").encode(), b"\xef\xbb\xbf" + HEAD.encode()])
def test_line_breaks_of_windows_and_its_byte_order_mark_are_read(data: bytes) -> None:
    assert manifest.parse(data).name == "a"


# ── What is refused ──


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"no `\[package\]`"),
        ('[package]\nversion = "1.0.0"', "no `package.name`"),
        ('[package]\nname = "a"', "no `package.version`"),
        ("[package]\nname = 1", "`package.name` .* make it a string"),
        ("package = 1", "`package` .* make it a table"),
        (HEAD + 'keywords = "k"', "`package.keywords` .* make it a list"),
        (HEAD + "keywords = [1]", "`package.keywords` .* make it a list of strings"),
        (HEAD + "authors = [[]]", "`package.authors` .* make it a list of strings"),
        (HEAD + "categories = {}", "`package.categories` .* make it a list"),
        (HEAD + "readme = 1", "`package.readme` .* make it a string"),
        (HEAD + "autolib = 1", "`package.autolib` .* make it `true` or `false`"),
        *((HEAD + f"{key} = 1", f"`package.{key}` .* make it a string") for key in PACKAGE_KEYS),
        ("lib = 1\n" + HEAD, "`lib` .* make it a table"),
        (HEAD + "[lib]\nproc-macro = 1", "`lib.proc-macro` .* make it `true` or `false`"),
        (HEAD + "[bin]", "`bin` .* make it a list"),
        (HEAD + "[[bin]]\nname = 1", "`bin.name` .* make it a string"),
        ("features = []\n" + HEAD, "`features` .* make it a table"),
        (HEAD + '[features]\nf = "g"', "`features.f` .* make it a list"),
        (HEAD + "[features]\nf = [1]", "`features.f` .* make it a list of strings"),
        ("dependencies = []\n" + HEAD, "`dependencies` .* make it a table"),
        ("dev_dependencies = []\n" + HEAD, "`dev_dependencies` .* make it a table"),
        ("target = 1\n" + HEAD, "`target` .* make it a table"),
        (HEAD + "[target]\nx = 1", "`target.x` .* make it a table"),
        (HEAD + "[target.x]\ndependencies = 1", "`target.x.dependencies` .* make it a table"),
        (HEAD + "[dependencies]\nb = 1", "dependency `b` .* make it a version or a table"),
        (HEAD + "[dependencies.b]\nversion = 1", "`dependencies.b.version` .* make it a string"),
        (HEAD + "[dependencies.b]\npackage = 1", "`dependencies.b.package` .* make it a string"),
        (HEAD + '[dependencies.b]\nfeatures = "x"', "`dependencies.b.features` .* make it a list"),
        (HEAD + "[dependencies.b]\noptional = 1", "`dependencies.b.optional` .* make it `true` or `false`"),
        (
            HEAD + "[dependencies.b]\ndefault-features = 1",
            "`dependencies.b.default-features` .* make it `true`",
        ),
        (HEAD + "[dependencies.b]\nregistry = 1", "`dependencies.b.registry` .* make it a string"),
        (
            HEAD + "[dependencies.b]\nregistry-index = 1",
            "`dependencies.b.registry-index` .* make it a string",
        ),
        (HEAD + "[dependencies.b]\nartifact = 1", "`dependencies.b.artifact` .* make it a list"),
        (HEAD + "[dependencies.b]\ntarget = 1", "`dependencies.b.target` .* make it a string"),
        (HEAD + "[dependencies.b]\nlib = 1", "`dependencies.b.lib` .* make it `true`"),
        (HEAD + "[dependencies.b]\npublic = 1", "`dependencies.b.public` .* make it `true`"),
        # Not of the tarball alone.
        ('[package]\nname = "a"\nversion.workspace = true', "`package.version` from a workspace"),
        (HEAD + "keywords.workspace = true", "`package.keywords` from a workspace"),
        (HEAD + "readme.workspace = true", "`package.readme` from a workspace"),
        (HEAD + "[dependencies]\nb.workspace = true", "dependency `b` .* comes from a workspace"),
        (
            HEAD + "[target.x.dependencies]\nb = { workspace = true }",
            "dependency `b` .* comes from a workspace",
        ),
        (HEAD + '[dependencies.b]\nversion = "1"\nregistry = "r"', "dependency `b` .* its registry `r`"),
        (HEAD + '[patch.crates-io]\nb = { path = "b" }', r"`\[patch\]`"),
        # What cargo refuses.
        (HEAD + 'rust-version = "^1.60"', "`package.rust-version` `\\^1.60`"),
        (HEAD + 'rust-version = "1.60.0-beta"', "`package.rust-version`"),
        (HEAD + 'rust-version = "1.60.0.0"', "`package.rust-version`"),
        (HEAD + 'rust-version = "1."', "`package.rust-version`"),
        (HEAD + 'rust-version = ""', "`package.rust-version`"),
        (HEAD + 'rust-version = "1\\n"', "`package.rust-version`"),
        (HEAD + 'edition = "21"', "`package.edition` `21`"),
        (HEAD + '[dependencies]\nb = "one"', "dependency `b` .* the version requirement `one`"),
        (HEAD + '[dependencies]\nb = ""', "dependency `b` .* the version requirement ``"),
        (HEAD + '[dependencies]\n"b c" = "1"', "dependency `b c` .* wrong name"),
        (HEAD + '[dependencies]\nb = { version = "1", package = "_c" }', "dependency `b` .* `_c`"),
        (HEAD + '[dependencies]\n_b = "1"', "dependency `_b` .* `_b`"),
        (HEAD + '[dependencies]\nb = { version = "1", features = ["x/y"] }', "dependency `b` .* `x/y`"),
        (HEAD + '[target."cfg(unix".dependencies]\nb = "1"', r"wrong target: the target `cfg\(unix`"),
        (
            HEAD + '[dev-dependencies]\nb = { version = "1", optional = true }',
            "dev-dependency `b` .* is optional",
        ),
        (HEAD + '[features]\nf = ["g"]', "feature `f` has the value `g`"),
        # No TOML.
        ("[package", "not valid TOML"),
        (HEAD + 'name = "b"', "not valid TOML"),
        (HEAD + 'links = "\\ud800"', "not valid TOML"),
        (HEAD + "x = " + "[" * 100_000, "nests too deeply"),
        (HEAD + "x = " + "{a=" * 100_000, "nests too deeply"),
        (HEAD + "a." * 100_000 + "a = 1", "nests too deeply"),
        (HEAD + "x = " + "9" * 5000, "number or date out of range"),
    ],
)
def test_what_cannot_be_a_manifest_is_refused_by_its_key(text: str, message: str) -> None:
    with pytest.raises(InvalidManifest, match=message):
        parse(text)


def test_what_is_not_utf_8_is_refused() -> None:
    with pytest.raises(InvalidManifest, match="not in UTF-8"):
        manifest.parse(HEAD.encode() + b'description = "\xff"')


@pytest.mark.parametrize("version", ["1", "1.0", "v1.0.0", "1.0.0 ", ""])
def test_a_version_that_is_none_is_refused(version: str) -> None:
    with pytest.raises(InvalidVersion):
        parse(f'[package]\nname = "a"\nversion = "{version}"')


def test_a_feature_with_a_wrong_name_is_refused() -> None:
    with pytest.raises(InvalidName, match=r"`a/b`"):
        parse(HEAD + '[features]\n"a/b" = []')


@pytest.mark.parametrize("rust_version", ["1", "1.60", "1.60.0", "0.0.1"])
def test_versions_of_rust(rust_version: str) -> None:
    assert parse(HEAD + f'rust-version = "{rust_version}"').rust_version == rust_version


TOML = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=4) | st.just({"workspace": True}),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["version", "x", "name"]), inner, max_size=2)
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [
        "package.links", "package.readme", "package.keywords", "package.autobins", "package.rust-version", "lib",
        "lib.name", "bin", "features", "features.f", "dependencies", "dependencies.b", "dependencies.b.version",
        "dependencies.b.features", "dependencies.b.artifact", "dependencies.b.registry-index", "target",
        "target.x", "target.x.dependencies.b", "project", "workspace", "patch", "example",
    ]
)  # fmt: skip


@given(st.dictionaries(KEYS, TOML, max_size=4))
def test_any_toml_is_read_or_refused_and_nothing_else_happens(values: dict[str, Any]) -> None:
    text = 'package.name = "a"\npackage.version = "1.0.0"\n'
    text += "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())
    try:
        parse(text, "src/main.rs")
    except Invalid as error:
        assert str(error)  # noqa: PT017


def _toml(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{key} = {_toml(held)}" for key, held in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case _:
            return json.dumps(value)


# ── README, library, programs ──


@pytest.mark.parametrize(
    ("key", "members", "readme"),
    [
        ("", ["README", "README.md", "README.txt"], "README.md"),
        ("", ["README", "README.txt"], "README.txt"),
        ("", ["README"], "README"),
        ("", ["readme.md", "docs/README.md"], None),
        ('readme = "README.rst"', ["README.rst", "README.md"], "README.rst"),
        ('readme = "./docs//r.md"', ["docs/r.md"], "docs/r.md"),
        ('readme = "gone.md"', ["README.md"], None),
        ('readme = "../README.md"', ["README.md"], None),
        ("readme = true", ["README.md", "README"], "README.md"),
        ("readme = true", ["README"], None),
        ("readme = false", ["README.md"], None),
    ],
)
def test_the_readme_is_a_file_that_is_there(key: str, members: list[str], readme: str | None) -> None:
    assert parse(HEAD + key, *members).readme == readme


@pytest.mark.parametrize(
    ("text", "members", "has_lib"),
    [
        ("", ["src/lib.rs"], True),
        ("", ["lib.rs", "src/main.rs"], False),
        ("autolib = false", ["src/lib.rs"], False),
        ('autolib = false\n[lib]\npath = "src/x.rs"', ["src/x.rs"], True),
    ],
)
def test_a_library_is_named_or_found(text: str, members: list[str], has_lib: bool) -> None:
    assert parse(HEAD + text, *members).has_lib is has_lib


PROGRAMS = ["src/main.rs", "src/bin/b.rs", "src/bin/c/main.rs"]


# (cargo: util/toml/targets.rs; checked with `cargo metadata --no-deps` of cargo 1.95)
@pytest.mark.parametrize(
    ("text", "members", "names"),
    [
        ("", PROGRAMS, {"a", "b", "c"}),
        ("", ["src/bin/.b.rs", "src/bin/d/x.rs", "src/bin/e/f/main.rs", "bin/g.rs"], set()),
        (
            'edition = "2018"\n[[bin]]\nname = "d"\npath = "src/d.rs"',
            [*PROGRAMS, "src/d.rs"],
            {"a", "b", "c", "d"},
        ),
        ('edition = "2018"\n[[bin]]\nname = "d"\npath = "src/bin/b.rs"', PROGRAMS, {"a", "c", "d"}),
        ('edition = "2018"\n[[bin]]\nname = "b"', PROGRAMS, {"a", "b", "c"}),
        ('[[bin]]\nname = "b"', PROGRAMS, {"b"}),
        ('autobins = true\n[[bin]]\nname = "b"', PROGRAMS, {"a", "b", "c"}),
        ('autobins = false\nedition = "2021"', PROGRAMS, set()),
        ('autobins = false\nedition = "2021"\n[[bin]]\nname = "c"', PROGRAMS, {"c"}),
    ],
)
def test_programs_are_named_or_found(text: str, members: list[str], names: set[str]) -> None:
    found = parse(HEAD + text, *members).bin_names
    assert set(found) == names
    assert len(found) == len(names)


def test_real_manifests_are_read(real_crates: list[RealCrate]) -> None:
    found: dict[str, Manifest] = {}
    for crate in real_crates:
        held = tarball.inspect(crate.tarball, crate.line["name"], crate.line["vers"])
        found[crate.line["name"]] = manifest.parse(held.manifest, members=held.members)
    assert found["serde_derive"].proc_macro
    assert not found["serde"].proc_macro
    assert found["serde"].readme == "crates-io.md"
    assert found["serde"].license == "MIT OR Apache-2.0"
    assert found["serde"].has_lib
    assert found["serde"].bin_names == ()
