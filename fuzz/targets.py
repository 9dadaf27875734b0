"""What is fuzzed: each target takes any bytes, and raises only if our code is wrong.

An input is refused with one of our errors and a sentence, or taken; then it is looked at in a second way.
"""

import asyncio
import gzip
import json
import tarfile
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from starlette.requests import Request
from starlette.types import Message

from cargo_registry.crate import entry, manifest, names, platform, requirement, tarball, versions
from cargo_registry.crate import publish_body as bodies
from cargo_registry.crate.entry import IndexEntry, OwnUrls
from cargo_registry.crate.publish_body import PublishMetadata
from cargo_registry.errors import Invalid, RegistryError, TooLarge
from cargo_registry.storage.disk import DiskStore
from cargo_registry.web import body

CORPUS = Path(__file__).parent / "corpus"

_MAX_UNPACKED = 8 * 1024 * 1024
_MAX_CRATE_BYTES = 1024 * 1024
_BLOCK = 512
_OWN = OwnUrls(["sparse+http://127.0.0.1:8000/index/"])
_NOW = datetime(2025, 1, 1, tzinfo=UTC)

_folder = tempfile.TemporaryDirectory(prefix="fuzz-")
_file = Path(_folder.name) / "a.crate"
_store = DiskStore(Path(_folder.name) / "store")
_loop = asyncio.new_event_loop()


def publish_body(data: bytes) -> None:
    """Try the JSON of a publish request; what is taken is compared with a manifest."""
    metadata = _taken(lambda: bodies.decode(data))
    if metadata is None:
        return
    for text in (metadata.name, metadata.vers, metadata.readme or "", *metadata.authors, *metadata.keywords):
        text.encode()  # no lone surrogates
    held = manifest.parse(b'[package]\nname = "a"\nversion = "1.0.0"\n')
    try:
        entry.check_agreement(metadata, held, _OWN)
    except RegistryError as error:
        _check_sentence(error)


def framing(data: bytes) -> None:
    """Try the whole body of a publish request, in pieces whose size the first byte says."""
    step = (data[0] if data else 0) * 7 + 1
    sent = data[1:]
    metadata, upload = _loop.run_until_complete(_receive(sent, step))
    assert not list((_store.root / ".spool").iterdir()), "the spool is not empty"
    if metadata is not None:
        size = int.from_bytes(sent[:4], "little")
        assert bodies.decode(sent[4 : 4 + size]) == metadata
        assert sent[8 + size :] == upload
        assert int.from_bytes(sent[4 + size : 8 + size], "little") == len(upload)


async def _receive(sent: bytes, step: int) -> tuple[PublishMetadata | None, bytes]:
    pieces = [sent[start : start + step] for start in range(0, len(sent), step)] or [b""]

    async def receive() -> Message:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    request = Request({"type": "http", "method": "PUT", "headers": [], "path": "/"}, receive)
    registry: Any = SimpleNamespace(max_crate_bytes=_MAX_CRATE_BYTES, tarballs=_store)
    try:
        async with body.publish(request, registry) as (metadata, upload):
            return metadata, upload.path.read_bytes()
    except (Invalid, TooLarge) as error:
        _check_sentence(error)
        return None, b""


def tarball_file(data: bytes) -> None:
    """Try a `.crate` file. The first byte says whether the rest is the file, a tar, or a tar without checksums.

    What is taken must be the same to Python's tarfile: all readers shall see the same in it.
    """
    kind, rest = data[:1], data[1:]
    if kind == b"f":
        _file.write_bytes(rest)
    else:
        _file.write_bytes(gzip.compress(_with_checksums(rest) if kind == b"c" else rest, 1, mtime=0))
    found = _taken(lambda: tarball.inspect(_file, "a", "1.0.0"))
    if found is None or found.unpacked_bytes > _MAX_UNPACKED:
        return
    files = {}
    with tarfile.open(_file, "r:gz") as archive:
        for member in archive:
            assert member.isreg() or member.isdir(), member
            if member.isreg():
                content = archive.extractfile(member)
                assert content is not None
                files[member.name.partition("/")[2]] = content.read()
    assert files.keys() == found.members, (files.keys(), found.members)
    assert sum(map(len, files.values())) == found.unpacked_bytes
    name = next(name for name in ("Cargo.toml", "cargo.toml") if name in files)
    assert tarball.read_member(_file, name, _MAX_UNPACKED) == files[name] == found.manifest


def _with_checksums(tar: bytes) -> bytes:
    """Put the checksum into whatever stands where a header should be, so that more than that is tried."""
    fixed = bytearray(tar)
    at = 0
    while at + _BLOCK <= len(fixed) and any(fixed[at : at + _BLOCK]):
        fixed[at + 148 : at + 156] = b" " * 8
        fixed[at + 148 : at + 156] = b"%06o\0 " % sum(fixed[at : at + _BLOCK])
        digits = bytes(fixed[at + 124 : at + 136]).strip(b" \0")
        size = int(digits, 8) if digits and not digits.strip(b"01234567") else 0
        at += _BLOCK + -(-size // _BLOCK) * _BLOCK
    return bytes(fixed)


def manifest_file(data: bytes) -> None:
    """Try a `Cargo.toml`; what is taken becomes an index line that is JSON on one line."""
    facts = _taken(lambda: manifest.parse(data, members={"src/lib.rs", "README.md", "src/bin/x.rs"}))
    if facts is None:
        return
    new = _taken(lambda: IndexEntry.from_manifest(facts, cksum="0" * 64, pubtime=_NOW, own_urls=_OWN))
    if new is None:
        return
    line = new.to_line()
    assert line.count(b"\n") == 1
    said = json.loads(line)
    assert (said["name"], said["vers"]) == (facts.name, facts.version)
    assert len(said["deps"]) == len(facts.deps)
    assert said["features"].keys() | said.get("features2", {}).keys() == facts.features.keys()


def requirement_text(data: bytes) -> None:
    """Try a requirement, a target, a version, names; what is taken is its own normal form."""
    text = data.decode("utf-8", "surrogateescape")
    for normal_form in (requirement.normal_form, platform.canonical):
        once = _taken(lambda normal_form=normal_form: normal_form(text))  # type: ignore[misc]
        if once is not None:
            assert normal_form(once) == once, (text, once)
    parsed = _taken(lambda: versions.parse(text))
    assert parsed is None or str(parsed) == text
    named = _taken(lambda: names.CrateName(text))
    assert named is None or named.canonical == names.canonical(text)
    for check in (names.check_dependency_name, names.check_rename, names.check_feature_name):
        _taken(lambda check=check: check(text))  # type: ignore[misc]
    _OWN.means_us(text)


def _taken(work: Callable[[], Any]) -> Any:
    """Return what the work returns; None if it refused with an error of ours."""
    try:
        return work()
    except (Invalid, TooLarge) as error:
        _check_sentence(error)
        return None


def _check_sentence(error: RegistryError) -> None:
    text = str(error)
    text.encode()
    assert text.isprintable(), text
    assert 10 < len(text) < 2000, text


TARGETS: dict[str, Callable[[bytes], None]] = {
    "publish_body": publish_body,
    "framing": framing,
    "tarball": tarball_file,
    "manifest": manifest_file,
    "requirement": requirement_text,
}
