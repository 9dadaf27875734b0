"""What a `.crate` file may hold: one gzip member around one tar of plain files below `name-version/`.

Whatever gets in here is unpacked by every user of the crate, by different programs and on systems that
fold case or cannot hold some names. So a tarball passes only if all readers see the same in it: no
byte that is not accounted for, no two ways to say one thing, no name that means another file somewhere.

Spec: https://www.gnu.org/software/tar/manual/html_node/Standard.html, POSIX pax; unpacking as cargo does it
(cargo: sources/registry/mod.rs, `unpack`). Read in one pass in bounded memory.
"""

import os
import re
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cargo_registry.crate.names import WINDOWS_DEVICES, shown
from cargo_registry.errors import InvalidTarball, TooLarge

# What cargo unpacks at most (cargo 1.95: sources/registry/mod.rs, `max_unpack_size`).
MAX_UNPACKED_BYTES = 512 * 1024 * 1024
MAX_RATIO = 20

# Files and the folders around them. The largest crates on crates.io have about 10,000.
MAX_ENTRIES = 50_000

# web-sys has one of 60 KB. Reading TOML takes about half a second for each MiB.
MAX_MANIFEST_BYTES = 1024 * 1024

# macOS cannot hold longer paths; the longest seen in a real crate has 145 bytes.
MAX_PATH_BYTES = 1024
MAX_SEGMENT_BYTES = 255

_BLOCK = 512
_PIECE = 64 * 1024  # of the packed file
_MAX_INFLATED_PIECE = 1024 * 1024
_MAX_EXTENSION_BYTES = 16 * 1024
_MAX_PAX_RECORDS = 32

_ILLEGAL_CHARS = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"|?*\\]')
_OCTAL = re.compile(rb" *([0-7]+)[ \0]*")


@dataclass(frozen=True, slots=True)
class Tarball:
    """What a tarball holds. Paths are relative to its top folder, with `/`."""

    manifest: bytes
    members: frozenset[str]  # files only
    unpacked_bytes: int  # of all files together


@dataclass(frozen=True, slots=True)
class _Entry:
    path: str  # as in the tar, without a `/` at the end
    is_file: bool
    size: int


def inspect(path: Path, name: str, vers: str) -> Tarball:
    """Read a whole `.crate` file and return what it holds; `name` and `vers` as the publisher spells them.

    Takes about 10 ms for each 1,000 files and each 3 MB unpacked.

    Raises:
        InvalidTarball: malformed, hostile, or something in it that cargo could not unpack everywhere.
    """
    top = f"{name}-{vers}"
    paths = _Paths(top)
    manifest = b""
    unpacked_bytes = 0
    with path.open("rb") as file:
        stream = _Inflated(file)
        for entry in _entries(stream):
            relative = paths.add(entry)
            if entry.is_file and relative.lower() == "cargo.toml":
                manifest = _read_manifest(stream, entry, relative)
            unpacked_bytes += entry.size
    members = frozenset(paths.files)
    _check_manifest_name(members, top)
    return Tarball(manifest, members, unpacked_bytes)


def read_member(path: Path, member: str, max_bytes: int) -> bytes | None:
    """Return one file out of a tarball that passed `inspect`, or None where it has no such file.

    `member` is relative to the top folder. Reads on to the end of the tarball only where it must.

    Raises:
        TooLarge: the file has more than `max_bytes`.
    """
    with path.open("rb") as file:
        stream = _Inflated(file)
        for entry in _entries(stream):
            if entry.is_file and entry.path.partition("/")[2] == member:
                if entry.size > max_bytes:
                    raise TooLarge(f"the file {shown(member)} of the crate has more than {max_bytes} bytes")
                return stream.read(entry.size)
    return None


def _read_manifest(stream: "_Inflated", entry: _Entry, relative: str) -> bytes:
    if entry.size > MAX_MANIFEST_BYTES:
        raise InvalidTarball(
            f"the file {shown(relative)} of the tarball has {entry.size} bytes; use at most {MAX_MANIFEST_BYTES}"
        )
    return stream.read(entry.size)


def _check_manifest_name(members: frozenset[str], top: str) -> None:
    """Check that there is a manifest; the tarballs of 2014 could have a `cargo.toml`."""
    if "Cargo.toml" in members or "cargo.toml" in members:
        return
    other = next((member for member in members if member.lower() == "cargo.toml"), None)
    if other is not None:
        raise InvalidTarball(
            f"the tarball has a {shown(other)} but no `Cargo.toml`; spell it exactly `Cargo.toml`"
        )
    raise InvalidTarball(f"the tarball has no `{top}/Cargo.toml`; make it with `cargo package`")


