"""Index files through a mirror: byte for byte, as fresh as promised, and there while upstream is not."""

import http.client
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.mirror.conftest import MakeMirror, Pair
from tests.mirror.upstream import Handler, Upstream, after
from tests.programs import until


def test_index_file_is_upstreams_byte_for_byte(pair: Pair) -> None:
    pair.upstream.add("bytes1", "1.0.0", unknown={"field": [1, None]})
    pair.upstream.add("bytes1", "1.0.1")

    answer = pair.get("/index/by/te/bytes1")

    assert (answer.status_code, answer.content) == (200, pair.upstream.index_file("bytes1"))


def test_config_json_is_the_mirrors_own(upstream: Upstream, make_mirror: MakeMirror) -> None:
    mirror = make_mirror(upstream)

    assert mirror.http.get("/index/config.json").json() == {
        "dl": f"{mirror.url}/api/v1/crates",
        "api": mirror.url,
    }
    assert upstream.asked == []


def test_age_of_a_file_is_in_a_header(pair: Pair) -> None:
    pair.upstream.add("aged1", "1.0.0")

    assert pair.get("/lazy/index/ag/ed/aged1").headers["age"] == "0"
    time.sleep(1.2)
    assert pair.get("/lazy/index/ag/ed/aged1").headers["age"] in {"1", "2"}


def test_file_younger_than_max_age_is_served_without_asking(pair: Pair) -> None:
    pair.upstream.add("young", "1.0.0")
    for _ in range(5):
        pair.get("/lazy/index/yo/un/young").raise_for_status()

    assert len(pair.upstream.asked) == 1


def test_older_file_is_asked_for_with_its_validator(pair: Pair) -> None:
    pair.upstream.add("older", "1.0.0")
    first = pair.get("/index/ol/de/older")
    second = pair.get("/index/ol/de/older")

    assert [asked.headers.get("if-none-match") is not None for asked in pair.upstream.asked] == [False, True]
    assert first.content == second.content == pair.upstream.index_file("older")
    pair.upstream.add("older", "1.0.1")
    assert pair.get("/index/ol/de/older").content == pair.upstream.index_file("older")


def test_yank_upstream_is_seen_by_the_next_look(pair: Pair) -> None:
    pair.upstream.add("yanked", "1.0.0")
    pair.get("/index/ya/nk/yanked")
    pair.upstream.change("yanked", "1.0.0", yanked=True)

    assert pair.get("/index/ya/nk/yanked").json()["yanked"] is True


def test_slow_upstream_holds_a_stored_file_up_for_a_second_at_most(pair: Pair) -> None:
    pair.upstream.add("slow", "1.0.0")
    old = pair.get("/index/sl/ow/slow").content
    pair.upstream.add("slow", "1.0.1")
    pair.upstream.behaviour["/index/sl/ow/slow"] = after(2)

    began_at = time.monotonic()
    answer = pair.get("/index/sl/ow/slow")

    assert answer.content == old
    assert 0.9 < time.monotonic() - began_at < 1.8
    # The look-up went on meanwhile.
    del pair.upstream.behaviour["/index/sl/ow/slow"]
    until(lambda: pair.get("/index/sl/ow/slow").content == pair.upstream.index_file("slow"), 5)


@pytest.mark.parametrize("status", [404, 410, 451])
def test_what_upstream_does_not_have_is_404_and_asked_again_soon(pair: Pair, status: int) -> None:
    name = f"none{status}"
    path = f"/index/no/ne/{name}"
    pair.upstream.behaviour[path] = lambda handler: handler.answer(status, b"")

    assert [pair.get(f"/lazy{path}").status_code for _ in range(3)] == [404, 404, 404]
    assert len(pair.upstream.asked) == 1
    del pair.upstream.behaviour[path]
    pair.upstream.add(name, "1.0.0")
    until(lambda: pair.get(f"/lazy{path}").status_code == 200, 6)


