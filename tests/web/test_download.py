"""Downloads: exactly the bytes, by any spelling, whole or in ranges, and counted."""

import asyncio
import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cargo_registry import accounts, download, publish, tokens
from cargo_registry.config import load
from cargo_registry.db import users
from cargo_registry.db.users import Role
from cargo_registry.registry import close_site, open_site
from tests.crates import crate_file
from tests.programs import until
from tests.web.conftest import SITE, Site, ask, connect, published

# Two sizes: a small file goes out in one piece, a large one in another way.
BIG = crate_file("big", "1.0.0", files={"src/lib.rs": b"", "noise": os.urandom(400_000)})
SMALL = crate_file("Tiny-Base", "1.0.0+b.1")
FILES = {"/api/v1/crates/big/1.0.0/download": BIG, "/api/v1/crates/Tiny-Base/1.0.0+b.1/download": SMALL}
BOTH = pytest.mark.parametrize("path", FILES)


@pytest.fixture(scope="module")
def server(either: Site) -> Iterator[Site]:
    token = either.token("alice")
    published(either, token, "big", tarball=BIG)
    published(either, token, "Tiny-Base", "1.0.0+b.1", tarball=SMALL)
    yield either
    assert "Traceback" not in either.stderr()


@BOTH
def test_download_is_the_bytes_that_were_published(server: Site, path: str) -> None:
    answered = ask(server, path, headers={"Accept-Encoding": "deflate, gzip"})
    assert answered.status == 200
    assert answered.body == FILES[path]
    # With it, curl would unpack the tarball, and no checksum would ever fit.
    assert answered.header("content-encoding") is None
    assert answered.header("content-length") == str(len(FILES[path]))
    assert answered.header("accept-ranges") == "bytes"


def test_checksum_is_the_one_in_the_index(server: Site) -> None:
    line = json.loads(ask(server, "/index/3/b/big").body)
    assert line["cksum"] == hashlib.sha256(BIG).hexdigest()
    files = list((server.data_dir / "crates_storage").rglob("*.crate"))
    assert sorted(file.read_bytes() for file in files) == sorted([BIG, SMALL])


@pytest.mark.parametrize(
    "path",
    [
        "tiny-base/1.0.0+b.1", "tiny_base/1.0.0+b.1", "TINY_BASE/1.0.0+b.1", "Tiny-Base/1.0.0%2Bb.1",
        "Tiny-Base/1.0.0%2bb.1", "Tiny%2DBase/1.0.0+b.1", "%54iny-Base/%31.0.0+b.1",
    ],
)  # fmt: skip
def test_any_spelling_is_the_crate(server: Site, path: str) -> None:
    assert ask(server, f"/api/v1/crates/{path}/download").body == SMALL
    assert ask(server, f"//api/v1/crates/{path}/download/?x=1").body == SMALL


@pytest.mark.parametrize(
    "path",
    [
        "tiny-base/1.0.0", "tiny-base/1.0.0+b.2", "tiny-base/1.0.0%20b.1", "tiny-base/1.0", "tiny-base/latest",
        "tinybase/1.0.0+b.1", "none/1.0.0", "big/1.0.0%00", "big/01.0.0", "big/v1.0.0", "big/%D9%A1.0.0", "../1.0.0",
        "..%2f..%2fregistry.db/1.0.0", "big/..%2f1.0.0", "%00/1.0.0", "%FF/%FF", "big/%F0%9F%A6%80", "big/1.0.0%0a",
    ],
)  # fmt: skip
def test_what_is_not_published_is_404_in_json(server: Site, path: str) -> None:
    answered = ask(server, f"/api/v1/crates/{path}/download")
    assert answered.status == 404
    assert "does not have a version" in answered.detail()


def test_file_without_a_row_is_never_served(server: Site) -> None:
    folder = server.data_dir / "crates_storage" / "main" / "3" / "b" / "big"
    for stray in (folder / "big-9.0.0.crate", server.data_dir / "crates_storage" / "big-9.0.0.crate"):
        stray.parent.mkdir(parents=True, exist_ok=True)
        stray.write_bytes(b"stray")
        try:
            assert ask(server, "/api/v1/crates/big/9.0.0/download").status == 404
        finally:
            stray.unlink()


@BOTH
def test_head_is_get_without_the_body(server: Site, path: str) -> None:
    status, headers, _ = ask(server, path).without_date()
    assert ask(server, path, method="HEAD").without_date() == (status, headers, b"")
    # No range is defined for it (RFC 9110, 14.2).
    head = ask(server, path, method="HEAD", headers={"Range": "bytes=0-3"})
    assert (head.status, head.header("content-length")) == (200, str(len(FILES[path])))


# --- Ranges: RFC 9110, 14 ---


