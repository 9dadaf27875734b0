"""The publish gate from outside: what is malformed or hostile is refused with a sentence, and leaves nothing.

The limits and rules are crates.io's and cargo's, and those that the gate adds; each case also shows that the
same upload without the defect goes in.
"""

import gzip
import json
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cargo_registry.policy.rules import RULES
from tests.crate.tarballs import END, folder, long_name, member, pax
from tests.crates import crate_file, metadata, publish_body
from tests.programs import Server
from tests.web.conftest import Answer, ask, publish, published
from tests.web.holdings import forget_peak, held, peak_mib

MAX_CRATE = 2 * 1024 * 1024  # as configured below
MAX_METADATA = 1024 * 1024  # crates.io's limit

CONFIG = """
[registries.main.policy]
missing_description = "off"
missing_license = "off"
[limits]
max_crate_mib = 2
rate_limits = false
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("gate"), CONFIG) as server:
        yield server


@pytest.fixture
def token(server: Server) -> str:
    return server.token("alice")


# --- Cases: each makes, for a crate's name, the body with the defect and the one without ---

Bodies = Callable[[str], tuple[bytes, bytes]]


@dataclass(frozen=True)
class Case:
    """A hostile upload."""

    title: str
    bodies: Bodies
    text: str  # in the answer; `{name}` is the crate's
    status: int = 400


def good(name: str, vers: str = "1.0.0", **more: Any) -> bytes:
    return publish_body(metadata(name, vers, **more), crate_file(name, vers))


def framed(title: str, bad: Callable[[bytes, bytes], bytes], text: str, status: int = 400) -> Case:
    """A case whose defect is in the frame around the JSON and the tarball."""

    def bodies(name: str) -> tuple[bytes, bytes]:
        document, tarball = json.dumps(metadata(name, "1.0.0")).encode(), crate_file(name, "1.0.0")
        return bad(document, tarball), good(name)

    return Case(title, bodies, text, status)


def document(title: str, bad: Callable[[str], bytes], text: str) -> Case:
    """A case whose defect is in the bytes of the JSON."""

    def bodies(name: str) -> tuple[bytes, bytes]:
        return part(bad(name)) + part(crate_file(name, "1.0.0")), good(name)

    return Case(title, bodies, text)


def shape(key: str, value: Any, text: str = "", **fixed: Any) -> Case:
    """A case with one key of the JSON of a wrong shape."""

    def bodies(name: str) -> tuple[bytes, bytes]:
        return publish_body({**metadata(name, "1.0.0"), key: value}, crate_file(name, "1.0.0")), good(
            name, **fixed
        )

    return Case(f"{key} {json.dumps(value)[:40]}", bodies, text or f"$.{key}")


def toml(title: str, bad: str, text: str, fixed: str = "", **said: Any) -> Case:
    """A case whose defect is in `Cargo.toml`, after name and version; `said`: JSON that agrees with `fixed`."""

    def bodies(name: str) -> tuple[bytes, bytes]:
        head = f'[package]\nname = "{name}"\nversion = "1.0.0"\n'
        wrong = crate_file(name, "1.0.0", manifest=head + bad)
        right = crate_file(name, "1.0.0", manifest=head + fixed)
        return publish_body(metadata(name, "1.0.0"), wrong), publish_body(
            metadata(name, "1.0.0", **said), right
        )

    return Case(title, bodies, text)


def tar(
    title: str, bad: Callable[[str], bytes], text: str, fixed: Callable[[str], bytes] = lambda top: b""
) -> Case:
    """A case whose defect is in members of the tar, after a good `Cargo.toml`; `top` is the top folder."""

    def bodies(name: str) -> tuple[bytes, bytes]:
        top = f"{name}-1.0.0"
        head = member(f"{top}/Cargo.toml", least(name))
        wrong, right = (gzip.compress(head + make(top) + END, 1) for make in (bad, fixed))
        return publish_body(metadata(name, "1.0.0"), wrong), publish_body(metadata(name, "1.0.0"), right)

    return Case(title, bodies, text)


def raw(title: str, bad: Callable[[str, bytes], bytes], text: str) -> Case:
    """A case whose defect is in the bytes of the `.crate`; `bad` gets the name and a good one."""

    def bodies(name: str) -> tuple[bytes, bytes]:
        return publish_body(metadata(name, "1.0.0"), bad(name, crate_file(name, "1.0.0"))), good(name)

    return Case(title, bodies, text)


def part(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def least(name: str) -> bytes:
    return f'[package]\nname = "{name}"\nversion = "1.0.0"\n'.encode()


def changed(name: str, old: str, new: str) -> bytes:
    """Return the JSON of a publish with some text exchanged."""
    text = json.dumps(metadata(name, "1.0.0"))
    assert old in text
    return text.replace(old, new, 1).encode("utf-8", "surrogateescape")


FRAMING = [
    framed("nothing", lambda d, t: b"", "cut short"),
    framed("half a length", lambda d, t: part(d)[:2], "cut short"),
    framed("only a length", lambda d, t: part(d)[:4], "cut short"),
    framed("half the JSON", lambda d, t: part(d)[:40], "cut short"),
    framed("no tarball", lambda d, t: part(d), "cut short"),
    framed("half the second length", lambda d, t: part(d) + b"\1\0", "cut short"),
    framed("only the second length", lambda d, t: part(d) + part(t)[:4], "cut short"),
    framed("half the tarball", lambda d, t: (part(d) + part(t))[:-50], "50 of them are missing"),
    framed("all but a byte", lambda d, t: (part(d) + part(t))[:-1], "1 of them are missing"),
    framed("a byte after the tarball", lambda d, t: part(d) + part(t) + b"\0", "bytes after the tarball"),
    framed("a second upload", lambda d, t: (part(d) + part(t)) * 2, "bytes after the tarball"),
    framed("JSON of no length", lambda d, t: part(b"") + part(t), "JSON"),
    framed("tarball of no length", lambda d, t: part(d) + part(b""), "is empty"),
    framed("JSON length too short", lambda d, t: struct.pack("<I", len(d) - 1) + d + part(t), "JSON"),
    framed("JSON length too long", lambda d, t: struct.pack("<I", len(d) + 1) + d + part(t), "JSON"),
    framed(
        "big-endian length", lambda d, t: struct.pack(">I", len(d)) + d + part(t), "the metadata has", 413
    ),
    framed(
        "JSON beyond its limit", lambda d, t: part(b" " * (MAX_METADATA + 1)) + part(t), "1048577 bytes", 413
    ),
    framed("JSON of 4 GiB", lambda d, t: b"\xff" * 4 + d, "4294967295 bytes", 413),
    framed("tarball of 4 GiB", lambda d, t: part(d) + b"\xff" * 4 + t, "max_crate_mib", 413),
    framed(
        "tarball beyond its limit", lambda d, t: part(d) + part(bytes(MAX_CRATE + 1)), "`max_crate_mib`", 413
    ),
    framed("body beyond all limits", lambda d, t: bytes(MAX_CRATE + MAX_METADATA + 9), "3145737 bytes", 413),
    framed("tarball first", lambda d, t: part(t) + part(d), "JSON"),
    framed("only the tarball", lambda d, t: t, "the metadata should have 559903 bytes"),
]

DOCUMENT = [
    document("no JSON", lambda n: b"hello", "JSON"),
    document("half of it", lambda n: changed(n, "}", "")[:-1], "JSON"),
    document("two documents", lambda n: changed(n, "{", "{") * 2, "JSON"),
    document("a list", lambda n: b"[]", "object"),
    document("null", lambda n: b"null", "object"),
    document("NaN", lambda n: changed(n, '"authors": []', '"x": NaN'), "JSON"),
    document("trailing comma", lambda n: changed(n, '"authors": []', '"authors": [],'), "JSON"),
    document("byte order mark", lambda n: b"\xef\xbb\xbf" + changed(n, "{", "{"), "JSON"),
    document("UTF-16", lambda n: changed(n, "{", "{").decode().encode("utf-16"), "UTF-8"),
    document(
        "bytes that are not UTF-8", lambda n: changed(n, '"authors": []', '"authors": ["\udcff"]'), "UTF-8"
    ),
    document(
        "the same in a key nobody reads",
        lambda n: changed(n, '"authors"', '"x": "\udcff", "authors"'),
        "UTF-8",
    ),
    document("an overlong form", lambda n: changed(n, '"authors": []', '"x": "\udcc0\udc80"'), "UTF-8"),
    document("a raw surrogate", lambda n: changed(n, '"authors": []', '"x": "\udced\udca0\udc80"'), "UTF-8"),
    *(
        document(f"a lone surrogate in {where}", partial(changed, old=old, new=new), "JSON")
        for where, old, new in [
            ("authors", '"authors": []', '"authors": ["\\ud800"]'),
            ("readme", '"readme": null', '"readme": "\\udc00 x"'),
            ("a key", '"authors": []', '"\\ud800": []'),
            ("badges", '"badges": {}', '"badges": {"x": {"y": "\\ud800\\ud800"}}'),
            ("a key nobody reads", '"authors": []', '"x": "\\ud800"'),
        ]
    ),
    document("a raw line break", lambda n: changed(n, '"authors": []', '"x": "\n"'), "JSON"),
    document(
        "nested lists", lambda n: changed(n, '"authors": []', f'"x": {"[" * 100_000}{"]" * 100_000}'), "deep"
    ),
    document(
        "nested objects",
        lambda n: changed(n, '"authors": []', f'"x": {"{" + chr(34) + "a" + chr(34) + ":"}' * 50_000),
        "J",
    ),
    document(
        "a number of 5,000 digits",
        lambda n: changed(n, '"authors": []', f'"x": {"9" * 5000}'),
        "out of range",
    ),
    document(
        "a number beyond floats", lambda n: changed(n, '"authors": []', '"x": 1e999999'), "out of range"
    ),
    document("no name", lambda n: changed(n, '"name"', '"nom"'), "`name`"),
    document("no version", lambda n: changed(n, '"vers"', '"version"'), "`vers`"),
]

DEP = {"name": "b", "version_req": "^1"}
TEXTS = (
    "description",
    "documentation",
    "homepage",
    "readme",
    "readme_file",
    "license",
    "license_file",
    "repository",
)


def odd(*values: Any) -> Sequence[Any]:
    """Return values of many types, which a checker would not take for one list."""
    return values


SHAPES = [
    *(shape(key, value) for key in ("name", "vers") for value in odd(None, 1, [], {}, True)),
    *(
        shape(key, value)
        for key in (*TEXTS, "links", "rust_version")
        for value in odd(1, ["x"], {"a": "b"}, False)
    ),
    *(shape(key, value) for key in ("authors", "keywords", "categories") for value in odd("x", {}, 1)),
    *(
        shape(key, [value])
        for key in ("authors", "keywords", "categories")
        for value in odd(None, 1, ["x"], {})
    ),
    *(
        shape("badges", value)
        for value in odd([], "x", {"a": "b"}, {"a": []}, {"a": {"b": 1}}, {"a": {"b": None}})
    ),
    *(
        shape("features", value)
        for value in odd([], "x", {"a": "b"}, {"a": None}, {"a": [1]}, {"a": {"b": []}})
    ),
    *(shape("deps", value) for value in odd("x", {}, 1, [1], [None], ["b"], [[]])),
    *(
        shape("deps", [{**DEP, key: value}], f"$.deps[0].{key}")
        for key, values in {
            "name": odd(1, []),
            "version_req": odd(1, []),
            "features": odd("x", [1], {}),
            "optional": odd(1, "true"),
            "default_features": odd("yes", 0),
            "target": odd(1, []),
            "kind": odd("other", 1, ""),
            "registry": odd(1, {}),
            "explicit_name_in_toml": odd(1, []),
            "artifact": odd("bin", [1]),
            "bindep_target": odd(1),
            "lib": odd("x"),
        }.items()
        for value in values
    ),
    *(shape("deps", [dep], "`version_req`") for dep in ({"name": "b"}, {**DEP, "version_req": None})),
    *(shape("deps", [dep], "`name`") for dep in ({"version_req": "1"}, {**DEP, "name": None})),
]


def named(wrong: str, text: str, vers: str = "1.0.0") -> Case:
    """A case with a name or version that is not allowed, in JSON and tarball alike."""
    return Case(
        f"{wrong[:30]}@{vers[:30]}",
        lambda name: (good(wrong.replace("NAME", name), vers), good(name)),
        text,
    )


NAMES = [
    named("", "empty"),
    named("a" * 65, "64 characters"),
    *(
        named(wrong, "use an ASCII letter and then")
        for wrong in ("1a", "_a", "-a", "éa", " a", "\0a", "\uff21a")
    ),
    *(
        named(wrong, "ASCII letters, digits, `-` and `_`")
        for wrong in (
            "a.b",
            "a b",
            "a/b",
            "../a",
            "a\\b",
            "aé",
            "a\n",
            "a\0",
            "a\u202eb",
            "K\u212aa",
            "a+b",
            "a%2f",
        )
    ),
    *(
        named(wrong, "reserved by Windows")
        for wrong in ("nul", "NUL", "con", "aux", "prn", "com0", "Com1", "lpt9")
    ),
    *(
        named(wrong, "reserved for Rust")
        for wrong in (
            "std",
            "Core",
            "alloc",
            "test",
            "proc-macro",
            "proc_macro",
            "rustc",
            "rustc-driver",
            "macros",
        )
    ),
    *(
        named("NAME", "not a semantic version", vers)
        for vers in (
            "",
            "1",
            "1.0",
            "v1.0.0",
            "1.0.0.0",
            "01.0.0",
            "1.0.0-01",
            "1.0.0-",
            "1.0.0+",
            "1.0.0-a..b",
        )
    ),
    *(
        named("NAME", "not a semantic version", vers)
        for vers in (
            "1.0.0 ",
            "1.0.0\n",
            "1.0.0/../x",
            "1.0.0-ä",
            "1.0.٣",
            "1.0.0+a+b",
            "*",
            "latest",
            "-1.0.0",
        )
    ),
    named("NAME", "number that is too large", "18446744073709551616.0.0"),
    named("NAME", "number that is too large", f"0.0.{'9' * 40}"),
    named("NAME", "150 characters", f"1.0.0-{'a' * 145}"),
]


def disagreeing(title: str, text: str, manifest: str, said: dict[str, Any], fixed: dict[str, Any]) -> Case:
    """A case whose JSON says other than its manifest."""

    def bodies(name: str) -> tuple[bytes, bytes]:
        head = f'[package]\nname = "{name}"\nversion = "1.0.0"\n'
        tarball = crate_file(name, "1.0.0", manifest=head + manifest)
        wrong, right = ({**metadata(name, "1.0.0"), **keys} for keys in (said, fixed))
        return publish_body(wrong, tarball), publish_body(right, tarball)

    return Case(title, bodies, text)


CRATES_IO = "https://github.com/rust-lang/crates.io-index"
ONE_DEP = '[dependencies]\nb = { version = "1", features = ["x"] }\n'
B = {"name": "b", "version_req": "^1", "features": ["x"], "registry": CRATES_IO}

AGREEMENT = [
    Case(
        "another name",
        lambda name: (
            publish_body(
                metadata(name, "1.0.0"), crate_file(name, "1.0.0", manifest=least("other").decode())
            ),
            good(name),
        ),
        "gives the name as `{name}`, but `Cargo.toml` in the tarball as `other`",
    ),
    Case(
        "another spelling",
        lambda name: (
            publish_body(
                metadata(name, "1.0.0"), crate_file(name, "1.0.0", manifest=least(name.upper()).decode())
            ),
            good(name),
        ),
        "gives the name as `{name}`",
    ),
    Case(
        "another version",
        lambda name: (
            publish_body(
                metadata(name, "1.0.0"),
                crate_file(name, "1.0.0", manifest=least(name).decode().replace("1.0.0", "1.0.1")),
            ),
            good(name),
        ),
        "gives the version as `1.0.0`, but `Cargo.toml` in the tarball as `1.0.1`",
    ),
    Case(
        "other build metadata",
        lambda name: (
            publish_body(
                metadata(name, "1.0.0"),
                crate_file(name, "1.0.0", manifest=least(name).decode().replace("1.0.0", "1.0.0+x")),
            ),
            good(name),
        ),
        "gives the version as `1.0.0`",
    ),
    disagreeing("links", "`links` as `z`, but", 'links = "y"', {"links": "z"}, {"links": "y"}),
    disagreeing("links only in the manifest", "`links` as nothing", 'links = "y"', {}, {"links": "y"}),
    disagreeing("rust-version", "`rust-version`", 'rust-version = "1.60"', {}, {"rust_version": "1.60"}),
    disagreeing(
        "a dependency too few", "dependency `b` is only in the `Cargo.toml`", ONE_DEP, {}, {"deps": [B]}
    ),
    disagreeing(
        "a dependency too many",
        "dependency `c` is only in the publish request",
        ONE_DEP,
        {"deps": [B, {**B, "name": "c"}]},
        {"deps": [B]},
    ),
    disagreeing("a dependency twice", "`b`", ONE_DEP, {"deps": [B, B]}, {"deps": [B]}),
    *(
        disagreeing(
            f"another {key} of a dependency",
            f"`{label}` is",
            ONE_DEP,
            {"deps": [{**B, key: value}]},
            {"deps": [B]},
        )
        for key, value, label in [
            ("version_req", "^2", "req"),
            ("features", [], "features"),
            ("optional", True, "optional"),
            ("default_features", False, "default_features"),
            ("registry", None, "registry"),
            ("registry", "sparse+https://evil.example/", "registry"),
        ]
    ),
    *(
        disagreeing(
            f"another {key} of a dependency",
            "dependency `b` is only in",
            ONE_DEP,
            {"deps": [{**B, key: value}]},
            {"deps": [B]},
        )
        for key, value in [("kind", "dev"), ("target", "cfg(unix)")]
    ),
    disagreeing(
        "another crate under the same name",
        "`package` is `evil` in the request and `b` in the manifest",
        ONE_DEP,
        {"deps": [{**B, "name": "evil", "explicit_name_in_toml": "b"}]},
        {"deps": [B]},
    ),
    disagreeing(
        "other features",
        "in the feature `f`",
        '[features]\nf = ["g"]\ng = []',
        {"features": {"f": [], "g": []}},
        {"features": {"f": ["g"], "g": []}},
    ),
    disagreeing(
        "a feature too few",
        "in the feature `g`",
        "[features]\nf = []\ng = []",
        {"features": {"f": []}},
        {"features": {"f": [], "g": []}},
    ),
    disagreeing(
        "a requirement of the JSON that cannot be read",
        "`>>1`",
        ONE_DEP,
        {"deps": [{**B, "version_req": ">>1"}]},
        {"deps": [B]},
    ),
]

OPT = '[dependencies]\nb = { version = "1", optional = true }\nc = "1"\n'
OPT_DEPS = [
    {"name": "b", "version_req": "^1", "optional": True, "registry": CRATES_IO},
    {"name": "c", "version_req": "^1", "registry": CRATES_IO},
]


def feature(value: str, text: str, fixed: str = "dep:b") -> Case:
    """A case with a value of the feature `f` that cargo would refuse to read."""
    return toml(
        f"feature with {value}",
        f'{OPT}[features]\nf = ["{value}"]\n',
        text,
        f'{OPT}[features]\nf = ["{fixed}"]\n',
        deps=OPT_DEPS,
        features={"f": [fixed]},
    )


def dependency(title: str, bad: str, text: str) -> Case:
    return toml(title, f"[dependencies]\n{bad}\n", text, '[dependencies]\nc = "1"\n', deps=OPT_DEPS[1:])


MANIFEST = [
    toml("no TOML", "}", "not valid TOML"),
    toml("a key twice", 'edition = "2021"\nedition = "2021"', "not valid TOML"),
    toml("nested lists", f"x = {'[' * 5000}", "nests too deeply"),
    toml("a dotted key of thousands", f"x.{'a.' * 5000}b = 1", "nests too deeply"),
    toml("a date that is none", "x = 2025-02-30", "date"),
    toml("control character", 'x = "\0"', "not valid TOML"),
    toml("lone surrogate", 'x = "\\ud800"', "not valid TOML"),
    toml("patch", '[patch.crates-io]\na = { path = "x" }', "`[patch]`"),
    toml("edition", 'edition = "next"', "`package.edition` `next`", 'edition = "2024"'),
    toml("edition of the wrong type", "edition = 2021", "`package.edition`", 'edition = "2021"'),
    toml("edition of the workspace", "edition.workspace = true", "from a workspace", 'edition = "2021"'),
    *(
        toml(f"rust-version {v}", f'rust-version = "{v}"', "not a version of Rust")
        for v in ("^1.60", "1.60.0-beta", "01.2", "1.2.3.4", "", "1.٣")
    ),
    *(
        toml(f"{key} of the wrong type", f"{key} = [1]", f"`package.{key}`", f'{key} = "https://example.org"')
        for key in (
            "description",
            "license",
            "license-file",
            "homepage",
            "documentation",
            "repository",
            "readme",
        )
    ),
    toml("links of the wrong type", "links = 1", "`package.links`", 'links = "z"', links="z"),
    *(
        toml(f"{key} of the wrong type", f"{key} = [1]", f"`package.{key}`", f'{key} = ["x"]')
        for key in ("authors", "keywords", "categories")
    ),
    toml(
        "features of the wrong type",
        "[features]\nf = 1",
        "`features.f`",
        "[features]\nf = []",
        features={"f": []},
    ),
    *(
        toml(
            f"control character in {key}",
            f"{key} = {value}",
            "control character",
            f'{key} = "https://example.org"',
        )
        for key, value in {
            "description": '"safe \\u001b]0;owned\\u0007 text"',
            "homepage": '"https://example.org/\\u0000"',
            "repository": '"https://example.org/\\u009b"',
            "license": '"MIT\\u007f"',
        }.items()
    ),
    toml("control character in links", 'links = "z\\u0000"', "control character", 'links = "z"', links="z"),
    toml("control character in keywords", 'keywords = ["a\\u001b"]', "control character", 'keywords = ["a"]'),
    toml("empty feature name", '[features]\n"" = []', "empty name"),
    *(
        toml(
            f"feature name {name!r}",
            f'[features]\n"{name}" = []',
            "feature name",
            "[features]\nf = []",
            features={"f": []},
        )
        for name in ("-a", "+a", "a b", "a/b", "a?", "dep:b", "ä\u202e", ".x")
    ),
    feature("nothing", "no such feature or optional dependency"),
    feature("c", "not optional"),
    feature("dep:c", "is not optional"),
    feature("c?/x", "is not optional"),
    feature("dep:gone", "no dependency `gone`"),
    feature("gone/x", "no dependency `gone`"),
    feature("gone?/x", "no dependency `gone`"),
    feature("dep:b/x", "both `dep:` and `/`"),
    feature("b/", "wrong value"),
    feature("", "the feature `f` has the value ``"),
    toml(
        "optional dependency hidden by a feature",
        f"{OPT}[features]\nb = []\n",
        "`b` is not included in any feature",
        f'{OPT}[features]\nb = ["dep:b"]\n',
        deps=OPT_DEPS,
        features={"b": ["dep:b"]},
    ),
    dependency("requirement", 'c = "one"', "version requirement `one`"),
    dependency("requirement of npm", 'c = "1 || 2"', "version requirement"),
    dependency("requirement beyond 2^64", 'c = "18446744073709551616"', "too large"),
    dependency("requirement of many parts", f'c = "{",".join([">1"] * 33)}"', "too many parts"),
    dependency("dependency name", '"c d" = "1"', "`c d`"),
    dependency("dependency name of another script", '"\uff43" = "1"', "`\uff43`"),
    dependency("real name", 'c = { version = "1", package = "../c" }', "`../c`"),
    dependency("dependency of a number", "c = 1", "`c`"),
    dependency("dependency of the workspace", "c = { workspace = true }", "comes from a workspace"),
    dependency("registry by name", 'c = { version = "1", registry = "mine" }', "names its registry `mine`"),
    dependency("registry that is no URL", 'c = { version = "1", registry-index = "mine" }', "is not a URL"),
    dependency(
        "registry of a file", 'c = { version = "1", registry-index = "javascript://x" }', "unknown kind"
    ),
    dependency(
        "sparse index without slash",
        'c = { version = "1", registry-index = "sparse+https://x.example" }',
        "must end in `/`",
    ),
    dependency(
        "registry with a password",
        'c = { version = "1", registry-index = "https://u:p@x.example/i" }',
        "password",
    ),
    dependency(
        "registry with a line break",
        'c = { version = "1", registry-index = "https://x.example/\\n" }',
        "is not a URL",
    ),
    dependency("feature of a dependency", 'c = { version = "1", features = ["a/b c"] }', "wrong feature"),
    toml(
        "optional dev-dependency",
        '[dev-dependencies]\nc = { version = "1", optional = true }',
        "is optional, which is not allowed",
    ),
    toml("target", "[target.'cfg(unix'.dependencies]\n", "wrong target"),
    toml("target with a tab", '[target."cfg(\\tunix)".dependencies]\n', "wrong target"),
    toml(
        "target nested too deeply",
        f"[target.'cfg({'not(' * 40}unix{')' * 40})'.dependencies]\n",
        "nests too deeply",
    ),
    Case(
        "manifest that is not UTF-8",
        lambda name: (
            publish_body(
                metadata(name, "1.0.0"),
                gzip.compress(member(f"{name}-1.0.0/Cargo.toml", least(name) + b"# \xff\n") + END),
            ),
            good(name),
        ),
        "not in UTF-8",
    ),
    Case(
        "manifest without package",
        lambda name: (
            publish_body(metadata(name, "1.0.0"), crate_file(name, "1.0.0", manifest="[workspace]\n")),
            good(name),
        ),
        "no `[package]`",
    ),
    Case(
        "manifest of more than 1 MiB",
        lambda name: (
            publish_body(
                metadata(name, "1.0.0"),
                crate_file(name, "1.0.0", manifest=least(name).decode() + "#" * MAX_METADATA),
            ),
            good(name),
        ),
        "at most 1048576",
    ),
]


def path(wrong: str, text: str) -> Case:
    return tar(f"path {wrong}", lambda top: member(f"{top}/{wrong}"), text, lambda top: member(f"{top}/fine"))


def kind(flag: bytes, what: str) -> Case:
    def bad(top: str) -> bytes:
        return member(f"{top}/link", kind=flag)

    return tar(f"entry that is {what}", bad, "neither a file nor a folder", lambda top: member(f"{top}/link"))


def many(top: str, count: int) -> bytes:
    return b"".join(member(f"{top}/{number}") for number in range(count))


TARBALL = [
    raw("no gzip", lambda n, t: b"hello", "not valid gzip"),
    raw("a tar without gzip", lambda n, t: gzip.decompress(t), "not valid gzip"),
    raw("zip", lambda n, t: b"PK\3\4" + t, "not valid gzip"),
    raw("half the gzip", lambda n, t: t[: len(t) // 2], "cut off"),
    raw("gzip without its end", lambda n, t: t[:-8], "cut off"),
    raw("gzip with half its end", lambda n, t: t[:-1], "cut off"),
    raw("wrong checksum of gzip", lambda n, t: t[:-8] + b"xxxx" + t[-4:], "not valid gzip"),
    raw("wrong length of gzip", lambda n, t: t[:-4] + b"xxxx", "not valid gzip"),
    raw("a changed byte", lambda n, t: t[:40] + bytes([t[40] ^ 1]) + t[41:], "gzip"),
    raw("bytes after the gzip", lambda n, t: t + b"x", "after the end of its gzip"),
    raw("zeros after the gzip", lambda n, t: t + bytes(512), "after the end of its gzip"),
    raw("a second gzip member", lambda n, t: t + gzip.compress(b""), "after the end of its gzip"),
    raw("the same twice", lambda n, t: t * 2, "after the end of its gzip"),
    raw("gzip of nothing", lambda n, t: gzip.compress(b""), "no `{name}-1.0.0/Cargo.toml`"),
    raw("gzip of text", lambda n, t: gzip.compress(b"x" * 600), "header"),
    raw("gzip of less than a block", lambda n, t: gzip.compress(b"x" * 100), "cut off"),
    raw("tar cut in a file", lambda n, t: gzip.compress(gzip.decompress(t)[:520]), "cut off"),
    raw(
        "wrong checksum of a header",
        lambda n, t: gzip.compress(member(f"{n}-1.0.0/x", checksum=1) + END),
        "checksum",
    ),
    raw(
        "no manifest",
        lambda n, t: gzip.compress(member(f"{n}-1.0.0/src/lib.rs") + END),
        "no `{name}-1.0.0/Cargo.toml`",
    ),
    raw(
        "manifest in capitals",
        lambda n, t: gzip.compress(member(f"{n}-1.0.0/CARGO.TOML", least(n)) + END),
        "exactly `Cargo.toml`",
    ),
    raw(
        "manifest deeper down",
        lambda n, t: gzip.compress(member(f"{n}-1.0.0/x/Cargo.toml", least(n)) + END),
        "no `{name}-1.0.0/Cargo.toml`",
    ),
    raw(
        "other top folder",
        lambda n, t: crate_file("other", "1.0.0", manifest=least(n).decode()),
        "not inside the folder `{name}-1.0.0`",
    ),
    raw(
        "top folder of another case",
        lambda n, t: crate_file(n.upper(), "1.0.0", manifest=least(n).decode()),
        "not inside",
    ),
    raw(
        "top folder of another version",
        lambda n, t: crate_file(n, "1.0.1", manifest=least(n).decode()),
        "not inside",
    ),
    tar("second top folder", lambda top: member("other/x"), "not inside the folder"),
    tar("no top folder", lambda top: member("x"), "not inside the folder"),
    tar("absolute path", lambda top: member(f"/{top}/x"), "not inside the folder"),
    tar("top folder that is a file", lambda top: member(top), "not inside the folder"),
    path("../x", "empty, `.` or `..`"),
    path("a/../x", "empty, `.` or `..`"),
    path("./x", "empty, `.` or `..`"),
    path("a//x", "empty, `.` or `..`"),
    path("a\\..\\x", "Windows does not allow"),
    path("C:x", "Windows does not allow"),
    path("x?", "Windows does not allow"),
    path("a\x01", "Windows does not allow"),
    path("x.", "a dot or space at the end"),
    path("x ", "a dot or space at the end"),
    path("nul", "Windows device"),
    path("AUX.rs", "Windows device"),
    path("src/com1.txt", "Windows device"),
    path(".cargo-ok", "`.cargo-ok`"),
    path(".CARGO-OK", "`.cargo-ok`"),
    path("cargo.toml", "the same to Windows or macOS"),
    path("Cargo.toml", "twice"),
    tar("path that is not UTF-8", lambda top: member(top.encode() + b"/\xff"), "not UTF-8"),
    tar(
        "path of more than 1,024 bytes",
        lambda top: long_name(f"{top}/{'a' * 200}" + "/b" * 500) + member("x"),
        "too long",
    ),
    tar("name of more than 255 bytes", lambda top: long_name(f"{top}/{'a' * 256}") + member("x"), "too long"),
    tar("file twice", lambda top: member(f"{top}/x") * 2, "twice", lambda top: member(f"{top}/x")),
    tar("file in two cases", lambda top: member(f"{top}/x") + member(f"{top}/X"), "same to Windows or macOS"),
    tar(
        "file in two normal forms",
        lambda top: member(f"{top}/\u00e9") + member(f"{top}/e\u0301"),
        "same to Windows",
    ),
    tar("file and folder", lambda top: member(f"{top}/x") + member(f"{top}/x/y"), "twice"),
    tar("folder twice", lambda top: folder(f"{top}/x/") * 2, "twice", lambda top: folder(f"{top}/x/")),
    tar("folder with content", lambda top: member(f"{top}/x/", b"abc", kind=b"5"), "with content"),
    kind(b"2", "a symlink"),
    kind(b"1", "a hard link"),
    kind(b"3", "a character device"),
    kind(b"4", "a block device"),
    kind(b"6", "a pipe"),
    kind(b"7", "contiguous"),
    kind(b"S", "sparse"),
    kind(b"g", "a global pax header"),
    kind(b"Z", "unknown"),
    tar("two sizes", lambda top: pax(("size", "5")) + member(f"{top}/x", b"abc"), "two sizes"),
    tar(
        "two paths",
        lambda top: long_name(f"{top}/a") + pax(("path", f"{top}/b")) + member("x"),
        "in two ways",
    ),
    tar("pax with a link", lambda top: pax(("linkpath", "/etc/passwd")) + member(f"{top}/x"), "`linkpath`"),
    tar(
        "pax of a sparse file",
        lambda top: pax(("GNU.sparse.major", "1")) + member(f"{top}/x"),
        "`GNU.sparse.major`",
    ),
    tar(
        "malformed pax",
        lambda top: member("pax", b"99 path=x\n", kind=b"x") + member(f"{top}/x"),
        "malformed pax",
    ),
    tar(
        "pax of 16 KiB",
        lambda top: pax(("comment", "x" * 20_000)) + member(f"{top}/x"),
        "more than 16384 bytes",
    ),
    tar("pax for nothing", lambda top: pax(("comment", "x")), "does not follow"),
    tar("negative size", lambda top: member(f"{top}/x", size=b"-0000000001\0"), "unreadable size"),
    tar(
        "size in binary", lambda top: member(f"{top}/x", size=b"\x80" + bytes(10) + b"\1"), "unreadable size"
    ),
    tar("size beyond the end", lambda top: member(f"{top}/x", size=b"77777777777\0"), "cut off"),
    tar("data between files", lambda top: member(f"{top}/x", b"abc", padding=b"x"), "between its files"),
    tar("data after the end", lambda top: END + member(f"{top}/x"), "after its end"),
    tar("50,001 files", lambda top: many(top, 50_001), "more than 50000 files"),
]

CASES = [*FRAMING, *DOCUMENT, *SHAPES, *NAMES, *AGREEMENT, *MANIFEST, *TARBALL]


@pytest.mark.parametrize(
    ("number", "case"),
    list(enumerate(CASES)),
    ids=[case.title.encode("unicode_escape").decode() for case in CASES],
)
def test_hostile_upload_is_refused_and_leaves_nothing(
    server: Server, token: str, number: int, case: Case
) -> None:
    name = f"case-{number}"
    bad, right = case.bodies(name)
    before = held(server)
    refused = ask(server, "/api/v1/crates/new", method="PUT", body=bad, token=token)
    assert refused.status == case.status, refused.body
    detail = refused.detail()
    assert case.text.format(name=name) in detail
    check_sentence(detail)
    assert held(server) == before
    assert publish(server, token, name, body=right).status == 200


def check_sentence(detail: str) -> None:
    """Check the form of what cargo prints: one line that a terminal can show, and no more than is read."""
    assert detail.isprintable()
    assert 20 < len(detail) < 1000, detail
    assert " " in detail


@pytest.mark.parametrize(
    "body", [b"", b"\xff" * 100, good("hidden"), bytes(900_000)], ids=["empty", "hostile", "good", "large"]
)
@pytest.mark.parametrize("wrong", [None, "crg_" + "0" * 48])
def test_who_calls_comes_before_what_was_sent(server: Server, body: bytes, wrong: str | None) -> None:
    before = held(server)
    for target, method in (("/api/v1/crates/new", "PUT"), ("/api/v1/crates/check", "POST")):
        refused = ask(server, target, method=method, body=body, token=wrong)
        assert refused.status == 401
        assert "token" in refused.detail()
    assert held(server) == before


# --- Bombs: bounded time and memory ---


def bomb(name: str, size: int) -> bytes:
    """Return a tarball of some hundred KiB whose one file has `size` zeros."""
    head = member(f"{name}-1.0.0/Cargo.toml", least(name)) + member(f"{name}-1.0.0/x", size=b"%011o\0" % size)
    compress = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = compress.compress(head) + compress.flush(zlib.Z_FULL_FLUSH)
    mebibyte = bytes(1024 * 1024)
    block = compress.compress(mebibyte) + compress.flush(zlib.Z_FULL_FLUSH)
    # After a full flush a block stands for itself, so the same one can follow any number of times. The checksum
    # at the end is wrong, but nobody should come so far.
    blocks = -(-size // len(mebibyte))
    return b"\x1f\x8b\x08" + bytes(7) + start + block * blocks + b"\3\0" + bytes(8)


BOMBS: dict[str, tuple[Callable[[str], bytes], str]] = {
    "one file of 1 GiB": (lambda name: publish_body(metadata(name, "1.0.0"), bomb(name, 2**30)), "512 MiB"),
    "400,000 empty files of one name": (
        lambda name: publish_body(
            metadata(name, "1.0.0"), gzip.compress(member(f"{name}-1.0.0/x") * 400_000, 9)
        ),
        "twice",
    ),
    "nested JSON": (
        lambda name: part(b'{"name":"a","vers":"1.0.0","x":' + b'{"a":' * 200_000) + part(b"x"),
        "deep",
    ),
    "25,000 dependencies against 60,000": (
        lambda name: publish_body(
            metadata(name, "1.0.0", deps=[{"name": f"a{n}", "version_req": "1"} for n in range(25_000)]),
            crate_file(
                name,
                "1.0.0",
                manifest=least(name).decode()
                + "[dependencies]\n"
                + "".join(f'b{n}="1"\n' for n in range(60_000)),
            ),
        ),
        "only in the publish request",
    ),
    "50,000 features in a chain": (
        lambda name: publish_body(
            metadata(name, "1.0.0"),
            crate_file(
                name,
                "1.0.0",
                manifest=least(name).decode()
                + "[features]\n"
                + "".join(f'f{n}=["f{n + 1}"]\n' for n in range(50_000)),
            ),
        ),
        "`f50000`",
    ),
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_bomb_costs_bounded_time_and_memory_and_nobody_waits(server: Server, token: str, what: str) -> None:
    make, text = BOMBS[what]
    body = make("bomb")
    assert len(body) < MAX_CRATE + MAX_METADATA
    before = held(server)
    memory = forget_peak(server)
    answers: list[Answer] = []

    def send() -> None:
        answers.append(ask(server, "/api/v1/crates/new", method="PUT", body=body, token=token))

    sending = threading.Thread(target=send)
    started = time.monotonic()
    sending.start()
    slowest = 0.0
    while sending.is_alive():
        at = time.monotonic()
        assert server.http.get("/healthz").status_code == 200
        slowest = max(slowest, time.monotonic() - at)
        time.sleep(0.01)
    took = time.monotonic() - started
    (refused,) = answers
    assert refused.status == 400, refused.body
    assert text in refused.detail()
    assert took < 15
    assert slowest < 2
    assert peak_mib(server) - memory < 200
    assert held(server) == before


# --- A name and a version are taken once ---


def test_other_spelling_of_a_name_is_refused_and_named(server: Server, token: str) -> None:
    published(server, token, "Foo-Bar")
    for spelling in ("foo-bar", "Foo_Bar", "foo_bar", "FOO-BAR"):
        before = held(server)
        refused = publish(server, token, spelling, "1.0.1")
        assert (refused.status, "previously named `Foo-Bar`" in refused.detail()) == (409, True)
        assert held(server) == before
    published(server, token, "Foo-Bar", "1.0.1")


def test_index_answers_only_to_the_first_spelling_and_everything_else_to_any(
    server: Server, token: str
) -> None:
    published(server, token, "Any_Spelling")
    assert ask(server, "/index/an/y_/any_spelling").status == 200
    assert ask(server, "/index/an/y-/any-spelling").status == 404
    for spelling in ("Any_Spelling", "any-spelling", "ANY-SPELLING"):
        assert ask(server, f"/api/v1/crates/{spelling}/1.0.0/download").status == 200
        assert ask(server, f"/api/v1/crates/{spelling}").json()["crate"]["name"] == "Any_Spelling"
        assert ask(server, f"/api/v1/crates/{spelling}/owners").json()["users"][0]["login"] == "alice"


@pytest.mark.parametrize("yanked", [False, True])
@pytest.mark.parametrize(
    ("first", "second"),
    [("1.0.0", "1.0.0"), ("1.0.0", "1.0.0+x"), ("1.0.0+x", "1.0.0+y"), ("1.0.0+x", "1.0.0")],
)
def test_version_is_taken_whatever_its_build_metadata(
    server: Server, token: str, first: str, second: str, yanked: bool
) -> None:
    name = f"taken-{first.replace('+', '_')}-{second.replace('+', '_')}-{yanked}".replace(".", "")
    published(server, token, name, first)
    if yanked:
        target = f"/api/v1/crates/{name}/{first}/yank"
        assert ask(server, target, method="DELETE", token=token).status == 200
    before = held(server)
    refused = publish(server, token, name, second, tarball=crate_file(name, second, files={"new.rs": b""}))
    assert (refused.status, f"`{name}@{first}`" in refused.detail() or f"`{first}`" in refused.detail()) == (
        409,
        True,
    )
    assert held(server) == before
    published(server, token, name, "1.0.1+x")


def test_deleted_version_comes_back_only_with_the_same_bytes(server: Server, token: str) -> None:
    published(server, token, "buried")
    published(server, token, "buried", "1.0.1")
    server.cli("crate", "delete", "buried@1.0.0", "--reason", "test")
    for vers in ("1.0.0", "1.0.0+x"):
        before = held(server)
        refused = publish(
            server, token, "buried", vers, tarball=crate_file("buried", vers, files={"x.rs": b""})
        )
        assert (refused.status, "then deleted" in refused.detail()) == (409, True)
        assert held(server) == before
    published(server, token, "buried")


# --- Who may ---


def test_publish_of_somebody_elses_crate_leaves_nothing(server: Server, token: str) -> None:
    published(server, token, "not-yours")
    bob = server.token("bob")
    before = held(server)
    refused = publish(server, bob, "not-yours", "1.0.1")
    assert (refused.status, "`bob` is not one of its owners" in refused.detail()) == (403, True)
    assert held(server) == before


def test_token_without_the_scope_leaves_nothing(server: Server) -> None:
    updates_only = server.token("alice", "--scope", "publish-update")
    before = held(server)
    refused = publish(server, updates_only, "scoped")
    assert (refused.status, "`publish-new`" in refused.detail()) == (403, True)
    assert held(server) == before


# --- Check: what publish would answer, and nothing stored ---


def both(server: Server, token: str, body: bytes) -> tuple[Answer, Answer]:
    """Return the answer to a check, which changes nothing, and then to the publish."""
    before = held(server)
    checked = ask(server, "/api/v1/crates/check", method="POST", body=body, token=token)
    assert held(server) == before
    return checked, ask(server, "/api/v1/crates/new", method="PUT", body=body, token=token)


def test_check_answers_what_publish_would(server: Server, token: str) -> None:
    published(server, token, "checked")
    bob = server.token("bob")
    deps = '[dependencies]\nlog = "*"\n'
    said = [{"name": "log", "version_req": "*", "registry": CRATES_IO}]
    warned = crate_file("check-warned", "1.0.0", manifest=least("check-warned").decode() + deps)
    cases = [
        (200, token, good("check-fine")),
        (200, token, publish_body(metadata("check-warned", "1.0.0", deps=said), warned)),
        (400, token, b""),
        (400, token, good("nul")),
        (400, token, good("checked", "1.0")),
        (400, token, publish_body(metadata("checked", "1.0.1"), b"x")),
        (403, bob, good("checked", "1.0.1")),
        (403, server.token("alice", "--scope", "yank"), good("checked", "1.0.1")),
        (409, token, good("checked", "1.0.0")),
        (409, token, good("checked", "1.0.0+x")),
        (409, token, good("Checked", "1.0.1")),
        (413, token, part(json.dumps(metadata("checked", "1.0.1")).encode()) + b"\xff" * 4),
        (401, "crg_wrong", good("checked", "1.0.1")),
    ]
    for status, who, body in cases:
        checked, real = both(server, who, body)
        assert checked.status == status, checked.body
        assert checked.without_date() == real.without_date()


def test_dry_run_of_the_command_line_says_what_publish_would(
    server: Server, token: str, tmp_path: Path
) -> None:
    published(server, token, "dry")
    files = {
        "fine": crate_file("dry-fine", "1.0.0"),
        "taken": crate_file("dry", "1.0.0"),
        "spelling": crate_file("DRY", "1.0.1"),
        "hostile": crate_file("dry", "1.0.1") + b"x",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    def said(*options: str) -> list[tuple[str | None, str | None]]:
        paths = [tmp_path / name for name in files]
        done = server.cli("publish", "--as", "alice", "--json", *options, *paths, fails=True)
        return [(result["crate"], result["error"]) for result in json.loads(done.stdout)]

    before = held(server)
    tried = said("--dry-run")
    assert held(server) == before
    assert [crate for crate, _ in tried] == ["dry-fine", None, None, None]
    for (_, error), text in zip(
        tried[1:], ("already uploaded", "previously named", "after the end"), strict=True
    ):
        assert error is not None
        assert text in error
    assert said() == tried


# --- Policies ---

STRICT = "warn", "refuse", "off"
OTHER = "sparse+https://other.example.org/index/"
MORE = {
    "license_not_allowed": 'allowed_licenses = ["MIT"]',
    "dependency_registries": f'allowed_registries = ["{OTHER}"]',
    "count_limits": "max_features = 1",
    "reserved_names": 'names_of_teams = ["sums*=adders"]',
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a registry for each rule and strictness, all other rules off."""
    config = "[registries.main]\n[limits]\nrate_limits = false\n"
    for rule in RULES:
        for strictness in STRICT:
            config += f"[registries.{strictness}-{rule.replace('_', '-')}.policy]\n{MORE.get(rule, '')}\n"
            config += "".join(f'{key} = "{strictness if key == rule else "off"}"\n' for key in RULES)
    with Server(tmp_path_factory.mktemp("house"), config) as server:
        # One whom nothing keeps from new names.
        server.user("root", "--role", "admin")
        server.cli("team", "add", "adders", "root")
        yield server


