"""Tarballs through a mirror: right or not at all, once for all who ask, and whole at the end."""

import hashlib
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.crates import crate_file
from tests.mirror.conftest import MakeMirror, Pair
from tests.mirror.nginx import Nginx
from tests.mirror.upstream import Handler, Upstream, after
from tests.programs import until

# Does not compress, so that it is as large on the wire.
LARGE = random.Random(8).randbytes(3_000_000)


def large(name: str) -> bytes:
    return crate_file(name, "1.0.0", files={"src/lib.rs": b"", "data": LARGE})


def path_of(name: str, vers: str = "1.0.0") -> str:
    return f"/crates/{name}/{vers}/download"


def test_tarball_is_fetched_once_and_then_there(pair: Pair) -> None:
    data = pair.upstream.add("once", "1.0.0")

    first, second = pair.download("once"), pair.download("once")

    assert first.content == second.content == data
    assert pair.upstream.count("/crates/") == 1
    assert first.headers["etag"] == second.headers["etag"] == f'"{hashlib.sha256(data).hexdigest()}"'


def test_name_in_any_spelling_finds_what_is_stored(pair: Pair) -> None:
    data = pair.upstream.add("Two-Parts", "1.0.0")
    pair.download("Two-Parts").raise_for_status()

    assert pair.download("two_parts").content == data