@BOTH
@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-99", 0, 99),
        ("bytes=5-9", 5, 9),
        ("bytes=100-", 100, -1),
        ("bytes=-1", -1, -1),
        ("bytes=-50", -50, -1),
        ("bytes=0-", 0, -1),
        ("bytes=0-99999999999", 0, -1),
        ("bytes=-99999999999", 0, -1),
        ("bytes=7-9999999999999999999", 7, -1),
        ("Bytes=5-9", 5, 9),
        ("bytes= 5-9", 5, 9),
        ("bytes=5-9 ", 5, 9),
    ],
)
def test_one_range_is_given(server: Site, path: str, wanted: str, first: int, last: int) -> None:
    whole = FILES[path]
    first, last = first % len(whole), last % len(whole)
    answered = ask(server, path, headers={"Range": wanted})
    assert answered.status == 206
    assert answered.header("content-range") == f"bytes {first}-{last}/{len(whole)}"
    assert answered.header("content-length") == str(last - first + 1)
    assert answered.body == whole[first : last + 1]
    assert answered.header("etag") == ask(server, path).header("etag")


@BOTH
@pytest.mark.parametrize("wanted", ["bytes={size}-", "bytes={size}-{size}", "bytes=9999999999-", "bytes=-0"])
def test_range_beyond_the_end_is_416(server: Site, path: str, wanted: str) -> None:
    size = len(FILES[path])
    answered = ask(server, path, headers={"Range": wanted.format(size=size)})
    assert answered.status == 416
    assert answered.header("content-range") == f"bytes */{size}"


@BOTH
@pytest.mark.parametrize(
    "wanted",
    [
        "", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=9-5", "bytes=1-2-3", "lines=0-9", "bytes=0-1,5-9",
        "bytes=--5", "bytes=+1-2", "bytes=0x1-2", "bytes=1.5-2", "bytes 0-9", "bytes=" + "9" * 100 + "-",
        "bytes=\xb2-9",
    ],
)  # fmt: skip
def test_what_is_no_single_range_gets_the_whole(server: Site, path: str, wanted: str) -> None:
    answered = ask(server, path, headers={"Range": wanted})
    assert (answered.status, answered.body) == (200, FILES[path])


@BOTH
def test_if_range_decides(server: Site, path: str) -> None:
    etag = ask(server, path).header("etag") or ""
    for condition, status in (
        (etag, 206),
        ('"other"', 200),
        (f"W/{etag}", 200),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 200),
    ):
        answered = ask(server, path, headers={"Range": "bytes=0-9", "If-Range": condition})
        assert answered.status == status, condition


@BOTH
def test_known_tag_gets_304(server: Site, path: str) -> None:
    etag = ask(server, path).header("etag") or ""
    assert etag.startswith('"')
    for condition in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        answered = ask(server, path, headers={"If-None-Match": condition, "Range": "bytes=0-9"})
        assert (answered.status, answered.body) == (304, b"")
        assert answered.header("etag") == etag
    assert ask(server, path, headers={"If-None-Match": '"x"'}).status == 200


def test_bytes_of_a_version_may_be_kept_for_ever_but_not_by_others(server: Site) -> None:
    token = server.token("alice")
    published(server, token, "private-one", base="/secret")
    public = ask(server, "/api/v1/crates/big/1.0.0/download").header("cache-control") or ""
    assert "immutable" in public
    assert "private" not in public
    path = "/secret/api/v1/crates/private-one/1.0.0/download"
    private = ask(server, path, token=token).header("cache-control") or ""
    assert private.startswith("private,")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused_in_json(server: Site, method: str) -> None:
    answered = ask(server, "/api/v1/crates/big/1.0.0/download", method=method, body=b"")
    assert (answered.status, answered.header("allow")) == (405, "GET, HEAD")
    assert answered.detail()


# --- When the disk has not what the rows say ---


@pytest.mark.parametrize("size", [10, 300_000])
@pytest.mark.parametrize("damage", ["cut", "longer", "missing"])
@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=0-3"}])
def test_tarball_that_is_not_what_was_published_is_not_served(
    server: Site, size: int, damage: str, headers: dict[str, str]
) -> None:
    """Nor is there a word that it does not exist: cargo would believe it."""
    name = f"damaged-{damage}-{size}-{len(headers)}"
    noise = {"src/lib.rs": b"", "noise": os.urandom(size)}
    published(server, server.token("alice"), name, tarball=crate_file(name, "1.0.0", files=noise))
    (file,) = (server.data_dir / "crates_storage").rglob(f"{name}-1.0.0-*.crate")
    if damage == "missing":
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size + (5 if damage == "longer" else -5))
    path = f"/api/v1/crates/{name}/1.0.0/download"
    answered = ask(server, path, headers=headers)
    assert answered.status == 500
    assert f"`{name}@1.0.0` is damaged" in answered.detail()
    assert ask(server, path, headers=headers, method="HEAD").status == 500


