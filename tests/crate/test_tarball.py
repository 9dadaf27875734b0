import gzip
import resource
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import pytest

from cargo_registry.crate import tarball
from cargo_registry.crate.tarball import Tarball
from cargo_registry.errors import InvalidTarball, TooLarge

from .conftest import RealCrate
from .tarballs import (
    END,
    GNU,
    LIB,
    MANIFEST,
    TOML,
    USTAR,
    V7,
    folder,
    long_name,
    member,
    pax,
    pax_record,
    write,
    write_raw,
)

LONG = "a-1.0.0/" + "/".join(["folder" * 10] * 3) + "/f.rs"


def inspect(path: Path) -> Tarball:
    return tarball.inspect(path, "a", "1.0.0")


def test_every_real_crate_goes_in(real_crates: list[RealCrate]) -> None:
    for crate in real_crates:
        found = tarball.inspect(crate.tarball, crate.line["name"], crate.line["vers"])
        assert "Cargo.toml" in found.members
        assert b"[package]" in found.manifest


def test_a_tarball_of_21_times_its_size_goes_in(real_crates: list[RealCrate]) -> None:
    crate = next(crate for crate in real_crates if crate.line["name"] == "tracing")
    found = tarball.inspect(crate.tarball, "tracing", crate.line["vers"])
    assert found.unpacked_bytes > 15 * crate.tarball.stat().st_size


def test_what_is_in_a_tarball(tmp_path: Path) -> None:
    path = write(tmp_path, TOML, LIB, END)
    assert inspect(path) == Tarball(MANIFEST, frozenset({"Cargo.toml", "src/lib.rs"}), len(MANIFEST) + 11)


@pytest.mark.parametrize(
    "path",
    [
        "a-1.0.0/notes#1.md",
        "a-1.0.0/backup~",
        "a-1.0.0/with space.rs",
        "a-1.0.0/.cargo_vcs_info.json",
        "a-1.0.0/...dots",
        "a-1.0.0/größe.rs",
        "a-1.0.0/src/.cargo-ok",
        "a-1.0.0/src/cargo.toml",
        "a-1.0.0/auxiliary.rs",
        "a-1.0.0/lib.aux",
        "a-1.0.0/com",
        "a-1.0.0/com10",
    ],
)
def test_odd_names_that_every_system_can_hold_go_in(tmp_path: Path, path: str) -> None:
    assert path.partition("/")[2] in inspect(write(tmp_path, TOML, member(path), END)).members


@pytest.mark.parametrize("magic", [USTAR, GNU, V7], ids=["ustar", "gnu", "v7"])
def test_every_format_of_tar_goes_in(tmp_path: Path, magic: bytes) -> None:
    path = write(tmp_path, TOML, member("a-1.0.0/x", b"x", magic=magic), END)
    assert "x" in inspect(path).members


def test_the_prefix_of_a_path_is_read_only_where_the_format_has_one(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        TOML,
        member("one", magic=USTAR, prefix=b"a-1.0.0/src"),
        member("a-1.0.0/two", magic=GNU, prefix=b"14371262"),  # GNU has the access time here
        END,
    )
    assert inspect(path).members == {"Cargo.toml", "src/one", "two"}


@pytest.mark.parametrize(
    "parts",
    [
        (long_name(LONG), member(LONG)),
        (pax(("path", LONG)), member("short")),
        (pax(("path", LONG), ("mtime", "1.5"), ("size", "3")), member("short", b"abc")),
    ],
    ids=["gnu", "pax", "pax with more"],
)
def test_long_names_are_read(tmp_path: Path, parts: tuple[bytes, ...]) -> None:
    assert LONG.partition("/")[2] in inspect(write(tmp_path, TOML, *parts, END)).members


@pytest.mark.parametrize("kind", [b"0", b"\0"], ids=["0", "NUL"])
def test_both_marks_of_a_file_are_read(tmp_path: Path, kind: bytes) -> None:
    assert "x" in inspect(write(tmp_path, TOML, member("a-1.0.0/x", kind=kind), END)).members


def test_folders_may_have_entries(tmp_path: Path) -> None:
    path = write(
        tmp_path, folder("a-1.0.0/"), TOML, LIB, folder("a-1.0.0/src"), folder("a-1.0.0/empty/"), END
    )
    assert inspect(path).members == {"Cargo.toml", "src/lib.rs"}