def test_large_tarball_streams_to_the_first_client_while_it_arrives(pair: Pair) -> None:
    data = pair.upstream.add("streams", "1.0.0", data=large("streams"))
    go_on = threading.Event()

    def halt(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("content-length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:1_000_000])
        go_on.wait(10)
        handler.wfile.write(data[1_000_000:])
        return True

    pair.upstream.behaviour[path_of("streams")] = halt
    url = f"{pair.mirror.url}/api/v1/crates/streams/1.0.0/download"
    with httpx.stream("GET", url, trust_env=False) as answer:
        pieces = answer.iter_raw()
        got = next(pieces)
        while len(got) < 500_000:
            got += next(pieces)
        assert not go_on.is_set()
        go_on.set()
        got += b"".join(pieces)
    assert got == data


def test_many_at_once_are_one_request(pair: Pair) -> None:
    data = pair.upstream.add("crowd", "1.0.0", data=large("crowd"))
    pair.upstream.behaviour[path_of("crowd")] = after(0.3)
    url = f"{pair.mirror.url}/api/v1/crates/crowd/1.0.0/download"

    with ThreadPoolExecutor(12) as pool:
        bodies = pool.map(lambda _: httpx.get(url, trust_env=False, timeout=20).content, range(12))
        assert all(body == data for body in bodies)
    assert pair.upstream.count("/crates/") == 1


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("how", ["other", "short", "long", "html"])
def test_wrong_tarball_is_never_a_good_answer_nor_stored_and_heals(pair: Pair, size: str, how: str) -> None:
    name = f"wrong-{size}-{how}"
    right = large(name) if size == "large" else crate_file(name, "1.0.0")
    pair.upstream.add(name, "1.0.0", data=right)
    wrong = {
        "other": right[:-1] + bytes([right[-1] ^ 1]),
        "short": right[:-1],
        "long": right + b"x",
        "html": b"<html>" + right[6:],
    }[how]
    pair.upstream.behaviour[path_of(name)] = lambda handler: handler.answer(200, wrong)
    try:
        assert pair.download(name).status_code == 503
    except httpx.RemoteProtocolError:
        assert size == "large"  # it had begun
    assert list(pair.mirror.data_dir.glob(f"crates_storage/**/{name}-*")) == []

    del pair.upstream.behaviour[path_of(name)]
    assert pair.download(name).content == right


def test_others_who_wait_for_a_wrong_tarball_get_none_of_it(pair: Pair) -> None:
    data = pair.upstream.add("poison", "1.0.0", data=large("poison"))

    def poison(handler: Handler) -> bool:
        time.sleep(0.3)
        return handler.answer(200, data[:-1] + b"!")

    pair.upstream.behaviour[path_of("poison")] = poison
    url = f"{pair.mirror.url}/api/v1/crates/poison/1.0.0/download"

    def get(_: int) -> str:
        try:
            return str(httpx.get(url, trust_env=False, timeout=20).status_code)
        except httpx.RemoteProtocolError:
            return "broken"

    with ThreadPoolExecutor(6) as pool:
        outcomes = sorted(pool.map(get, range(6)))
    assert outcomes.count("broken") <= outcomes.count("503")
    assert set(outcomes) <= {"503", "broken"}


def test_broken_transfer_is_taken_up_where_it_broke(pair: Pair) -> None:
    data = pair.upstream.add("resumed", "1.0.0", data=large("resumed"))
    asked: list[str | None] = []

    def cut_once(handler: Handler) -> bool:
        asked.append(handler.headers.get("range"))
        return len(asked) == 1 and handler.answer(200, data, cut=1_000_000)

    pair.upstream.behaviour[path_of("resumed")] = cut_once

    assert pair.download("resumed").content == data
    assert asked[0] is None
    assert asked[1] is not None
    assert 0 < int(asked[1].removeprefix("bytes=").rstrip("-")) <= 1_000_000


def test_upstream_without_ranges_is_asked_for_the_whole_again(pair: Pair) -> None:
    data = pair.upstream.add("noranges", "1.0.0", data=large("noranges"))
    asked = []

    def cut_once(handler: Handler) -> bool:
        asked.append(1)
        return handler.answer(200, data, cut=1_000_000 if len(asked) == 1 else None)

    pair.upstream.behaviour[path_of("noranges")] = cut_once

    assert pair.download("noranges").content == data


def test_transfer_that_keeps_breaking_ends_broken(pair: Pair) -> None:
    data = pair.upstream.add("breaks", "1.0.0", data=large("breaks"))
    pair.upstream.behaviour[path_of("breaks")] = lambda handler: handler.answer(200, data, cut=400_000)

    with pytest.raises(httpx.RemoteProtocolError):
        pair.download("breaks")
    del pair.upstream.behaviour[path_of("breaks")]
    assert pair.download("breaks").content == data


def test_client_that_hangs_up_does_not_stop_the_transfer(pair: Pair) -> None:
    data = pair.upstream.add("hangs-up", "1.0.0", data=large("hangs-up"))
    go_on = threading.Event()

    def halt(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("content-length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:1_000_000])
        go_on.wait(10)
        handler.wfile.write(data[1_000_000:])
        return True

    pair.upstream.behaviour[path_of("hangs-up")] = halt
    with httpx.stream(
        "GET", f"{pair.mirror.url}/api/v1/crates/hangs-up/1.0.0/download", trust_env=False
    ) as answer:
        next(answer.iter_raw())
    go_on.set()

    assert pair.download("hangs-up").content == data
    assert pair.upstream.count("/crates/") == 1


def test_head_of_what_is_not_stored_tells_its_length(pair: Pair) -> None:
    data = pair.upstream.add("headed", "1.0.0")
    answer = pair.mirror.http.head("/api/v1/crates/headed/1.0.0/download")

    assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(data)))
    assert pair.download("headed").content == data
    assert pair.upstream.count("/crates/") == 1


def test_range_of_what_is_not_stored(pair: Pair) -> None:
    data = pair.upstream.add("ranged", "1.0.0")
    answer = pair.download("ranged", headers={"range": "bytes=10-19"})

    assert (answer.status_code, answer.content) == (206, data[10:20])
    assert answer.headers["content-range"] == f"bytes 10-19/{len(data)}"


def test_tarball_that_upstream_lost_is_404(pair: Pair) -> None:
    pair.upstream.add("lost", "1.0.0")
    del pair.upstream.files[path_of("lost")]

    assert pair.download("lost").status_code == 404


@pytest.mark.parametrize(
    ("name", "vers"),
    [
        ("serde", "..%2f..%2fetc"),
        ("..%2f..", "1.0.0"),
        ("serde", "not-a-version"),
        ("%00", "1.0.0"),
        ("serde%20", "1.0.0"),
    ],
)
def test_odd_download_never_reaches_upstream(pair: Pair, name: str, vers: str) -> None:
    assert pair.download(name, vers).status_code == 404
    assert pair.upstream.asked == []


def test_failing_upstream_is_left_alone_between_tries(pair: Pair) -> None:
    pair.upstream.add("flaky", "1.0.0")
    pair.get("/lazy/index/fl/ak/flaky")
    pair.upstream.behaviour[path_of("flaky")] = lambda handler: handler.answer(500, b"")
    end = time.monotonic() + 3
    while time.monotonic() < end:
        assert pair.get("/lazy/api/v1/crates/flaky/1.0.0/download").status_code == 503

    assert 2 <= pair.upstream.count("/crates/flaky") <= 6
    del pair.upstream.behaviour[path_of("flaky")]
    until(lambda: pair.get("/lazy/api/v1/crates/flaky/1.0.0/download").status_code == 200, 10)


def test_stored_tarball_that_is_cut_on_our_disk_is_fetched_again(pair: Pair) -> None:
    data = pair.upstream.add("damaged", "1.0.0")
    pair.download("damaged").raise_for_status()
    (file,) = pair.mirror.data_dir.glob("crates_storage/eager/da/ma/damaged/*.crate")
    file.write_bytes(data[:-5])

    assert pair.download("damaged").content == data
    file.unlink()
    assert pair.download("damaged").content == data


def test_search_finds_what_is_stored_at_once(pair: Pair) -> None:
    manifest = '[package]\nname = "findable"\nversion = "1.0.0"\ndescription = "A peculiar thing"\n'
    pair.upstream.add("findable", "1.0.0", data=crate_file("findable", "1.0.0", manifest=manifest))
    assert pair.get("/api/v1/crates?q=peculiar").json()["crates"] == []
    pair.download("findable").raise_for_status()

    (found,) = pair.get("/api/v1/crates?q=peculiar").json()["crates"]
    assert (found["name"], found["max_version"]) == ("findable", "1.0.0")
    assert pair.get("/api/v1/crates/findable").json()["crate"]["description"] == "A peculiar thing"


@pytest.mark.parametrize(
    "dl",
    [
        "{url}/files/{crate}/{version}.crate",
        "{url}/files/{prefix}/{crate}-{version}",
        "{url}/files/{lowerprefix}/{crate}-{version}?sum={sha256-checksum}",
        "{url}/files",
    ],
)
def test_dl_template_is_filled_as_cargo_does(upstream: Upstream, make_mirror: MakeMirror, dl: str) -> None:
    data = upstream.add("Serde", "1.0.0+build")
    upstream.dl = dl.replace("{url}", upstream.url)
    cksum = hashlib.sha256(data).hexdigest()
    path = {
        "{url}/files/{crate}/{version}.crate": "/files/Serde/1.0.0+build.crate",
        "{url}/files/{prefix}/{crate}-{version}": "/files/Se/rd/Serde-1.0.0+build",
        "{url}/files/{lowerprefix}/{crate}-{version}?sum={sha256-checksum}": (
            f"/files/se/rd/Serde-1.0.0+build?sum={cksum}"
        ),
        "{url}/files": "/files/Serde/1.0.0+build/download",
    }[dl]
    upstream.files[path] = data

    mirror = make_mirror(upstream)

    assert mirror.http.get("/api/v1/crates/Serde/1.0.0+build/download").content == data


def test_token_goes_to_upstreams_own_origin_only(make_mirror: MakeMirror) -> None:
    with Upstream(token="upstream-secret") as upstream, Upstream() as files:
        data = upstream.add("serde", "1.0.0")
        upstream.behaviour[path_of("serde")] = lambda handler: handler.answer(
            302, b"", location=f"{files.url}{path_of('serde')}"
        )
        files.files[path_of("serde")] = data
        mirror = make_mirror(upstream, 'upstream_token = "upstream-secret"')
        client = {"authorization": "the-clients-own"}

        assert mirror.http.get("/index/se/rd/serde", headers=client).status_code == 200
        assert mirror.http.get("/api/v1/crates/serde/1.0.0/download", headers=client).content == data
        assert {asked.headers.get("authorization") for asked in upstream.asked} == {"upstream-secret"}
        assert [asked.headers.get("authorization") for asked in files.asked] == [None]


def test_proxy_is_used(make_mirror: MakeMirror) -> None:
    with Upstream() as proxy:
        # A proxy sees the whole URL as the path.
        proxy.files["http://crates.invalid/index/se/rd/serde"] = (
            b'{"name":"serde","vers":"1.0.0","deps":[],"cksum":"' + b"0" * 64 + b'"}\n'
        )
        mirror = make_mirror("sparse+http://crates.invalid/index/", f'upstream_proxy = "{proxy.url}"')

        assert mirror.http.get("/index/se/rd/serde").status_code == 200


def test_https_upstream_of_an_authority_of_ones_own_over_http2(
    tmp_path: Path, data: Path, make_mirror: MakeMirror
) -> None:
    with Nginx(tmp_path / "nginx", data, tls=True) as upstream:
        settings = f'upstream_ca = "{tmp_path}/nginx/ca.pem"'
        mirror = make_mirror(upstream.index_url, settings)

        answer = mirror.http.get("/index/se/rd/serde")

        assert answer.content == (data / "index/se/rd/serde").read_bytes()
        vers = answer.json()["vers"]
        tarball = mirror.http.get(f"/api/v1/crates/serde/{vers}/download").content
        assert tarball == (data / f"crates/serde-{vers}.crate").read_bytes()
        assert upstream.protocols() == {"HTTP/2.0"}


def test_https_upstream_that_nobody_vouches_for_is_not_believed(
    tmp_path: Path, data: Path, make_mirror: MakeMirror
) -> None:
    with Nginx(tmp_path / "nginx", data, tls=True) as upstream:
        mirror = make_mirror(upstream.index_url)

        assert mirror.http.get("/index/se/rd/serde").status_code == 503
        assert upstream.protocols() == set()