def test_client_that_hangs_up_breaks_nothing(server: Site) -> None:
    for _ in range(20):
        with connect(
            server, b"GET /api/v1/crates/big/1.0.0/download HTTP/1.1\r\nHost: x\r\n\r\n"
        ) as connection:
            connection.recv(100)
    assert ask(server, "/api/v1/crates/big/1.0.0/download").body == BIG


# --- Counting ---


def counted(root: Path) -> dict[str, int]:
    with closing(sqlite3.connect(root / "registry.db", timeout=10)) as db:
        rows = db.execute("SELECT name, vers, v.downloads FROM versions v JOIN crates c ON c.id = crate_id")
        return {f"{name}@{vers}": downloads for name, vers, downloads in rows}


@pytest.mark.parametrize("workers", [1, 2])
def test_downloads_are_counted_and_written_at_the_end(tmp_path: Path, workers: int) -> None:
    with Site(tmp_path, SITE, workers=workers) as server:
        token = server.token("alice")
        published(server, token, "one")
        published(server, token, "two")
        for _ in range(7):
            assert ask(server, "/api/v1/crates/one/1.0.0/download").status == 200
        assert ask(server, "/api/v1/crates/TWO/1.0.0/download").status == 200
        # None of these is one.
        ask(server, "/api/v1/crates/two/1.0.0/download", method="HEAD")
        ask(server, "/api/v1/crates/two/1.0.0/download", headers={"If-None-Match": "*"})
        ask(server, "/api/v1/crates/two/1.0.0/download", headers={"Range": "bytes=999999-"})
        ask(server, "/api/v1/crates/two/2.0.0/download")
        server.stop()
    assert counted(tmp_path) == {"one@1.0.0": 7, "two@1.0.0": 1}
    with closing(sqlite3.connect(tmp_path / "registry.db")) as db:
        assert db.execute("SELECT sum(downloads) FROM download_days").fetchone() == (8,)
        assert db.execute("SELECT name, downloads FROM crates ORDER BY name").fetchall() == [
            ("one", 7),
            ("two", 1),
        ]


def test_none_is_lost_between_threads_and_changes(tmp_path: Path) -> None:
    """A download is answered by one thread or another; each change of the database makes them change places."""
    with Site(tmp_path, SITE) as server:
        token = server.token("alice")
        published(server, token, "one")
        wrong = []

        def download_all() -> None:
            for n in range(60):
                path = "/api/v1/crates/one/1.0.0/download" + ("?x" if n % 5 == 0 else "")
                if ask(server, path).status != 200:
                    wrong.append(path)

        threads = [threading.Thread(target=download_all) for _ in range(6)]
        for thread in threads:
            thread.start()
        for n in range(10):
            published(server, token, "other", f"1.0.{n}")
        for thread in threads:
            thread.join()
        server.stop()
        assert not wrong
    assert counted(tmp_path)["one@1.0.0"] == 360


def test_flush_that_is_cancelled_counts_once(tmp_path: Path) -> None:
    """As when SIGTERM comes while the database is busy. Waits for nobody, as it runs in the test's process."""
    config = load(None, data_dir=tmp_path, environ={})

    async def run() -> None:
        site = open_site(config)
        await accounts.add_user(site, "alice", name=None, role=Role.PUBLISHER)
        crate = tmp_path / "one.crate"
        crate.write_bytes(crate_file("one", "1.0.0"))
        caller = tokens.acting_for(await site.db.read(users.get, "alice"))
        registry = site.registries["main"]
        async with publish.taken_from(registry, crate) as upload:
            await publish.publish(registry, caller, None, upload)
        listed, _ = download.find(registry, "one", "1.0.0")
        with closing(sqlite3.connect(tmp_path / "registry.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            download.count(registry, listed)
            flushing = asyncio.create_task(download.flush(site))
            await asyncio.sleep(0.05)
            download.count(registry, listed)
            flushing.cancel()
            other.execute("ROLLBACK")
        await download.flush(site)
        await close_site(site)

    asyncio.run(run())
    assert counted(tmp_path) == {"one@1.0.0": 2}


def test_version_that_is_deleted_takes_its_counts_along(tmp_path: Path) -> None:
    with Site(tmp_path, SITE) as server:
        token = server.token("alice")
        published(server, token, "one")
        published(server, token, "one", "2.0.0")
        for vers in ("1.0.0", "2.0.0", "2.0.0"):
            assert ask(server, f"/api/v1/crates/one/{vers}/download").status == 200
        server.cli("crate", "delete", "one@1.0.0", "--reason", "a test")
        assert ask(server, "/api/v1/crates/one/1.0.0/download").status == 404
        server.stop()
        assert "ERROR" not in server.stderr()
    assert counted(tmp_path) == {"one@2.0.0": 2}


def test_downloads_are_written_every_few_seconds(server: Site) -> None:
    before = counted(server.data_dir)["big@1.0.0"]
    assert ask(server, "/api/v1/crates/big/1.0.0/download").status == 200
    until(lambda: counted(server.data_dir)["big@1.0.0"] > before, within_s=15)
