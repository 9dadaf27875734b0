"""What upstream takes away or changes: kept, not served, audited, and known who has it."""

import json

import pytest

from tests.mirror.conftest import MakeMirror
from tests.mirror.test_policy import detail, versions
from tests.mirror.upstream import Upstream
from tests.programs import Server


def actions(mirror: Server) -> list[tuple[str, str, str | None]]:
    events = json.loads(mirror.cli("audit", "--json").stdout)
    return [
        (event["action"], event["crate"], event["vers"])
        for event in events
        if event["action"].startswith("mirror-")
    ]


def test_version_that_vanishes_is_kept_and_not_served_and_comes_back(
    upstream: Upstream, make_mirror: MakeMirror
) -> None:
    data = upstream.add("serde", "1.0.0")
    upstream.add("serde", "1.0.1")
    mirror = make_mirror(upstream, "max_age = 0")
    token = mirror.token("ada")
    url = "/api/v1/crates/serde/1.0.0/download"
    mirror.http.get(url, headers={"authorization": token}).raise_for_status()
    mirror.http.get(url).raise_for_status()
    lines = dict(upstream.lines["serde"])
    upstream.remove("serde", "1.0.0")

    assert versions(mirror, "serde") == ["1.0.1"]
    status, why = detail(mirror, "serde", "1.0.0")
    assert (status, "`vanished`" in why) == (403, True)
    assert actions(mirror) == [("mirror-vanished", "serde", "1.0.0")]
    assert len(list(mirror.data_dir.glob("crates_storage/crates-io/se/rd/serde/*1.0.0*"))) == 1
    (found,) = json.loads(mirror.cli("mirror", "report", "--json").stdout)
    assert (found["crate"], found["vers"]) == ("serde", "1.0.0")
    assert {by["who"]: by["downloads"] for by in found["downloads"]} == {"ada": 1, "127.0.0.1": 1}

    upstream.lines["serde"] = lines
    upstream.files["/crates/serde/1.0.0/download"] = data
    upstream.write("serde")
    assert versions(mirror, "serde") == ["1.0.0", "1.0.1"]
    assert mirror.http.get(url).content == data
    assert json.loads(mirror.cli("mirror", "report", "--json").stdout) == []


@pytest.mark.parametrize("status", [404, 410, 451])
def test_crate_that_vanishes_is_404_with_all_its_versions_kept(
    upstream: Upstream, make_mirror: MakeMirror, status: int
) -> None:
    upstream.add("gone", "1.0.0")
    mirror = make_mirror(upstream, "max_age = 0")
    mirror.http.get("/api/v1/crates/gone/1.0.0/download").raise_for_status()
    upstream.behaviour["/index/go/ne/gone"] = lambda handler: handler.answer(status, b"")

    assert versions(mirror, "gone") == []
    assert detail(mirror, "gone", "1.0.0")[0] == 403
    del upstream.behaviour["/index/go/ne/gone"]
    assert versions(mirror, "gone") == ["1.0.0"]


def test_operator_may_go_on_serving_what_vanished(upstream: Upstream, make_mirror: MakeMirror) -> None:
    data = upstream.add("left-pad", "1.0.0")
    upstream.add("other", "1.0.0")
    mirror = make_mirror(upstream, "max_age = 0", 'vanished = "serve"')
    line = upstream.index_file("left-pad")
    mirror.http.get("/api/v1/crates/left-pad/1.0.0/download").raise_for_status()
    upstream.remove("left-pad")

    assert mirror.http.get("/index/le/ft/left-pad").content == line
    assert mirror.http.get("/api/v1/crates/left-pad/1.0.0/download").content == data
    assert actions(mirror) == [("mirror-vanished", "left-pad", "1.0.0")]


def test_changed_checksum_is_an_alarm_and_never_accepted(upstream: Upstream, make_mirror: MakeMirror) -> None:
    data = upstream.add("serde", "1.0.0")
    upstream.add("later", "1.0.0")
    mirror = make_mirror(upstream, "max_age = 0")
    before = mirror.http.get("/index/se/rd/serde").content
    mirror.http.get("/api/v1/crates/serde/1.0.0/download").raise_for_status()
    later = mirror.http.get("/index/la/te/later").content
    for name in ("serde", "later"):
        upstream.add(name, "1.0.0", data=b"other bytes")
        upstream.add(name, "1.0.1")

    lines = mirror.http.get("/index/se/rd/serde").content.splitlines(keepends=True)
    assert lines[0] == before
    assert json.loads(lines[1])["vers"] == "1.0.1"
    assert mirror.http.get("/api/v1/crates/serde/1.0.0/download").content == data
    # Not stored before: what upstream has now is not what the line promises.
    assert mirror.http.get("/index/la/te/later").content.startswith(later)
    assert mirror.http.get("/api/v1/crates/later/1.0.0/download").status_code == 503
    assert ("mirror-cksum-alarm", "serde", "1.0.0") in actions(mirror)
    assert "cksum" in mirror.stderr()
    # A yank still holds, and once is enough for the alarm.
    upstream.change("serde", "1.0.0", yanked=True)
    assert json.loads(mirror.http.get("/index/se/rd/serde").content.splitlines()[0])["yanked"] is True
    assert actions(mirror).count(("mirror-cksum-alarm", "serde", "1.0.0")) == 1
    found = {each["crate"]: each for each in json.loads(mirror.cli("mirror", "report", "--json").stdout)}
    assert found["serde"]["cksum"] != found["serde"]["cksum_upstream"]


def test_change_between_index_and_download_is_noticed(upstream: Upstream, make_mirror: MakeMirror) -> None:
    upstream.add("serde", "1.0.0")
    mirror = make_mirror(upstream)
    mirror.http.get("/index/se/rd/serde").raise_for_status()
    upstream.files["/crates/serde/1.0.0/download"] = b"something else"

    assert mirror.http.get("/api/v1/crates/serde/1.0.0/download").status_code == 503
    assert list(mirror.data_dir.glob("crates_storage/crates-io/**/*.crate")) == []


def test_offline_only_what_is_stored_is_shown_and_nothing_is_asked(
    upstream: Upstream, make_mirror: MakeMirror
) -> None:
    for vers in ("1.0.0", "1.0.1"):
        upstream.add("serde", vers)
    upstream.add("other", "1.0.0")
    mirror = make_mirror(upstream)
    data = mirror.http.get("/api/v1/crates/serde/1.0.0/download").content
    assert versions(mirror, "other") == ["1.0.0"]
    mirror.stop()
    upstream.asked.clear()
    mirror = make_mirror(upstream, "offline = true")

    assert versions(mirror, "serde") == ["1.0.0"]
    assert versions(mirror, "other") == []
    assert versions(mirror, "unknown") == []
    assert mirror.http.get("/api/v1/crates/serde/1.0.0/download").content == data
    assert mirror.http.get("/api/v1/crates/serde/1.0.1/download").status_code in {403, 404}
    assert upstream.asked == []
