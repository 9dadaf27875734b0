"""`cargo-registry import`: from every place where crates already are, through the gate, resumable."""

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.crates import crate_file
from tests.programs import Server
from tests.upkeep.client import Client, index_path
from tests.upkeep.conftest import CONFIG, Done, all_is_well, operate, succeed, token_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Empty data, and a user."""
    folder = tmp_path / "data"
    token_of(folder, "alice")
    return folder


def bring_in(folder: Path, *sources: str | Path, code: int = 0) -> dict[str, Any]:
    done = operate(folder, "import", *sources, "--as", "alice", "--json")
    assert done.code == code, done.stderr
    report: dict[str, Any] = done.json()
    return report


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / "index_data" / "main" / index_path(name)
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def test_folder_of_crate_files_with_what_is_refused_named(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deeper").mkdir(parents=True)
    for name, vers in (("foo", "1.10.0"), ("foo", "1.9.0"), ("deeper/bar", "0.1.0-rc.1")):
        (source / f"{name}-{vers}.crate").write_bytes(crate_file(Path(name).name, vers))
    (source / "broken-1.0.0.crate").write_bytes(b"no archive at all")
    (source / "mislabelled-1.0.0.crate").write_bytes(crate_file("really", "2.0.0"))
    (source / "nul-1.0.0.crate").write_bytes(crate_file("nul", "1.0.0"))
    (source / "README.md").write_text("not a crate")
    report = bring_in(folder, source, code=1)
    assert sorted(report["imported"]) == ["bar@0.1.0-rc.1", "foo@1.10.0", "foo@1.9.0", "mislabelled@1.0.0"]
    assert [label for label, _ in sorted(report["refused"])] == ["broken@1.0.0", "nul@1.0.0"]
    assert all(why for _, why in report["refused"])
    assert [line["vers"] for line in lines(folder, "foo")] == ["1.9.0", "1.10.0"], "the lower version first"
    assert lines(folder, "really")[0]["vers"] == "2.0.0", "the manifest is the truth, not the file's name"
    again = bring_in(folder, source, code=1)
    assert (again["imported"], len(again["had"]), len(again["refused"])) == ([], 4, 2)
    said = operate(folder, "import", source, "--as", "alice")
    assert "refused broken@1.0.0: " in said.stderr
    assert said.stderr.endswith("0 imported, 4 were there, 2 refused\n")
    all_is_well(folder)


def test_other_bytes_of_a_version_that_is_there_are_refused(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "foo-1.0.0.crate"
    file.write_bytes(crate_file("foo", "1.0.0"))
    bring_in(folder, file)
    before = lines(folder, "foo")
    file.write_bytes(crate_file("foo", "1.0.0", files={"src/lib.rs": b"// other"}))
    report = bring_in(folder, file, code=1)
    assert "already uploaded" in report["refused"][0][1]
    assert lines(folder, "foo") == before


def local_registry(data: Path, target: Path, *, crates: int) -> Path:
    """Lay out a part of the real crates as `cargo local-registry` does; every seventh is yanked."""
    target.mkdir()
    taken = sorted((data / "crates").iterdir(), key=lambda path: path.stat().st_size)[:crates]
    for path in taken:
        shutil.copy(path, target)
    names = {path.name for path in taken}
    number = 0
    for path in sorted((data / "index").rglob("*")):
        if not path.is_file():
            continue
        kept = []
        for text in path.read_text().splitlines():
            line = json.loads(text)
            if f"{line['name']}-{line['vers']}.crate" in names:
                number += 1
                kept.append(json.dumps({**line, "yanked": number % 7 == 0}))
        if kept:
            copy = target / "index" / path.relative_to(data / "index")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text("\n".join(kept) + "\n")
    return target


def test_local_registry_keeps_times_yanks_and_bytes(folder: Path, data: Path, tmp_path: Path) -> None:
    source = local_registry(data, tmp_path / "local", crates=80)
    report = bring_in(folder, source)
    assert (len(report["imported"]), report["had"], report["refused"]) == (80, [], [])
    yanked = 0
    for path in (source / "index").rglob("*"):
        if path.is_file():
            wanted = [json.loads(line) for line in path.read_bytes().splitlines()]
            found = lines(folder, wanted[0]["name"])
            for want, have in zip(wanted, found, strict=True):
                for key in ("name", "vers", "cksum", "pubtime", "yanked"):
                    assert have.get(key) == want.get(key), (want["name"], key)
                yanked += want["yanked"]
    assert yanked == 11
    all_is_well(folder)


def test_index_that_lies_about_a_tarball_is_believed_in_nothing(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "local"
    (source / "index" / "3" / "f").mkdir(parents=True)
    (source / "foo-1.0.0.crate").write_bytes(crate_file("foo", "1.0.0"))
    line = {"name": "foo", "vers": "1.0.0", "cksum": "0" * 64, "deps": [], "features": {}, "yanked": False}
    (source / "index" / "3" / "f" / "foo").write_text(json.dumps(line) + "\n")
    report = bring_in(folder, source, code=1)
    assert "not those that the index" in report["refused"][0][1]
    assert lines(folder, "foo") == []
    all_is_well(folder)


def vendored(folder: Path, name: str, vers: str, **files: str) -> Path:
    """Unpack a crate as `cargo vendor` does."""
    root = folder / f"{name}-{vers}"
    contents = {"Cargo.toml": f'[package]\nname = "{name}"\nversion = "{vers}"\nedition = "2021"\n'}
    contents |= {"src/lib.rs": "", **files}
    sums = {}
    for path, text in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
        sums[path] = hashlib.sha256(text.encode()).hexdigest()
    (root / ".cargo-checksum.json").write_text(json.dumps({"files": sums, "package": "0" * 64}))
    return root


def test_vendor_directory(folder: Path, tmp_path: Path) -> None:
    """With tarballs made anew, the same each time, of just the files that cargo lists."""
    source = tmp_path / "vendor"
    vendored(source, "foo", "1.0.0", **{"src/deep/er.rs": "// deep"})
    root = vendored(source, "bar", "0.1.0")
    (root / "target").mkdir()
    (root / "target" / "junk").write_text("not listed")
    vendored(source, "torn", "0.1.0")
    (source / "torn-0.1.0" / "src" / "lib.rs").unlink()
    report = bring_in(folder, source, code=1)
    assert sorted(report["imported"]) == ["bar@0.1.0", "foo@1.0.0"]
    assert [label for label, _ in report["refused"]] == ["torn@0.1.0"]
    first = lines(folder, "foo")
    other = tmp_path / "other"
    token_of(other, "alice")
    bring_in(other, source, code=1)
    assert lines(other, "foo")[0]["cksum"] == first[0]["cksum"]
    assert bring_in(folder, source, code=1)["imported"] == []
    all_is_well(folder)


def test_other_registry_by_its_index(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Public, or with a token; what is yanked there stays yanked, and the times are those of there."""
    config = CONFIG + '[registries.main]\n[registries.secret]\naccess = "auth-required"\n'
    source = tmp_path / "source"
    with Server(source, config) as server:
        token = token_of(source, "bob")
        files = []
        for name, vers in (("foo", "1.0.0"), ("foo", "1.1.0"), ("Some_Name", "0.1.0"), ("bent", "1.0.0")):
            files.append(tmp_path / f"{name}-{vers}.crate")
            files[-1].write_bytes(crate_file(name, vers))
        for registry in ("main", "secret"):
            succeed(source, "publish", *files, "--as", "bob", "--registry", registry)
            succeed(source, "crate", "yank", "foo@1.0.0", "--registry", registry)
            # Wrong bytes of the right length are served until somebody looks into them.
            (path,) = (source / "crates_storage" / registry).rglob("bent-*.crate")
            path.write_bytes(path.read_bytes()[:-1] + b"x")
        time.sleep(1.1)  # so that the times of there are not those of here

        some = bring_in(folder, server.index_url(), "--crate", "some_name")
        assert some["imported"] == ["Some_Name@0.1.0"]
        rest = bring_in(folder, server.index_url(), code=1)
        assert sorted(rest["imported"]) == ["foo@1.0.0", "foo@1.1.0"]
        assert rest["had"] == ["Some_Name@0.1.0"]
        ((label, why),) = rest["refused"]
        assert label == "bent@1.0.0"
        assert "not those that the index" in why

        other = tmp_path / "other"
        token_of(other, "alice")
        for wrong in (None, "crg_wrong"):
            if wrong:
                monkeypatch.setenv("CRG_IMPORT_TOKEN", wrong)
            refused = operate(other, "import", server.index_url("secret"), "--as", "alice")
            assert (refused.code, refused.stderr.count("\n")) == (1, 1), refused.stderr
            assert "token" in refused.stderr
        monkeypatch.setenv("CRG_IMPORT_TOKEN", token)
        assert len(bring_in(other, server.index_url("secret"), code=1)["imported"]) == 3
        monkeypatch.delenv("CRG_IMPORT_TOKEN")

        with Client(server.direct_url, token) as client:
            for name in ("foo", "Some_Name"):
                assert lines(folder, name) == list(client.lines(name).values())
                theirs = client.get(f"/secret/index/{index_path(name)}").body
                assert lines(other, name) == [json.loads(line) for line in theirs.splitlines()]
            assert client.lines("foo")["1.0.0"]["yanked"] is True
    all_is_well(folder)
    all_is_well(other)
    for unreachable in ("sparse+http://127.0.0.1:9/index/", server.index_url()):
        done: Done = operate(folder, "import", unreachable, "--as", "alice")
        assert (done.code, "cannot be reached" in done.stderr) == (1, True), done.stderr