def test_without_upstream_stored_files_are_served_and_others_are_503(
    upstream: Upstream, make_mirror: MakeMirror
) -> None:
    upstream.add("serde", "1.0.0")
    mirror = make_mirror(upstream, "max_age = 0")
    stored = mirror.http.get("/index/se/rd/serde").content
    upstream.stop()

    assert mirror.http.get("/index/se/rd/serde").content == stored
    missing = mirror.http.get("/index/to/ki/tokio")
    assert missing.status_code == 503
    assert 1 <= int(missing.headers["retry-after"]) <= 10
    assert "tokio" in missing.json()["errors"][0]["detail"]
    upstream.start()
    upstream.add("tokio", "1.0.0")
    until(lambda: mirror.http.get("/index/to/ki/tokio").status_code == 200, 10)


def test_failing_upstream_is_asked_with_pauses_however_many_ask_us(pair: Pair) -> None:
    pair.upstream.everywhere = lambda handler: handler.answer(500, b"oh")
    end = time.monotonic() + 3
    statuses = set()
    while time.monotonic() < end:
        statuses.add(pair.get("/index/fa/il/failing").status_code)

    assert statuses == {503}
    assert 2 <= len(pair.upstream.asked) <= 8


def test_workers_share_the_pauses(upstream: Upstream, make_mirror: MakeMirror) -> None:
    upstream.everywhere = lambda handler: handler.answer(500, b"oh")
    mirror = make_mirror(upstream, workers=2)
    end = time.monotonic() + 3
    while time.monotonic() < end:
        with httpx.Client(base_url=mirror.url, trust_env=False) as client:
            assert client.get("/index/se/rd/serde").status_code == 503

    assert 2 <= len(upstream.asked) <= 8


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_of_upstream_is_kept_and_passed_on(
    upstream: Upstream, make_mirror: MakeMirror, status: int
) -> None:
    upstream.add("serde", "1.0.0")
    upstream.everywhere = lambda handler: handler.answer(status, b"later", retry_after="3")
    mirror = make_mirror(upstream)
    first = mirror.http.get("/index/se/rd/serde")
    began_at = time.monotonic()

    assert (first.status_code, first.headers["retry-after"]) == (503, "3")
    upstream.everywhere = None
    until(lambda: mirror.http.get("/index/se/rd/serde").status_code == 200, 6)
    assert len(upstream.asked) == 2
    assert upstream.asked[1].at - began_at > 2.5


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html><html>login</html>",
        b"",
        b"\n\n",
        b'{"name":"other","vers":"1.0.0","deps":[],"cksum":"00"}\n',
        b'{"name":"serde","vers":"1.0.0","deps":[],"cksum":"00"}\n{"name":"ser',
        b"[]",
        b"\xff\xfe",
    ],
)
def test_what_is_no_index_file_with_status_200_is_a_failure(pair: Pair, data: bytes) -> None:
    pair.upstream.add("shape", "1.0.0")
    stored = pair.get("/index/sh/ap/shape").content
    pair.upstream.everywhere = lambda handler: handler.answer(200, data)

    assert pair.get("/index/sh/ap/shape").content == stored
    assert pair.get("/index/se/rd/serdf").status_code == 503


def test_cut_off_answer_is_a_failure(pair: Pair) -> None:
    pair.upstream.add("cutoff", "1.0.0")
    data = pair.upstream.index_file("cutoff")
    pair.upstream.behaviour["/index/cu/to/cutoff"] = lambda handler: handler.answer(
        200, data, cut=len(data) - 5
    )

    assert pair.get("/index/cu/to/cutoff").status_code == 503


def test_many_at_once_are_one_request(upstream: Upstream, make_mirror: MakeMirror) -> None:
    upstream.add("serde", "1.0.0")
    upstream.behaviour["/index/se/rd/serde"] = after(0.5)
    mirror = make_mirror(upstream, workers=2)

    def get(_: int) -> bytes:
        return httpx.get(f"{mirror.url}/index/se/rd/serde", trust_env=False).content

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(get, range(20))) == {upstream.index_file("serde")}
    assert len(upstream.asked) == 1


