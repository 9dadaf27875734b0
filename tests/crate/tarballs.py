"""Tarballs written byte by byte, so that each can have exactly one thing wrong."""

import gzip
from pathlib import Path

END = bytes(1024)
MANIFEST = b'[package]\nname = "a"\nversion = "1.0.0"\n'

USTAR = b"ustar\x0000"
GNU = b"ustar  \0"
V7 = bytes(8)


def member(
    path: str | bytes,
    content: bytes = b"",
    *,
    kind: bytes = b"0",
    magic: bytes = GNU,
    prefix: bytes = b"",
    size: bytes | None = None,
    checksum: int | None = None,
    padding: bytes = b"\0",
) -> bytes:
    """Return a header and the content after it, filled up to whole blocks."""
    name = path.encode() if isinstance(path, str) else path
    header = bytearray(512)
    header[0 : len(name[:100])] = name[:100]
    header[100:108] = b"0000644\0"
    header[124:136] = b"%011o\0" % len(content) if size is None else size
    header[148:156] = b" " * 8
    header[156:157] = kind
    header[257:265] = magic
    header[345 : 345 + len(prefix)] = prefix
    header[148:156] = b"%06o\0 " % (sum(header) if checksum is None else checksum)
    return bytes(header) + content + padding * (-len(content) % 512)


def folder(path: str) -> bytes:
    return member(path, kind=b"5")


def long_name(path: str) -> bytes:
    """Return what GNU tar puts before a member whose path has more than 100 bytes."""
    return member("././@LongLink", path.encode() + b"\0", kind=b"L")


def pax(*records: tuple[str, str]) -> bytes:
    """Return a pax header for the next member."""
    return member("PaxHeaders/a", b"".join(pax_record(key, value) for key, value in records), kind=b"x")


def pax_record(key: str, value: str) -> bytes:
    rest = f" {key}={value}\n".encode()
    length = len(rest) + len(str(len(rest)))
    length = len(rest) + len(str(length))
    return str(length).encode() + rest


TOML = member("a-1.0.0/Cargo.toml", MANIFEST)
LIB = member("a-1.0.0/src/lib.rs", b"// nothing\n")


def write(folder: Path, *parts: bytes) -> Path:
    """Write a `.crate` file whose tar is the parts one after another; the end is one of them."""
    return write_raw(folder, gzip.compress(b"".join(parts), 1))


def write_raw(folder: Path, data: bytes) -> Path:
    path = folder / "a-1.0.0.crate"
    path.write_bytes(data)
    return path