def own_dep(server: Server, registry: str, name: str) -> tuple[str, list[dict[str, Any]]]:
    """Return a dependency in the registry itself, for the manifest and for the JSON."""
    manifest = (
        f'[dependencies]\n{name} = {{ version = "1", registry-index = "{server.index_url(registry)}" }}\n'
    )
    return manifest, [{"name": name, "version_req": "^1"}]


def crates_io_dep(req: str) -> tuple[str, list[dict[str, Any]]]:
    return f'[dependencies]\nlog = "{req}"\n', [{"name": "log", "version_req": req, "registry": CRATES_IO}]


def broken(server: Server, rule: str, registry: str) -> tuple[str, str, dict[str, Any]]:
    """Return name, lines of the manifest and JSON that break one rule."""
    match rule:
        case "license_syntax":
            return "sums", 'license = "mine"', {}
        case "license_not_allowed":
            return "sums", 'license = "ISC"', {}
        case "keywords":
            return "sums", 'keywords = ["two words"]', {}
        case "categories":
            return "sums", 'categories = ["Two Words"]', {}
        case "urls":
            return "sums", 'homepage = "javascript:alert(1)"', {}
        case "wildcard_requirements":
            lines, deps = crates_io_dep("*")
            return "sums", lines, {"deps": deps}
        case "unknown_dependencies":
            lines, deps = own_dep(server, registry, "gone")
            return "sums", lines, {"deps": deps}
        case "misspelled_dependencies":
            lines, deps = own_dep(server, registry, "here_first")
            return "sums", lines, {"deps": deps}
        case "dependency_registries":
            lines, deps = crates_io_dep("^1")
            return "sums", lines, {"deps": deps}
        case "count_limits":
            return "sums", "[features]\na = []\nb = []", {"features": {"a": [], "b": []}}
        case "similar_names":
            return "here-furst", "", {}
    return "sums", "", {}


