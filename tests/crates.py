"""Makes crates and publish bodies by hand, for what cargo itself would not send.

The framing and keys are those of the Cargo book, not taken from the package under test:
https://doc.rust-lang.org/cargo/reference/registry-web-api.html#publish
"""

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from typing import Any

# cargo gives every file this time (cargo: ops/cargo_package/mod.rs, `DETERMINISTIC_TIMESTAMP`).
_MTIME = 1153704088


def crate_file(
    name: str, vers: str, *, manifest: str | None = None, files: Mapping[str, bytes] | None = None
) -> bytes:
    """Return a `.crate` as `cargo package` lays it out, the same bytes for the same arguments.

    `manifest` is the text of `Cargo.toml`; None: the least that names the crate. `files` come below the top
    folder, after `Cargo.toml`; without any there is an empty `src/lib.rs`.
    """
    if manifest is None:
        manifest = f'[package]\nname = "{name}"\nversion = "{vers}"\nedition = "2021"\n'
    members = {"Cargo.toml": manifest.encode(), **({"src/lib.rs": b""} if files is None else files)}
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, data in members.items():
            member = tarfile.TarInfo(f"{name}-{vers}/{path}")
            member.size = len(data)
            member.mtime = _MTIME
            archive.addfile(member, io.BytesIO(data))
    return gzip.compress(tar.getvalue(), mtime=0)


def metadata(name: str, vers: str, **more: Any) -> dict[str, Any]:
    """Return the JSON of a publish with every key that cargo sends, `more` in place of the usual."""
    return {
        "name": name,
        "vers": vers,
        "deps": [],
        "features": {},
        "authors": [],
        "description": None,
        "documentation": None,
        "homepage": None,
        "readme": None,
        "readme_file": None,
        "keywords": [],
        "categories": [],
        "license": None,
        "license_file": None,
        "repository": None,
        "badges": {},
        "links": None,
        "rust_version": None,
        **more,
    }


def publish_body(metadata: Mapping[str, Any], tarball: bytes) -> bytes:
    """Return the body of `PUT /api/v1/crates/new`: both parts, each behind its length in four bytes."""
    document = json.dumps(metadata, ensure_ascii=False).encode()
    return b"".join(len(part).to_bytes(4, "little") + part for part in (document, tarball))