@pytest.mark.parametrize("end", [b"", bytes(512), bytes(1024), bytes(10240), bytes(1000)])
def test_the_end_may_be_as_long_as_any_program_writes_it(tmp_path: Path, end: bytes) -> None:
    assert inspect(write(tmp_path, TOML, LIB, end)).members == {"Cargo.toml", "src/lib.rs"}


def test_a_lone_lower_case_manifest_of_2014_goes_in(tmp_path: Path) -> None:
    assert inspect(write(tmp_path, member("a-1.0.0/cargo.toml", MANIFEST), END)).manifest == MANIFEST


def test_an_empty_file_and_one_of_whole_blocks_go_in(tmp_path: Path) -> None:
    path = write(tmp_path, TOML, member("a-1.0.0/none"), member("a-1.0.0/two", b"x" * 1024), END)
    assert inspect(path).unpacked_bytes == len(MANIFEST) + 1024


def _size(text: bytes) -> bytes:
    return member("a-1.0.0/x", size=text)


X = "a-1.0.0/x"
GOOD_X = (member(X, b"x"),)
BAD = {
    # Where a path may lead.
    "no top folder": ((member("x"),), GOOD_X, "not inside the folder `a-1.0.0`"),
    "other top folder": ((member("A-1.0.0/x"),), GOOD_X, "not inside the folder"),
    "file in the place of the top folder": ((member("a-1.0.0"),), GOOD_X, "not inside the folder"),
    "absolute": ((member("/a-1.0.0/x"),), GOOD_X, "not inside the folder"),
    "up": ((member("a-1.0.0/../x"),), (member("a-1.0.0/..x"),), "`..` part"),
    "up at the end": ((folder("a-1.0.0/.."),), (folder("a-1.0.0/s"),), "`..` part"),
    "here": ((member("a-1.0.0/./x"),), GOOD_X, "`.` or `..` part"),
    "empty part": ((member("a-1.0.0//x"),), GOOD_X, "an empty"),
    "file with a slash at the end": ((member("a-1.0.0/x/"),), GOOD_X, "an empty"),
    "backslash": ((member("a-1.0.0/..\\x"),), (member("a-1.0.0/..x"),), "that Windows does not allow"),
    # Names that some system cannot hold.
    **{
        f"character {char!r}": ((member(f"{X}{char}y"),), (member(f"{X}_y"),), "that Windows does not allow")
        for char in '<>:"|?*\n\x1b\x7f\x85'
    },
    "dot at the end": ((member(X + "."),), (member(X + ".y"),), "a dot or space at the end"),
    "space at the end": ((member(X + " "),), (member(X + " y"),), "a dot or space at the end"),
    "folder with a dot at the end": (
        (member(X + "./y"),),
        (member(X + ".d/y"),),
        "a dot or space at the end",
    ),
    **{
        f"device {name}": (
            (member(f"a-1.0.0/src/{name}"),),
            (member(f"a-1.0.0/src/x{name}"),),
            "a Windows device",
        )
        for name in ("aux", "NUL", "con.rs", "Prn.tar.gz", "com1", "lpt9.x", "aux .rs", "aux/mod.rs")
    },
    "not UTF-8": ((member(b"a-1.0.0/\xff"),), (member(b"a-1.0.0/\xc3\xbf"),), "not UTF-8"),
    "long segment": (
        (long_name(X + "x" * 255), member(X)),
        (long_name(X + "x" * 254), member(X)),
        "a name that is too long",
    ),
    "long path": (
        (pax(("path", "a-1.0.0" + "/12345" * 170)), member(X)),
        (pax(("path", "a-1.0.0" + "/12345" * 169)), member(X)),
        "path .* too long",
    ),
    # Two that are one.
    "twice": ((*GOOD_X, *GOOD_X), GOOD_X, "twice"),
    "differ in case": ((*GOOD_X, member("a-1.0.0/X")), GOOD_X, "the same to Windows or macOS"),
    "folders differ in case": (
        (member("a-1.0.0/s/x"), member("a-1.0.0/S/y")),
        (member("a-1.0.0/s/x"), member("a-1.0.0/s/y")),
        "the same to Windows or macOS",
    ),
    "differ in how é is written": (
        (member("a-1.0.0/\u00e9"), member("a-1.0.0/e\u0301")),
        (member("a-1.0.0/\u00e9"), member("a-1.0.0/e")),
        "the same to Windows or macOS",
    ),
    "file and folder": ((*GOOD_X, folder(X)), (folder(X),), "twice"),
    "folder and file": ((folder(X), *GOOD_X), GOOD_X, "twice"),
    "file used as a folder": ((*GOOD_X, member(X + "/y")), (member(X + "/y"),), "twice"),
    "folder used as a file": ((member(X + "/y"), *GOOD_X), GOOD_X, "twice"),
    "folder twice": ((folder(X), folder(X + "/")), (folder(X),), "folder .* twice"),
    # What cargo gives a meaning of its own.
    ".cargo-ok": ((member("a-1.0.0/.cargo-ok"),), (member("a-1.0.0/.cargo-okay"),), "keeps to itself"),
    ".cargo-OK": ((member("a-1.0.0/.cargo-OK"),), (member("a-1.0.0/.cargo-okay"),), "keeps to itself"),
    ".cargo-ok as a folder": (
        (member("a-1.0.0/.cargo-ok/x"),),
        (member("a-1.0.0/s/.cargo-ok/x"),),
        "keeps to itself",
    ),
    "second manifest": ((member("a-1.0.0/cargo.toml", MANIFEST),), GOOD_X, "the same to Windows or macOS"),
    "third manifest": ((member("a-1.0.0/CARGO.TOML", MANIFEST),), GOOD_X, "the same to Windows or macOS"),
    # Neither file nor folder.
    **{
        f"type {kind!r}": ((member(X, kind=kind),), GOOD_X, "neither a file nor a folder")
        for kind in (b"1", b"2", b"3", b"4", b"6", b"7", b"S", b"D", b"K", b"g", b"V", b"\xff")
    },
    "folder with content": ((member(X, b"x", kind=b"5"),), (folder(X),), "folder .* with content"),
    # Two ways to say one thing.
    "pax size differs": ((pax(("size", "2")), *GOOD_X), (pax(("size", "1")), *GOOD_X), "two sizes"),
    "pax size with zeros": ((pax(("size", "01")), *GOOD_X), (pax(("size", "1")), *GOOD_X), "two sizes"),
    "pax size that is no number": (
        (pax(("size", "-1")), *GOOD_X),
        (pax(("size", "1")), *GOOD_X),
        "two sizes",
    ),
    "empty pax path": ((pax(("path", "")), *GOOD_X), (pax(("path", X)), *GOOD_X), "not inside the folder"),
    "pax and GNU name": (
        (pax(("path", X)), long_name(X), *GOOD_X),
        (pax(("mtime", "1")), long_name(X), *GOOD_X),
        "in two ways",
    ),
    "two GNU names": (
        (long_name(X), long_name(X), *GOOD_X),
        (long_name(X), *GOOD_X),
        "describes an entry twice",
    ),
    "two pax headers": ((pax(), pax(), *GOOD_X), (pax(), *GOOD_X), "describes an entry twice"),
    "name of nothing": ((long_name(X),), (long_name(X), *GOOD_X), "that does not follow"),
    "NUL in a GNU name": ((long_name(X + "\0y"), *GOOD_X), (long_name(X + "y"), *GOOD_X), "does not allow"),
    "long description": (
        (member("p", pax_record("comment", "x" * 17_000), kind=b"x"), *GOOD_X),
        (member("p", pax_record("comment", "x" * 16_000), kind=b"x"), *GOOD_X),
        "in more than 16384 bytes",
    ),
    # Malformed pax headers.
    "pax link": ((pax(("linkpath", "x")), *GOOD_X), (pax(("mtime", "1")), *GOOD_X), "leave out links"),
    "pax sparse": ((pax(("GNU.sparse.major", "1")), *GOOD_X), (pax(("mtime", "1")), *GOOD_X), "sparse files"),
    "pax key twice": (
        (pax(("path", X), ("path", X)), *GOOD_X),
        (pax(("path", X)), *GOOD_X),
        "malformed pax header",
    ),
    "pax line break": (
        (pax(("comment", "x\n12 path=a-1")), *GOOD_X),
        (pax(("comment", "x 12 path=a-1")), *GOOD_X),
        "malformed pax header",
    ),
    **{
        f"pax record {record!r}": (
            (member("p", record, kind=b"x"), *GOOD_X),
            (member("p", b"9 path=x\n9 a=defg\n"[9:], kind=b"x"), *GOOD_X),
            "malformed pax header",
        )
        for record in (
            b"9 a=def\n",
            b"8 a=defg\n",
            b"99 a=defg\n",
            b"9 a=defg ",
            b"9 abdefg\n",
            b"9 =bdefg\n",
            b"x a=defg\n",
            b"-9 a=def\n",
            b" a=defgh\n",
            b"0 a=defg\n",
            b"9 a=defg\n\0",
        )
    },
    "many pax records": (
        (pax(*((f"k{n}", "v") for n in range(33))), *GOOD_X),
        (pax(*((f"k{n}", "v") for n in range(32))), *GOOD_X),
        "malformed pax header",
    ),
    "pax not UTF-8": (
        (member("p", b"9 a=d\xfffg\n", kind=b"x"), *GOOD_X),
        (member("p", b"9 a=defg\n", kind=b"x"), *GOOD_X),
        "not UTF-8",
    ),
    # Malformed headers.
    "wrong checksum": ((member(X, checksum=1),), GOOD_X, "wrong checksum"),
    "unknown format": ((member(X, magic=b"ustar\x0001"),), GOOD_X, "unknown format"),
    "size in binary": ((_size(b"\x80" + bytes(11)),), (_size(b"00000000000\0"),), "unreadable size"),
    "negative size": ((_size(b"-0000000001\0"),), (_size(b" 0000000000\0"),), "unreadable size"),
    "no size": ((_size(bytes(12)),), (_size(b"0" * 12),), "unreadable size"),
    "size in decimal": ((_size(b"00000000008\0"),), (_size(b"0          \0"),), "unreadable size"),
    "data in the padding": ((member(X, b"x", padding=b"y"),), GOOD_X, "data between its files"),
    "data in the padding of a name": (
        (long_name(X)[:-1] + b"y", *GOOD_X),
        (long_name(X), *GOOD_X),
        "data between its files",
    ),
    "data after one block of zeros": ((bytes(512), *GOOD_X), GOOD_X, "goes on after its end"),
    "data after the end": ((END, *GOOD_X), GOOD_X, "goes on after its end"),
    "a byte after the end": ((END + bytes(9000) + b"x",), (END + bytes(9001),), "goes on after its end"),
}


