"""Writes the seeds below `corpus/`: `python -m fuzz.seeds`. Findings are added there by hand."""

import gzip
import io
import json
import tarfile
from collections.abc import Iterator

from fuzz.targets import CORPUS

_MANIFESTS = {
    "least": '[package]\nname = "a"\nversion = "1.0.0"\n',
    "full": """
[package]
name = "a"
version = "1.0.0-rc.1+build.5"
edition = "2021"
rust-version = "1.70"
links = "z"
authors = ["A <a@example.org>"]
description = "Schön\\tund gut"
license = "MIT OR Apache-2.0"
license-file = "LICENSE"
homepage = "https://example.org"
repository = "https://example.org/git"
documentation = "https://example.org/doc"
keywords = ["a", "b-c"]
categories = ["development-tools::testing"]
readme = "README.md"
autobins = false
[lib]
proc-macro = true
crate-type = ["proc-macro"]
[[bin]]
name = "x"
path = "src/bin/x.rs"
[features]
default = ["std", "dep:b", "c?/std"]
std = ["d/std"]
[dependencies.b]
version = ">=1.0, <3"
optional = true
registry-index = "sparse+https://example.org/index/"
default-features = false
features = ["x"]
package = "real-b"
[dependencies]
c = { version = "1.*", optional = true }
d = "=1.2.3-beta.1"
[build-dependencies]
e = "*"
[dev-dependencies]
f = { path = "../f" }
[target.'cfg(all(unix, not(target_os = "linux")))'.dependencies]
g = { version = "1", artifact = ["bin:x"], lib = true, target = "wasm32-wasip1" }
[target.x86_64-pc-windows-msvc.build_dependencies]
h = "~1.2"
""",
    "old": '[project]\nname = "a"\nversion = "0.0.1"\nauthors = []\n[[lib]]\nname = "a"\npath = "a.rs"\n',
    "patch": '[package]\nname = "a"\nversion = "1.0.0"\n[patch.crates-io]\nb = { path = "b" }\n',
    "types": "[package]\nname = 1\nversion = [1979-05-27T07:32:00Z, 1_000, 0xff, inf, nan]\nreadme = false\n",
}
_DOCUMENT = {
    "name": "a",
    "vers": "1.0.0",
    "deps": [
        {
            "name": "b",
            "version_req": "^1",
            "features": ["x"],
            "optional": True,
            "default_features": False,
            "target": "cfg(unix)",
            "kind": "build",
            "registry": "https://github.com/rust-lang/crates.io-index",
            "explicit_name_in_toml": "c",
            "artifact": ["bin"],
            "bindep_target": None,
            "lib": True,
        }
    ],
    "features": {"default": ["c"]},
    "authors": ["A"],
    "description": "Schön",
    "documentation": None,
    "homepage": None,
    "readme": "# hi",
    "readme_file": "README.md",
    "keywords": ["k"],
    "categories": ["c"],
    "license": "MIT",
    "license_file": None,
    "repository": None,
    "badges": {"maintenance": {"status": "none"}},
    "links": None,
    "rust_version": "1.60",
}
_TEXTS = {
    "caret": "^1.2.3-beta.1+meta",
    "range": ">=1.0.0, <3, !=2".replace(", !=2", ""),
    "wildcard": "1.*.x",
    "star": "*",
    "cfg": 'cfg(all(unix, any(not(target_os = "linux"), target_env="musl",), r#true))',
    "triple": "x86_64-unknown-linux-gnu",
    "version": "18446744073709551615.0.0-a.0.b-1+0.1",
    "name": "Foo_bar-1",
    "feature": "größe.1+x",
    "url": "sparse+HTTP://127.0.0.1:8000/index/",
}


def main() -> None:
    """Write the seeds, the same ones each time."""
    for target, seeds in {
        "publish_body": dict(_documents()),
        "framing": dict(_frames()),
        "tarball": dict(_tarballs()),
        "manifest": {name: text.encode() for name, text in _MANIFESTS.items()},
        "requirement": {name: text.encode() for name, text in _TEXTS.items()},
    }.items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in seeds.items():
            (folder / name).write_bytes(data)


def _documents() -> Iterator[tuple[str, bytes]]:
    yield "full", json.dumps(_DOCUMENT, ensure_ascii=False).encode()
    yield "least", b'{"name":"a","vers":"1.0.0"}'
    yield "nulls", json.dumps(dict.fromkeys(_DOCUMENT)).encode()
    yield "surrogate", b'{"name":"a","vers":"1.0.0","readme":"\\ud83e\\udd80 \\ud800"}'
    yield "deep", b'{"name":"a","vers":"1.0.0","x":' + b"[" * 200 + b"]" * 200 + b"}"


def _frames() -> Iterator[tuple[str, bytes]]:
    document = b'{"name":"a","vers":"1.0.0"}'
    whole = b"".join(len(part).to_bytes(4, "little") + part for part in (document, b"tarball"))
    yield "whole", b"\xff" + whole
    yield "bytewise", b"\0" + whole
    yield "short", b"\x01" + whole[:-1]
    yield "long", b"\x01" + whole + b"x"
    yield "huge", b"\x01\xff\xff\xff\xff" + whole


def _tarballs() -> Iterator[tuple[str, bytes]]:
    toml = _MANIFESTS["least"].encode()
    members = {"a-1.0.0/Cargo.toml": toml, "a-1.0.0/src/lib.rs": b"// x\n"}
    long_path = "a-1.0.0/" + "/".join(["folder" * 10] * 3) + "/f.rs"
    for name, form in (
        ("gnu", tarfile.GNU_FORMAT),
        ("pax", tarfile.PAX_FORMAT),
        ("ustar", tarfile.USTAR_FORMAT),
    ):
        tar = _tar(members if name == "ustar" else {**members, long_path: b"", "a-1.0.0/größe": b"x"}, form)
        yield f"{name}-tar", b"t" + tar
        yield f"{name}-unsummed", b"c" + tar
        yield f"{name}-file", b"f" + gzip.compress(tar, 9, mtime=0)


def _tar(members: dict[str, bytes], form: int) -> bytes:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=form) as archive:
        folder = tarfile.TarInfo("a-1.0.0/src")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for path, content in members.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    # Without the zeros up to 10 KiB.
    return (
        tar.getvalue().rstrip(b"\0").ljust(-(-len(tar.getvalue().rstrip(b"\0")) // 512) * 512 + 1024, b"\0")
    )


if __name__ == "__main__":
    main()