def fixed(server: Server, rule: str, registry: str) -> tuple[str, str, dict[str, Any]]:
    """Return the same without the defect."""
    match rule:
        case "missing_description":
            return "sums", 'description = "x"', {}
        case "missing_license" | "license_syntax" | "license_not_allowed":
            return "sums", 'license = "MIT"', {}
        case "misspelled_dependencies":
            lines, deps = own_dep(server, registry, "here-first")
            return "sums", lines, {"deps": deps}
        case "similar_names":
            return "quite-another", "", {}
        case "new_names_by_publishers" | "reserved_names":
            return "here-first", "", {}
    return "sums", "", {}


@pytest.mark.parametrize("rule", RULES)
def test_policy_of_the_configuration_holds(house: Server, rule: str) -> None:
    root, token = house.token("root"), house.token("alice")

    def send(
        registry: str, what: tuple[str, str, dict[str, Any]], vers: str, who: str, method: str = "PUT"
    ) -> Answer:
        name, lines, said = what
        manifest = f'[package]\nname = "{name}"\nversion = "{vers}"\n{lines}\n'
        body = publish_body(metadata(name, vers, **said), crate_file(name, vers, manifest=manifest))
        end = "new" if method == "PUT" else "check"
        return ask(house, f"/{registry}/api/v1/crates/{end}", method=method, body=body, token=who)

    for strictness in STRICT:
        registry = f"{strictness}-{rule.replace('_', '-')}"
        # What breaks no rule goes in without a word.
        first: tuple[str, str, dict[str, Any]] = ("here-first", 'description = "x"\nlicense = "MIT"', {})
        assert warnings(send(registry, first, "1.0.0", root)) == []
        added = json.dumps({"users": ["alice"]}).encode()
        target = f"/{registry}/api/v1/crates/here-first/owners"
        assert ask(house, target, method="PUT", body=added, token=root).status == 200
        before = held(house)
        checked = send(registry, broken(house, rule, registry), "1.0.1", token, "POST")
        assert held(house) == before
        answer = send(registry, broken(house, rule, registry), "1.0.1", token)
        assert answer.without_date() == checked.without_date()
        match strictness:
            case "off":
                assert warnings(answer) == []
            case "warn":
                (warning,) = warnings(answer)
                check_sentence(warning)
            case "refuse":
                assert answer.status == 400
                check_sentence(answer.detail())
                assert answer.detail().endswith(f"(this registry's policy `{rule}`)")
                assert held(house) == before
        assert warnings(send(registry, fixed(house, rule, registry), "1.0.2", token)) == []