@pytest.mark.parametrize(("bad", "good", "message"), BAD.values(), ids=BAD)
def test_what_is_hostile_is_refused_and_its_good_twin_goes_in(
    tmp_path: Path, bad: tuple[bytes, ...], good: tuple[bytes, ...], message: str
) -> None:
    with pytest.raises(InvalidTarball, match=message):
        inspect(write(tmp_path, TOML, *bad, END))
    inspect(write(tmp_path, TOML, *good, END))


@pytest.mark.parametrize("cut", [1, 100, 511, 513, 600, 1100, 1436])
def test_a_tar_that_is_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    whole = TOML + member(X, b"x" * 300) + member("a-1.0.0/y", b"y" * 600)
    inspect(write(tmp_path, whole))
    with pytest.raises(InvalidTarball, match="cut off"):
        inspect(write(tmp_path, whole[:-cut]))


GZIP = gzip.compress(TOML + LIB + END)
BAD_GZIP = {
    "empty": (b"", "cut off"),
    "no gzip": (TOML + LIB + END, "not valid gzip"),
    "zlib": (zlib.compress(TOML + LIB + END), "not valid gzip"),
    "two members": (GZIP + gzip.compress(b""), "after the end of its gzip data"),
    "a byte more": (GZIP + b"\0", "after the end of its gzip data"),
    "much more": (GZIP + bytes(200_000), "after the end of its gzip data"),
    "wrong CRC": (GZIP[:-8] + bytes(4) + GZIP[-4:], "not valid gzip"),
    "wrong length": (GZIP[:-4] + bytes(4), "not valid gzip"),
    "broken data": (GZIP[:30] + b"\xff" * 10 + GZIP[40:], "not valid gzip"),
}