class _Paths:
    """All paths of one tarball: each is checked by itself and against the others."""

    def __init__(self, top: str) -> None:
        self.files: list[str] = []
        self._top = top
        self._folders: set[str] = set()  # as spelled, those that are implied included
        self._taken: dict[str, str] = {}  # folded → as spelled; files and folders
        self._listed_folders: set[str] = set()

    def add(self, entry: _Entry) -> str:
        """Take a path in and return it relative to the top folder."""
        path = entry.path
        folder, _, segment = path.rpartition("/")
        top, _, relative = path.partition("/")
        if top != self._top or (entry.is_file and not relative):
            raise InvalidTarball(
                f"the tarball holds {shown(path)}, which is not inside the folder {shown(self._top)}; "
                "make it with `cargo package`"
            )
        if len(path.encode()) > MAX_PATH_BYTES:
            raise InvalidTarball(
                f"the tarball holds the path {shown(path)}, which is too long; use at most {MAX_PATH_BYTES} bytes"
            )
        if folder and folder not in self._folders:
            self._add_folders(folder)
        _check_segment(segment, path)
        if entry.is_file:
            self._take(path)
            self.files.append(relative)
        else:
            self._add_listed_folder(path)
        if relative.partition("/")[0].lower() == ".cargo-ok":
            # cargo marks a finished unpacking by a file of this name, and skips it in tarballs.
            raise InvalidTarball(
                "the tarball holds a file `.cargo-ok`, a name that cargo keeps to itself; remove it"
            )
        return relative

    def _add_folders(self, folder: str) -> None:
        """Take in a folder and those above it."""
        end = 0
        while end != len(folder):
            start = end + 1 if end else 0
            end = folder.find("/", start)
            end = len(folder) if end < 0 else end
            if folder[:end] not in self._folders:
                _check_segment(folder[start:end], folder)
                self._take(folder[:end])
                self._folders.add(folder[:end])

    def _add_listed_folder(self, path: str) -> None:
        """Take in a folder that has an entry; files may have implied it before."""
        if path in self._listed_folders:
            raise InvalidTarball(
                f"the tarball holds the folder {shown(path)} twice; make it with `cargo package`"
            )
        self._listed_folders.add(path)
        if path not in self._folders:
            self._take(path)
            self._folders.add(path)

    def _take(self, path: str) -> None:
        """Refuse a path that is, or on some system would be, the same as another."""
        other = self._taken.setdefault(_folded(path), path)
        if other is not path:
            if other == path:
                raise InvalidTarball(
                    f"the tarball holds the path {shown(path)} twice; make it with `cargo package`"
                )
            raise InvalidTarball(
                f"the tarball holds the paths {shown(other)} and {shown(path)}, which are the same to Windows or "
                "macOS; rename one"
            )
        # Bounds the headers too: each is of a new path, or of a folder that others implied.
        if len(self._taken) > MAX_ENTRIES:
            raise InvalidTarball(
                f"the tarball holds more than {MAX_ENTRIES} files and folders; leave some out with `exclude` in "
                "`Cargo.toml`"
            )


def _folded(path: str) -> str:
    return path.lower() if path.isascii() else unicodedata.normalize("NFC", path.casefold())


def _check_segment(segment: str, path: str) -> None:
    """Check one name in a path: some system would refuse it, or take it for another name."""
    if segment in {"", ".", ".."}:
        raise InvalidTarball(
            f"the tarball holds the path {shown(path)} with an empty, `.` or `..` part; "
            "make it with `cargo package`"
        )
    if _ILLEGAL_CHARS.search(segment):
        raise InvalidTarball(
            f"the tarball holds the path {shown(path)} with a character that Windows does not allow; rename the file"
        )
    if segment[-1] in ". ":
        raise InvalidTarball(
            f"the tarball holds the path {shown(path)} with a dot or space at the end of a name, which Windows "
            "drops; rename the file"
        )
    if segment.partition(".")[0].rstrip(" ").lower() in WINDOWS_DEVICES:
        raise InvalidTarball(
            f"the tarball holds the path {shown(path)} with the name of a Windows device; rename the file"
        )
    if len(segment) * 4 > MAX_SEGMENT_BYTES and len(segment.encode()) > MAX_SEGMENT_BYTES:
        raise InvalidTarball(
            f"the tarball holds the path {shown(path)} with a name that is too long; use at most "
            f"{MAX_SEGMENT_BYTES} bytes"
        )