def warnings(answer: Answer) -> list[str]:
    """Return the warnings of a publish that went well, which cargo prints."""
    assert answer.status == 200, answer.body
    said = answer.json()["warnings"]
    assert (said["invalid_categories"], said["invalid_badges"]) == ([], [])
    other: list[str] = said["other"]
    return other


def test_publish_of_an_operator_is_under_the_same_policy(house: Server, tmp_path: Path) -> None:
    house.user("alice")
    file = tmp_path / "x.crate"
    file.write_bytes(crate_file("by-operator", "1.0.0"))
    options = ("--as", "alice", "--registry", "refuse-missing-description")
    said = house.cli("publish", *options, file, fails=True)
    assert "policy `missing_description`" in said.stderr


# --- Rate limits ---


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = '[registries.main]\naccess = "auth-required"\n'
    with Server(tmp_path_factory.mktemp("limited"), config) as server:
        yield server


def until_429(attempt: Callable[[], tuple[int, dict[str, str]]], most: int) -> tuple[int, int]:
    """Ask until the answer is 429; return how often it was not, and the seconds to wait."""
    for count in range(most):
        status, headers = attempt()
        if status == 429:
            assert headers["retry-after"].isdecimal()
            return count, int(headers["retry-after"])
        assert status in (400, 401), status
    raise AssertionError(f"no limit after {most}")


