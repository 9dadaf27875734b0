"""`cargo-registry fsck` and `index`: what is wrong is named, and put right where it can be."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cargo_registry.upkeep import GRACE_S
from tests.crates import crate_file
from tests.upkeep.client import index_path
from tests.upkeep.conftest import all_is_well, operate, succeed, token_of


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("template")
    folder = tmp_path / "data"
    token_of(folder, "alice")
    files = []
    for name, vers in (("foo", "1.0.0"), ("foo", "1.1.0"), ("bar", "1.0.0")):
        files.append(tmp_path / f"{name}-{vers}.crate")
        files[-1].write_bytes(crate_file(name, vers))
    succeed(folder, "publish", *files, "--as", "alice")
    all_is_well(folder)
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    """Data with two versions of `foo` and one of `bar`."""
    return Path(shutil.copytree(template, tmp_path / "data"))


def index_file(folder: Path, name: str) -> Path:
    return folder / "index_data" / "main" / index_path(name)


def stray(folder: Path, name: str, text: str = "{}\n") -> None:
    path = folder / "index_data" / "main" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def sql(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "registry.db")) as rows:
        rows.execute(statement)
        rows.commit()


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "index file is gone": (lambda folder: index_file(folder, "foo").unlink(), "foo"),
    "index file is empty": (lambda folder: index_file(folder, "foo").write_bytes(b""), "foo"),
    "index file is cut": (lambda folder: os.truncate(index_file(folder, "foo"), 50), "foo"),
    "line says otherwise": (
        lambda folder: index_file(folder, "foo").write_text(
            index_file(folder, "foo").read_text().replace('"yanked":false', '"yanked":true')
        ),
        "foo",
    ),
    "row says otherwise": (
        lambda folder: sql(folder, "UPDATE versions SET yanked = 1 WHERE vers = '1.1.0'"),
        "foo",
    ),
    "stray file": (lambda folder: stray(folder, "no/bo/nobody"), "no/bo/nobody"),
    "other spelling": (lambda folder: stray(folder, "3/F/FOO"), "3/F/FOO"),
    "folder of the wrong crate": (lambda folder: stray(folder, "3/x/foo"), "3/x/foo"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_wrong_index_file_is_named_and_repaired(folder: Path, damage: str) -> None:
    good = {path: path.read_bytes() for path in (folder / "index_data" / "main").rglob("*") if path.is_file()}
    break_it, what = DAMAGE[damage]
    break_it(folder)
    named = what if "/" not in what else f"main/{what}"
    verified = operate(folder, "index", "verify", "--json")
    assert (verified.code, verified.json()["wrong"]) == (1, [{"registry": "main", "crate": named}])
    problem = "the index file is not what the rows say"
    for options, repaired, code in (([], False, 1), (["--repair"], True, 0)):
        checked = operate(folder, "fsck", *options, "--json")
        finding = {"registry": "main", "what": named, "problem": problem, "repaired": repaired}
        assert checked.json() == {"findings": [finding], "left": code}
        assert checked.code == code
    all_is_well(folder)
    if damage != "row says otherwise":
        now = {
            path: path.read_bytes() for path in (folder / "index_data" / "main").rglob("*") if path.is_file()
        }
        assert now == good


def test_index_is_rebuilt_from_nothing_byte_for_byte(folder: Path) -> None:
    succeed(folder, "crate", "yank", "foo@1.0.0")
    files = {
        path: path.read_bytes() for path in (folder / "index_data" / "main").rglob("*") if path.is_file()
    }
    assert len(files) == 2
    for path in files:
        path.unlink()
    rebuilt = succeed(folder, "index", "rebuild", "--json")
    assert rebuilt.json() == {"changed": {"main": 2}}
    assert {path: path.read_bytes() for path in files} == files


def test_row_and_line_that_disagree_are_named_and_stay(folder: Path) -> None:
    sql(
        folder,
        "UPDATE versions SET line = CAST(replace(line, '1.1.0', '1.1.1') AS BLOB) WHERE vers = '1.1.0'",
    )
    succeed(folder, "index", "rebuild")
    for options in ([], ["--repair"], ["--deep"]):
        checked = operate(folder, "fsck", *options)
        assert checked.code == 1
        assert "main: foo@1.1.0: its index line has another `vers` than its row\n" in checked.stdout


def test_crate_that_the_gate_would_refuse_today_is_named(folder: Path, tmp_path: Path) -> None:
    """What came in by an older release, or by another door: here a link, put in place of the tarball."""
    import gzip
    import hashlib
    import io
    import tarfile

    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, data in (
            ("Cargo.toml", b'[package]\nname = "bar"\nversion = "1.0.0"\n'),
            ("src/lib.rs", b""),
        ):
            member = tarfile.TarInfo(f"bar-1.0.0/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("bar-1.0.0/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    data = gzip.compress(tar.getvalue())
    (path,) = (folder / "crates_storage").rglob("bar-*.crate")
    old, new = path.name[-70:-6], hashlib.sha256(data).hexdigest()
    path.unlink()
    path.with_name(path.name.replace(old, new)).write_bytes(data)
    sql(
        folder,
        f"UPDATE versions SET cksum = '{new}', size = {len(data)}, line = CAST(replace(line, '{old}', '{new}') AS BLOB)"
        f" WHERE cksum = '{old}'",
    )
    succeed(folder, "index", "rebuild")
    succeed(folder, "fsck")
    checked = operate(folder, "fsck", "--deep")
    assert checked.code == 1
    assert "main: bar@1.0.0: the gate would refuse it today: " in checked.stdout
    assert "link" in checked.stdout


def test_orphan_is_swept_after_the_grace_time(folder: Path) -> None:
    (path,) = (folder / "crates_storage").rglob("bar-*.crate")
    orphan = path.with_name(f"bar-2.0.0-{'0' * 64}.crate")
    orphan.write_bytes(b"of a publish that was killed")
    succeed(folder, "fsck", "--repair")
    assert orphan.exists(), "it might just be coming in"
    age = orphan.stat().st_mtime - GRACE_S - 60
    os.utime(orphan, (age, age))
    found = operate(folder, "fsck", "--json")
    key = orphan.relative_to(folder / "crates_storage").as_posix()
    assert (found.code, [one["what"] for one in found.json()["findings"]]) == (1, [key])
    assert orphan.exists()
    repaired = operate(folder, "fsck", "--repair")
    assert (repaired.code, repaired.stdout) == (0, f"main: {key}: a tarball that no version has (repaired)\n")
    assert not orphan.exists()
    assert path.exists()
    all_is_well(folder)


def test_resume_leaves_out_what_was_read_within_a_day(folder: Path) -> None:
    """A damaged one counts as read: it is named by every check that does not resume."""
    sql(folder, "UPDATE versions SET verified_at = datetime(verified_at, '-25 hours') WHERE vers = '1.1.0'")
    for path in (folder / "crates_storage").rglob("*.crate"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    checked = operate(folder, "fsck", "--deep", "--resume", "--json")
    assert (checked.code, [one["what"] for one in checked.json()["findings"]]) == (1, ["foo@1.1.0"])
    checked = operate(folder, "fsck", "--deep", "--json")
    assert [one["what"] for one in checked.json()["findings"]] == ["foo@1.0.0", "foo@1.1.0", "bar@1.0.0"]


def test_damaged_database_is_named(folder: Path) -> None:
    """A page of an index of SQLite's own, overwritten: rows are still read, and the check says what is wrong."""
    path = folder / "registry.db"
    with closing(sqlite3.connect(path)) as rows:
        rows.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = rows.execute(
            "SELECT rootpage FROM sqlite_master WHERE type = 'index' AND tbl_name = 'tokens' LIMIT 1"
        ).fetchone()
        (size,) = rows.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    checked = operate(folder, "fsck")
    assert checked.code == 1
    assert "registry.db" in checked.stdout + checked.stderr
    assert "Traceback" not in checked.stderr


def test_unreadable_database_is_said_in_words(folder: Path) -> None:
    (folder / "registry.db").write_bytes(os.urandom(20_000))
    checked = operate(folder, "fsck")
    assert checked.code == 1
    assert checked.stderr.startswith("error: the registry's database is damaged")
    assert "backup" in checked.stderr