def _entries(stream: "_Inflated") -> Iterator[_Entry]:
    """Yield each file and folder; the caller may `read` a file's content, or leave it.

    After the last one it is certain that nothing else is in the stream.
    """
    while header := _next_header(stream):
        header, long_name, pax = _read_extensions(stream, header)
        entry = _entry(header, long_name, pax)
        end = stream.position + entry.size
        yield entry
        stream.skip(end - stream.position)
        _check_padding(stream, entry.size)
    _check_end(stream)


def _next_header(stream: "_Inflated") -> bytes | None:
    """Return a header whose checksum is right, or None at the end of the archive.

    The end is two blocks of zeros. As cargo does we also take one block, or none at all where the stream ends
    right after an entry: old tarballs look so.
    """
    header = stream.read_up_to(_BLOCK)
    if not header.strip(b"\0"):
        return None
    if len(header) < _BLOCK:
        raise _truncated()
    written = _octal(header[148:156], "checksum")
    if written != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        raise InvalidTarball(
            "the tarball has a header with a wrong checksum; make it again with `cargo package`"
        )
    return header


def _read_extensions(stream: "_Inflated", header: bytes) -> tuple[bytes, str | None, dict[str, str] | None]:
    """Read what comes before the header proper; return that, its GNU long name and its pax records."""
    long_name: str | None = None
    pax: dict[str, str] | None = None
    while (kind := header[156:157]) in {b"L", b"x"}:
        content = _read_extension(stream, header)
        if kind == b"L" and long_name is None:
            long_name = _text(content.removesuffix(b"\0"))
        elif kind == b"x" and pax is None:
            pax = _pax_records(content)
        else:
            raise InvalidTarball("the tarball describes an entry twice; make it with `cargo package`")
        following = _next_header(stream)
        if following is None:
            raise InvalidTarball(
                "the tarball describes an entry that does not follow; make it with `cargo package`"
            )
        header = following
    return header, long_name, pax


def _read_extension(stream: "_Inflated", header: bytes) -> bytes:
    size = _octal(header[124:136], "size")
    if size > _MAX_EXTENSION_BYTES:
        raise InvalidTarball(
            f"the tarball describes an entry in more than {_MAX_EXTENSION_BYTES} bytes; make it with `cargo package`"
        )
    content = stream.read(size)
    _check_padding(stream, size)
    return content


def _entry(header: bytes, long_name: str | None, pax: dict[str, str] | None) -> _Entry:
    path = _path(header, long_name, pax or {})
    kind = header[156:157]
    if kind not in {b"0", b"\0", b"5"}:
        raise InvalidTarball(
            f"the tarball holds {shown(path)}, which is neither a file nor a folder; leave out links, devices and "
            "the like"
        )
    is_file = kind != b"5"
    size = _size(header, path, pax or {})
    if not is_file and size:
        raise InvalidTarball(
            f"the tarball holds the folder {shown(path)} with content; make it with `cargo package`"
        )
    return _Entry(path if is_file else path.removesuffix("/"), is_file, size)


def _path(header: bytes, long_name: str | None, pax: dict[str, str]) -> str:
    if long_name is not None and "path" in pax:
        # Readers disagree on which one counts.
        raise InvalidTarball(
            f"the tarball names {shown(long_name)} in two ways, GNU and pax; make it with `cargo package`"
        )
    if "path" in pax:
        return pax["path"]
    return _text(_header_path(header)) if long_name is None else long_name


def _header_path(header: bytes) -> bytes:
    path = header[:100].partition(b"\0")[0]
    match header[257:265]:
        case b"ustar\x0000":
            prefix = header[345:500].partition(b"\0")[0]
            return prefix + b"/" + path if prefix else path
        # GNU has times where ustar has the prefix, and before both (V7) there was nothing.
        case b"ustar  \0" | b"\0\0\0\0\0\0\0\0":
            return path
    raise InvalidTarball("the tarball is in an unknown format; make it with `cargo package`")


def _size(header: bytes, path: str, pax: dict[str, str]) -> int:
    size = _octal(header[124:136], "size")
    # Readers disagree on which one counts: one sees as content what another sees as the next entry.
    if pax.get("size", str(size)) != str(size):
        raise InvalidTarball(
            f"the tarball gives two sizes for {shown(path)}, {shown(pax['size'])} and {size}; "
            "make it with `cargo package`"
        )
    return size