def test_defaults_warn_and_refuse_nothing_that_is_well_formed(limited: Server) -> None:
    answer = publish(limited, limited.token("bob"), "plain")
    assert [text.split("; ")[0] for text in warnings(answer)] == [
        "crate `plain` has no description",
        "crate `plain` has no license",
    ]


@pytest.mark.parametrize(("method", "target"), [("PUT", "new"), ("POST", "check")])
def test_300_publishes_at_once_and_then_one_a_second(limited: Server, method: str, target: str) -> None:
    headers = {"authorization": limited.token("alice")}

    def attempt() -> tuple[int, dict[str, str]]:
        answer = limited.http.request(method, f"/api/v1/crates/{target}", content=b"x", headers=headers)
        return answer.status_code, dict(answer.headers)

    started = time.monotonic()
    count, wait_s = until_429(attempt, 400)
    spent = time.monotonic() - started
    assert 300 <= count <= 301 + spent
    assert wait_s == 1
    # Another token is not held up, and this one only for what was said.
    assert publish(limited, limited.token("bob"), "x" * 65).status == 400
    time.sleep(1.05)
    assert attempt()[0] == 400


def test_wrong_tokens_are_counted_by_address_and_hold_up_no_good_one(limited: Server) -> None:
    token = limited.token("carol")

    def attempt() -> tuple[int, dict[str, str]]:
        answer = limited.http.get("/index/config.json", headers={"authorization": "crg_wrong"})
        assert "www-authenticate" in answer.headers or answer.status_code == 429
        return answer.status_code, dict(answer.headers)

    # Without a token there is nothing to guess: every cold cargo begins so.
    for _ in range(100):
        assert limited.http.get("/index/config.json").status_code == 401
    count, wait_s = until_429(attempt, 60)
    assert 30 <= count < 45
    assert 1 <= wait_s <= 2
    assert limited.http.get("/index/config.json").status_code == 401
    assert limited.http.get("/index/config.json", headers={"authorization": token}).status_code == 200
    assert attempt()[0] == 429