@pytest.mark.parametrize(("data", "message"), BAD_GZIP.values(), ids=BAD_GZIP)
def test_what_is_not_one_whole_gzip_member_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(InvalidTarball, match=message):
        inspect(write_raw(tmp_path, data))
    inspect(write_raw(tmp_path, GZIP))


def test_gzip_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    for end in range(len(GZIP)):
        with pytest.raises(InvalidTarball, match="cut off"):
            inspect(write_raw(tmp_path, GZIP[:end]))


def test_no_damaged_tarball_raises_anything_else(tmp_path: Path) -> None:
    tar = (
        TOML + long_name(LONG) + member(LONG, b"x") + pax(("path", X), ("size", "1")) + member(X, b"x") + END
    )
    for position in range(0, len(tar), 3):
        for byte in (0, 0x2F, 0x31, 0xFF):
            damaged = tar[:position] + bytes([byte]) + tar[position + 1 :]
            try:
                inspect(write_raw(tmp_path, gzip.compress(damaged, 0)))
            except InvalidTarball as error:
                assert str(error)  # noqa: PT017 (most of them are refused, some bytes mean nothing)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ((LIB,), "no `a-1.0.0/Cargo.toml`"),
        ((), "no `a-1.0.0/Cargo.toml`"),
        ((member("a-1.0.0/src/Cargo.toml", MANIFEST),), "no `a-1.0.0/Cargo.toml`"),
        ((folder("a-1.0.0/Cargo.toml"),), "no `a-1.0.0/Cargo.toml`"),
        ((member("a-1.0.0/CARGO.toml", MANIFEST),), "spell it exactly `Cargo.toml`"),
    ],
)
def test_a_tarball_without_manifest_is_refused(
    tmp_path: Path, members: tuple[bytes, ...], message: str
) -> None:
    with pytest.raises(InvalidTarball, match=message):
        inspect(write(tmp_path, *members, END))