def _octal(field: bytes, label: str) -> int:
    """Read a number; the binary form for files from 8 GiB on is above every limit and not read."""
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise InvalidTarball(
            f"the tarball has a header with an unreadable {label}; make it with `cargo package`"
        )
    return int(match[1], 8)


def _pax_records(content: bytes) -> dict[str, str]:
    """Read records of the form `LENGTH KEY=VALUE` and a line break, where LENGTH counts all of that."""
    records: dict[str, str] = {}
    position = 0
    while position < len(content):
        digits = content[position : position + 8].partition(b" ")[0]
        end = position + int(digits) if digits.isdigit() else 0
        record = content[position + len(digits) + 1 : end]
        key, equals, value = _text(record[:-1]).partition("=")
        # Some readers count, others split at line breaks.
        well_formed = equals and key and record.endswith(b"\n") and end <= len(content) and "\n" not in value
        if not well_formed or key in records or len(records) == _MAX_PAX_RECORDS:
            raise InvalidTarball("the tarball has a malformed pax header; make it with `cargo package`")
        if key == "linkpath" or key.startswith("GNU.sparse."):
            raise InvalidTarball(
                f"the tarball has a pax header with {shown(key)}; leave out links and sparse files"
            )
        records[key] = value
        position = end
    return records


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidTarball(
            f"the tarball holds the name {shown(data.decode('latin-1'))}, which is not UTF-8; rename the file"
        ) from None


def _check_padding(stream: "_Inflated", size: int) -> None:
    """Check that the last block of a content of `size` bytes is filled up with zeros."""
    if stream.read(-size % _BLOCK).strip(b"\0"):
        raise InvalidTarball("the tarball holds data between its files; make it with `cargo package`")


def _check_end(stream: "_Inflated") -> None:
    """Check that after the end of the archive come only zeros."""
    while data := stream.read_up_to(_MAX_INFLATED_PIECE):
        if data.strip(b"\0"):
            raise InvalidTarball("the tarball goes on after its end; make it with `cargo package`")


def _truncated() -> InvalidTarball:
    return InvalidTarball("the tarball is cut off; publish it again")


class _Inflated:
    """The unpacked bytes of a gzip file, in order; ends only if the file is one whole gzip member."""

    def __init__(self, file: BinaryIO) -> None:
        self.position = 0
        self._file = file
        self._left = max(MAX_UNPACKED_BYTES, MAX_RATIO * os.fstat(file.fileno()).st_size)
        self._inflate = zlib.decompressobj(wbits=31)  # 31: gzip, its checksum and length verified
        self._data = b""
        self._start = 0  # of what is unread in `_data`

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes."""
        data = self.read_up_to(size)
        if len(data) < size:
            raise _truncated()
        return data

    def read_up_to(self, size: int) -> bytes:
        """Return `size` bytes, or fewer at the end of the stream."""
        while len(self._data) - self._start < size and (more := self._more()):
            self._data = self._data[self._start :] + more
            self._start = 0
        data = self._data[self._start : self._start + size]
        self._start += len(data)
        self.position += len(data)
        return data

    def skip(self, size: int) -> None:
        """Pass over exactly `size` bytes."""
        self.position += size
        while size > len(self._data) - self._start:
            size -= len(self._data) - self._start
            self._data = self._more()
            self._start = 0
            if not self._data:
                raise _truncated()
        self._start += size

    def _more(self) -> bytes:
        """Inflate some more; b"" means that the member has ended as it should, and the file with it."""
        try:
            while not self._inflate.eof:
                packed = self._inflate.unconsumed_tail or self._read_packed()
                data = self._inflate.decompress(packed, _MAX_INFLATED_PIECE)
                self._left -= len(data)
                if self._left < 0:
                    raise InvalidTarball(
                        f"the tarball unpacks to more than {MAX_UNPACKED_BYTES // 2**20} MiB and {MAX_RATIO} "
                        "times its size; leave files out with `exclude` in `Cargo.toml`"
                    )
                if data:
                    return data
        except zlib.error:
            raise InvalidTarball("the tarball is not valid gzip; make it with `cargo package`") from None
        if self._inflate.unused_data or self._file.read(1):
            raise InvalidTarball(
                "the tarball goes on after the end of its gzip data; make it with `cargo package`"
            )
        return b""

    def _read_packed(self) -> bytes:
        packed = self._file.read(_PIECE)
        if not packed:
            raise _truncated()
        return packed
