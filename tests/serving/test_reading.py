"""The paths that cargo reads all day: what is kept in memory is never older than what was answered elsewhere."""

import gzip
import os
from pathlib import Path

import pytest

from tests.serving.served import Cargo, Serve, Served, run, until

BOTH = pytest.mark.parametrize("implementation", ["granian", "uvicorn"])
CLOSED = '[registries.main]\naccess = "auth-required"\n'


def published(served: Served, tmp_path: Path, *names: str) -> str:
    token = served.token()
    cargo = Cargo(tmp_path / "cargo", f"sparse+{served.url}/index/", token)
    for name in names:
        cargo.publish(tmp_path / name, name)
    return token


@BOTH
def test_every_form_of_an_index_file_says_the_same(serve: Serve, tmp_path: Path, implementation: str) -> None:
    served = serve("--bootstrap", "ann", "--server", implementation)
    published(served, tmp_path, "first")
    path = "/index/fi/rs/first"
    for _ in range(2):  # loaded, then from memory
        status, headers, plain = served.ask(path)
        assert (status, headers["content-length"]) == (200, str(len(plain)))
        assert "content-encoding" not in headers
        status, packed_headers, packed = served.ask(path, Accept_Encoding="deflate, gzip")
        assert (status, packed_headers["content-encoding"]) == (200, "gzip")
        assert gzip.decompress(packed) == plain
        assert headers["etag"] != packed_headers["etag"]
        for accepted, tag in [("identity", headers["etag"]), ("gzip", packed_headers["etag"])]:
            unchanged = served.ask(path, Accept_Encoding=accepted, If_None_Match=tag)
            assert (unchanged[0], unchanged[1]["etag"], unchanged[2]) == (304, tag, b"")
        # HEAD and a query go another way through the server.
        assert served.ask(path, "HEAD") == (200, headers, b"")
        assert served.ask(path + "?x=1") == (200, headers, plain)
    assert served.ask("/index/fi/rs/firsT")[0] == 404
    assert served.ask("/index/fi/rs/firsts")[0] == 404
    assert served.ask("/index/fi/rs/first/")[0] == 404
    assert served.ask(path, "POST")[0] == 405


@BOTH
def test_change_shows_at_once_in_every_worker(serve: Serve, tmp_path: Path, implementation: str) -> None:
    served = serve("--bootstrap", "ann", "--server", implementation, "--workers", "2")
    published(served, tmp_path, "first", "other")
    path = "/index/fi/rs/first"
    for yanked in (True, False, True):
        for _ in range(8):
            served.ask(path)
            served.ask(path, Accept_Encoding="gzip")
        run(tmp_path / "data", "crate", "yank" if yanked else "unyank", "first@1.0.0")
        said = b'"yanked":true' if yanked else b'"yanked":false'
        for _ in range(8):
            assert said in served.ask(path)[2]
            assert said in gzip.decompress(served.ask(path, Accept_Encoding="gzip")[2])


@BOTH
def test_revoked_token_is_refused_at_once_in_every_worker(
    serve: Serve, tmp_path: Path, implementation: str
) -> None:
    served = serve("--bootstrap", "ann", "--server", implementation, "--workers", "2", settings=CLOSED)
    token = published(served, tmp_path, "first")
    data, path = tmp_path / "data", "/index/fi/rs/first"
    download = "/api/v1/crates/first/1.0.0/download"
    settings = ("--config", str(tmp_path / "config.toml"))

    def statuses(token: str) -> set[int]:
        return {served.ask(at, Authorization=token)[0] for at in (path, download) for _ in range(8)}

    assert statuses(token) == {200}
    assert {served.ask(path)[0], served.ask(download)[0], served.ask(path + "x")[0]} == {401}
    assert "www-authenticate" in served.ask(path)[1]
    other = run(data, "token", "create", "ann", *settings).strip().splitlines()[-1]
    assert statuses(other) == {200}
    run(data, "token", "revoke", "1", *settings)
    assert statuses(token) == {401}
    assert statuses(other) == {200}
    run(data, "user", "disable", "ann", *settings)
    assert statuses(other) == {401}


@BOTH
def test_download_is_the_published_file_until_it_is_deleted(
    serve: Serve, tmp_path: Path, implementation: str
) -> None:
    served = serve("--bootstrap", "ann", "--server", implementation, "--workers", "2")
    large = tmp_path / "large" / "data.bin"
    large.parent.mkdir()
    large.write_bytes(os.urandom(500_000))
    published(served, tmp_path, "small", "large")
    for name in ("small", "large"):
        (file,) = (tmp_path / "data" / "crates_storage" / "main").glob(f"*/*/{name}/*.crate")
        path = f"/api/v1/crates/{name}/1.0.0/download"
        for spelled in (path, path.replace("1.0.0", "1%2E0.0"), path + "/", path + "?x"):
            status, headers, body = served.ask(spelled)
            assert (status, headers["content-length"], body) == (200, str(len(body)), file.read_bytes())
        assert served.ask(path, Range="bytes=5-9")[2] == body[5:10]
        assert served.ask(path, If_None_Match=headers["etag"])[0] == 304
        assert served.ask(path, "HEAD") == (200, headers, b"")
    assert served.ask("/api/v1/crates/small/1.0.1/download")[0] == 404
    run(tmp_path / "data", "crate", "delete", "small@1.0.0", "--reason", "test")
    assert {served.ask("/api/v1/crates/small/1.0.0/download")[0] for _ in range(8)} == {404}


@BOTH
def test_requests_are_logged_only_when_asked_for(serve: Serve, tmp_path: Path, implementation: str) -> None:
    quiet = serve("--server", implementation)
    quiet.ask("/index/config.json")
    quiet.ask("/index/no/su/no-such", Connection="Upgrade", Upgrade="h2c")
    assert "HTTP" not in quiet.stderr()
    served = serve("--server", implementation, "--access-log")
    size = len(served.ask("/index/config.json")[2])
    served.ask("/index/no/su/no-such?x=%0a")
    until(lambda: served.stderr().count(" HTTP/1.1") == 2)
    lines = [line.partition("cargo_registry.access: ")[2] for line in served.stderr().splitlines()]
    first, second = (line for line in lines if line)
    assert first.startswith(f'127.0.0.1 "GET /index/config.json HTTP/1.1" 200 {size} ')
    assert second.startswith('127.0.0.1 "GET /index/no/su/no-such')
    assert ' HTTP/1.1" 404 ' in second