def generate(folder: Path, count: int) -> Path:
    """Make small crates, a tenth of them versions of one."""
    folder.mkdir()
    for number in range(count):
        name, vers = (f"made-{number}", "1.0.0") if number % 10 else ("many", f"1.{number}.0")
        (folder / f"{name}-{vers}.crate").write_bytes(crate_file(name, vers))
    return folder


# The peak of just this program: rusage also has that of the test, which it was forked from.
_MEASURED = """
import sys
from cargo_registry.__main__ import main
try:
    main()
finally:
    with open("/proc/self/status") as status:
        print(next(line for line in status if line.startswith("VmHWM")), file=sys.stderr, end="")
"""


def import_measured(folder: Path, source: Path, count: int, *, interrupt_at: int | None = None) -> str:
    """Import in a process of its own; return what it said, and how fast it was and how much memory it took.

    With `interrupt_at`, Ctrl-C when so many tarballs are there.
    """
    command = [sys.executable, "-c", _MEASURED, "import", str(source), "--as", "alice"]
    began = time.monotonic()
    with subprocess.Popen(
        [*command, "--data-dir", str(folder)], stderr=subprocess.PIPE, text=True
    ) as process:
        if interrupt_at is not None:
            while sum(1 for _ in (folder / "crates_storage").rglob("*.crate")) < interrupt_at:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        *said, peak = process.stderr.read().splitlines()
    assert process.returncode == (0 if interrupt_at is None else 130), said
    took_s = time.monotonic() - began
    peak_mib = int(peak.split()[1]) // 1024
    assert peak_mib < 200, "memory must not grow with the number of crates"
    return f"{said[-1]}; {count / took_s:.0f} crates/s, {peak_mib} MiB at most"


def test_import_goes_on_after_ctrl_c(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = 300
    source = generate(tmp_path / "source", count)
    said = import_measured(folder, source, count, interrupt_at=count // 3)
    assert said.startswith("interrupted")
    assert not list((folder / "crates_storage" / ".spool").iterdir())
    all_is_well(folder)
    said = import_measured(folder, source, count)
    with capsys.disabled():
        print(f"\n{said}")
    match = re.match(r"(\d+) imported, (\d+) were there, 0 refused", said)
    assert match
    imported, had = map(int, match.groups())
    assert imported + had == count
    assert count // 3 <= had < count
    assert len(succeed(folder, "crate", "list", "--json").json()) == count - count // 10 + 1
    succeed(folder, "index", "verify")