def test_a_manifest_of_more_than_a_mebibyte_is_refused(tmp_path: Path) -> None:
    most = MANIFEST.ljust(2**20, b"#")
    assert inspect(write(tmp_path, member("a-1.0.0/Cargo.toml", most), END)).manifest == most
    with pytest.raises(InvalidTarball, match=r"`Cargo\.toml` of the tarball has 1048577 bytes"):
        inspect(write(tmp_path, member("a-1.0.0/Cargo.toml", most + b"#"), END))


def test_more_than_50_000_files_and_folders_are_refused(tmp_path: Path) -> None:
    # With the top folder and the manifest that makes 50,000; each of the files brings a folder.
    files = b"".join(member(f"a-1.0.0/{n}/x") for n in range(24_999))
    assert len(inspect(write(tmp_path, TOML, files, END)).members) == 25_000
    with pytest.raises(InvalidTarball, match="more than 50000 files and folders"):
        inspect(write(tmp_path, TOML, files, LIB, END))


def test_a_bomb_is_refused_in_bounded_time_and_memory(tmp_path: Path) -> None:
    """1 GiB of zeros in 1 MB, in a file; then the same after the end of the archive."""
    packer = zlib.compressobj(9, wbits=31)
    mebibyte = bytes(2**20)
    header = member("a-1.0.0/x", size=b"%011o\0" % 2**30)
    pieces = [packer.compress(TOML + header)]
    pieces += [packer.compress(mebibyte) for _ in range(1025)]
    pieces.append(packer.flush())
    path = write_raw(tmp_path, b"".join(pieces))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    tracemalloc.start()
    with pytest.raises(InvalidTarball, match="unpacks to more than 512 MiB and 20 times its size"):
        inspect(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 20


def test_a_tarball_of_4800_files_takes_a_blink(tmp_path: Path) -> None:
    files = b"".join(member(f"a-1.0.0/src/folder{n % 50}/file{n}.rs", b"x" * 900) for n in range(4800))
    path = write(tmp_path, TOML, files, END)
    started = time.perf_counter()
    assert len(inspect(path).members) == 4801
    assert time.perf_counter() - started < 1  # measured: 0.05


def test_one_file_can_be_read_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, TOML, member("a-1.0.0/README.md", b"hello"), LIB, END)
    assert tarball.read_member(path, "README.md", 5) == b"hello"
    assert tarball.read_member(path, "README", 5) is None
    assert tarball.read_member(path, "src", 5) is None
    with pytest.raises(TooLarge, match=r"`README\.md` of the crate has more than 4 bytes"):
        tarball.read_member(path, "README.md", 4)


def test_an_endless_gzip_header_is_no_way_in(tmp_path: Path) -> None:
    header = struct.pack("<BBBBIBB", 0x1F, 0x8B, 8, 8, 0, 0, 255)  # a file name follows
    with pytest.raises(InvalidTarball, match="cut off"):
        inspect(write_raw(tmp_path, header + b"x" * 300_000))