PROXIED = '[server]\ntrusted_proxies = ["127.0.0.1", "10.0.0.0/8"]\n[registries.main]\n'


@pytest.mark.parametrize("implementation", ["granian", "uvicorn"])
def test_behind_proxies_the_address_is_what_the_last_trusted_one_saw(
    tmp_path: Path, implementation: str
) -> None:
    with Server(tmp_path, PROXIED, implementation=implementation) as server:

        def limited_at(*seen: str) -> int:
            def attempt() -> tuple[int, dict[str, str]]:
                headers = [("authorization", "crg_wrong"), *(("x-forwarded-for", value) for value in seen)]
                answer = server.http.put("/api/v1/crates/new", headers=headers)
                return answer.status_code, dict(answer.headers)

            # One more flows in every two seconds, which a busy machine may take for some of these.
            return until_429(attempt, 60)[0]

        assert limited_at("203.0.113.1") >= 30
        # Another client behind the same proxy begins anew, and so does who comes over a second one.
        assert limited_at("203.0.113.2, 10.1.2.3") >= 30
        assert limited_at("2001:db8::1") >= 30
        # What stands further left was said by the client itself and changes nothing.
        assert limited_at("198.51.100.77, 203.0.113.1") < 15
        assert limited_at("garbage, 203.0.113.2") < 15
        assert limited_at("198.51.100.78", "203.0.113.1, 10.9.9.9") < 15
        # No address at all: it is the proxy's.
        assert limited_at("unknown") >= 30
        assert limited_at("") < 15