def test_different_crates_are_asked_for_at_the_same_time(upstream: Upstream, make_mirror: MakeMirror) -> None:
    names = [f"crate{number}" for number in range(16)]
    together = threading.Barrier(len(names))

    def wait(handler: Handler) -> bool:
        together.wait(10)
        return False

    for name in names:
        upstream.add(name, "1.0.0")
    upstream.everywhere = wait
    mirror = make_mirror(upstream)

    def get(name: str) -> int:
        return httpx.get(f"{mirror.url}/index/cr/at/{name}", trust_env=False, timeout=15).status_code

    with ThreadPoolExecutor(len(names)) as pool:
        assert set(pool.map(get, names)) == {200}


@pytest.mark.parametrize(
    "path",
    [
        "/index/se/rd/../../se/rd/serde",
        "/index/se/rd/Serde",
        "/index/SE/RD/SERDE",
        "/index/se/rd/serde/",
        "/index/se/rd/serde%00",
        "/index/se/rd/ser%64e",
        "/index/xx/yy/serde",
        "/index/serde",
        "/index//se/rd/serde",
        "/index/se/rd/serde?x=1/../..",
        "/index/1/se",
        "/index/",
        "/index/.upstream/x",
    ],
)
def test_odd_path_never_reaches_upstream(upstream: Upstream, make_mirror: MakeMirror, path: str) -> None:
    upstream.add("serde", "1.0.0")
    mirror = make_mirror(upstream)
    host, port = mirror.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port))
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()

    if path.partition("?")[0] != "/index/se/rd/serde":
        assert status == 404
        assert upstream.asked == []
    assert all(asked.path == "/index/se/rd/serde" for asked in upstream.asked)


def test_clients_credentials_and_headers_stay_here(pair: Pair) -> None:
    pair.upstream.add("creds", "1.0.0")
    headers = {"authorization": "crg_secret", "cookie": "a=b", "user-agent": "me", "x-other": "1"}
    pair.get("/index/cr/ed/creds", headers=headers).raise_for_status()

    (asked,) = pair.upstream.asked
    assert not {"authorization", "cookie", "x-other"} & asked.headers.keys()
    assert asked.headers["user-agent"].startswith("cargo-registry/")
    assert "ops@example.org" in asked.headers["user-agent"]


def test_restart_keeps_what_was_stored(upstream: Upstream, make_mirror: MakeMirror) -> None:
    upstream.add("serde", "1.0.0")
    mirror = make_mirror(upstream)
    mirror.http.get("/index/se/rd/serde").raise_for_status()
    mirror.stop()
    upstream.stop()

    answer = make_mirror(upstream).http.get("/index/se/rd/serde")

    assert answer.content == upstream.index_file("serde")
    upstream.start()


def test_refused_change_says_that_this_is_a_mirror(upstream: Upstream, make_mirror: MakeMirror) -> None:
    mirror = make_mirror(upstream)
    token = mirror.token("ada")
    for method, path in (
        ("PUT", "/api/v1/crates/new"),
        ("DELETE", "/api/v1/crates/serde/1.0.0/yank"),
        ("PUT", "/api/v1/crates/serde/1.0.0/unyank"),
        ("PUT", "/api/v1/crates/serde/owners"),
        ("DELETE", "/api/v1/crates/serde/owners"),
    ):
        for headers in ({}, {"authorization": token}):
            answer = mirror.http.request(method, path, headers=headers, json={"users": ["ada"]})
            assert answer.status_code == 403
            assert "is a mirror of" in answer.json()["errors"][0]["detail"]


def test_commands_that_change_crates_are_refused_too(
    upstream: Upstream, make_mirror: MakeMirror, tmp_path: Path
) -> None:
    (tmp_path / "serde.crate").write_bytes(upstream.add("serde", "1.0.0"))
    mirror = make_mirror(upstream)
    mirror.http.get("/api/v1/crates/serde/1.0.0/download").raise_for_status()
    mirror.user("ada", "--role", "admin")
    for command in (
        ("publish", tmp_path / "serde.crate", "--as", "ada"),
        ("crate", "yank", "serde@1.0.0"),
        ("owner", "add", "serde", "ada"),
    ):
        assert "mirror of" in mirror.cli(*command, fails=True).stderr, command
    assert mirror.http.get("/index/se/rd/serde").content == upstream.index_file("serde")