def test_proxy_over_ipv4_is_known_where_the_server_listens_on_ipv6(tmp_path: Path) -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    config = PROXIED.replace("[server]", '[server]\nhost = "::"')
    with Server(tmp_path, config) as server:
        url = f"http://127.0.0.1:{server.direct_url.rpartition(':')[2]}/api/v1/crates/new"

        def attempt(client: str) -> int:
            headers = {"authorization": "crg_wrong", "x-forwarded-for": client}
            return server.http.put(url, headers=headers).status_code

        assert {attempt("203.0.113.1") for _ in range(40)} == {401, 429}
        assert attempt("203.0.113.2") == 401


def test_from_others_x_forwarded_for_says_nothing(tmp_path: Path) -> None:
    with Server(tmp_path, '[server]\ntrusted_proxies = ["203.0.113.0/24"]\n[registries.main]\n') as server:
        number = iter(range(100))

        def attempt() -> tuple[int, dict[str, str]]:
            headers = {"authorization": "crg_wrong", "x-forwarded-for": f"198.51.100.{next(number)}"}
            answer = server.http.put("/api/v1/crates/new", headers=headers)
            return answer.status_code, dict(answer.headers)

        assert 30 <= until_429(attempt, 60)[0] < 45


def test_limits_can_be_turned_off(server: Server, token: str) -> None:
    for headers, status in (({"authorization": token}, 400), ({"authorization": "crg_wrong"}, 401)):
        seen = {
            server.http.put("/api/v1/crates/new", content=b"x", headers=headers).status_code
            for _ in range(320)
        }
        assert seen == {status}
