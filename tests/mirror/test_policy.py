"""What a mirror serves: rules of the configuration, exceptions by command, and what they say for themselves."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.crates import crate_file
from tests.mirror.conftest import MakeMirror
from tests.mirror.upstream import Upstream, after, index_path
from tests.programs import Server, until


def versions(mirror: Server, name: str) -> list[str]:
    """Return the versions in the index file that is served, none for 404."""
    answer = mirror.http.get(index_path(name))
    if answer.status_code == 404:
        return []
    assert answer.status_code == 200
    return [json.loads(line)["vers"] for line in answer.content.splitlines()]


def ago(**time: float) -> str:
    return (datetime.now(UTC) - timedelta(**time)).strftime("%Y-%m-%dT%H:%M:%SZ")


def detail(mirror: Server, name: str, vers: str) -> tuple[int, str]:
    answer = mirror.http.get(f"/api/v1/crates/{name}/{vers}/download")
    return answer.status_code, answer.json()["errors"][0]["detail"]


def test_denied_versions_are_not_in_the_file_and_their_download_says_why(
    upstream: Upstream, make_mirror: MakeMirror
) -> None:
    for vers in ("0.2.22", "0.2.23", "0.2.0-beta.1"):
        upstream.add("time", vers)
    upstream.add("evil-one", "1.0.0")
    upstream.add("good", "1.0.0")
    mirror = make_mirror(upstream, 'contact = "the platform team"', 'deny = ["evil-*", "time@<0.2.23"]')

    assert versions(mirror, "time") == ["0.2.23"]
    assert versions(mirror, "good") == ["1.0.0"]
    assert versions(mirror, "evil-one") == []
    for name, vers in (
        ("time", "0.2.22"),
        ("time", "0.2.0-beta.1"),
        ("evil-one", "1.0.0"),
        ("evil_one", "1.0.0"),
    ):
        status, why = detail(mirror, name, vers)
        assert status == 403
        assert "`deny`" in why
        assert "the platform team" in why
    # A name that is denied as a whole is no business of upstream's.
    assert upstream.count("evil") == 0
    assert mirror.http.get("/api/v1/crates/time/9.9.9/download").status_code == 404

    explained = mirror.cli("mirror", "explain", "time@0.2.22", "--json")
    assert json.loads(explained.stdout) | {"why": ""} == {
        "crate": "time",
        "vers": "0.2.22",
        "known": True,
        "served": False,
        "rule": "deny",
        "why": "",
        "until": None,
    }
    assert "is served" in mirror.cli("mirror", "explain", "good@1.0.0").stdout


def test_with_an_allow_list_nothing_else_is_served_nor_asked_for(
    upstream: Upstream, make_mirror: MakeMirror
) -> None:
    for name, vers in (("serde", "1.0.0"), ("serde_json", "1.0.0"), ("tokio", "1.0.0"), ("tokio", "2.0.0")):
        upstream.add(name, vers)
    upstream.add("tokio", "1.1.0-alpha")
    upstream.add("other", "1.0.0")
    mirror = make_mirror(upstream, "", 'allow = ["serde", "serde_*", "tokio@1"]')

    assert versions(mirror, "serde") == versions(mirror, "serde_json") == ["1.0.0"]
    assert versions(mirror, "tokio") == ["1.0.0"]
    assert versions(mirror, "other") == []
    assert detail(mirror, "other", "1.0.0")[0] == 403
    assert upstream.count("other") == 0


def test_internal_names_never_go_upstream_and_raise_an_alarm(
    upstream: Upstream, make_mirror: MakeMirror
) -> None:
    dep = {"name": "acme-core", "req": "^1", "features": [], "optional": False, "default_features": True}
    upstream.add("acme-core", "99.0.0")
    upstream.add("confused", "1.0.0", deps=[dep | {"target": None, "kind": "normal"}])
    mirror = make_mirror(upstream, "", 'internal = ["acme-*"]')

    assert versions(mirror, "acme-core") == []
    assert detail(mirror, "ACME_core", "99.0.0")[0] == 403
    assert upstream.asked == []
    # Somebody outside uses the name.
    assert versions(mirror, "confused") == ["1.0.0"]
    (alarm,) = json.loads(mirror.cli("mirror", "status", "--json").stdout)["alarms"]
    assert (alarm["kind"], alarm["name"]) == ("internal-name", "acme-core")
    assert "confused@1.0.0" in alarm["detail"]


def test_upstream_crate_with_the_name_of_one_of_ours_raises_an_alarm(
    upstream: Upstream, make_mirror: MakeMirror, tmp_path: Path
) -> None:
    upstream.add("our_own", "1.0.0")
    mirror = make_mirror(upstream, more="[registries.main]")
    (tmp_path / "our-own.crate").write_bytes(upstream.add("our-own", "1.0.0"))
    mirror.user("ada")
    mirror.cli("publish", tmp_path / "our-own.crate", "--registry", "main", "--as", "ada")

    upstream.add("later", "1.0.0")
    (tmp_path / "later.crate").write_bytes(crate_file("Later", "1.0.0"))
    versions(mirror, "our_own")
    versions(mirror, "later")
    (alarm,) = json.loads(mirror.cli("mirror", "status", "--json").stdout)["alarms"]
    assert (alarm["kind"], alarm["name"]) == ("internal-name", "our_own")
    # Published here after the mirror has seen it.
    mirror.cli("publish", tmp_path / "later.crate", "--registry", "main", "--as", "ada")
    alarms = json.loads(mirror.cli("mirror", "status", "--json").stdout)["alarms"]
    assert [alarm["name"] for alarm in alarms] == ["our_own", "Later"]


def test_young_version_is_served_when_it_is_of_age(upstream: Upstream, make_mirror: MakeMirror) -> None:
    upstream.add("serde", "1.0.0", pubtime=ago(days=9))
    upstream.add("serde", "1.0.1", pubtime=ago(seconds=5))
    upstream.add("serde", "1.0.2", pubtime=ago(seconds=0))
    upstream.add("serde", "1.0.3", pubtime=None)
    upstream.add("trusted", "1.0.0", pubtime=ago(seconds=0))
    mirror = make_mirror(upstream, "max_age = 3600", 'min_age = 12\nmin_age_exempt = ["trusted"]')

    assert versions(mirror, "trusted") == ["1.0.0"]
    assert versions(mirror, "serde") == ["1.0.0"]
    status, why = detail(mirror, "serde", "1.0.2")
    assert status == 403
    assert "`min_age`" in why
    until(lambda: versions(mirror, "serde") == ["1.0.0", "1.0.1", "1.0.2", "1.0.3"], 20)
    assert mirror.http.get(index_path("serde")).content == upstream.index_file("serde")
    assert upstream.count("/se/rd/serde") == 1


def test_pubtime_that_is_not_trusted_counts_from_when_a_version_was_first_seen(
    upstream: Upstream, make_mirror: MakeMirror
) -> None:
    upstream.add("serde", "1.0.0", pubtime=ago(days=9))
    mirror = make_mirror(upstream, "max_age = 0", "min_age = 3600\ntrust_pubtime = false")
    # What was there when the crate was first seen is believed to be as old as it says.
    assert versions(mirror, "serde") == ["1.0.0"]
    upstream.add("serde", "1.0.1", pubtime=ago(days=8))

    assert versions(mirror, "serde") == ["1.0.0"]
    assert detail(mirror, "serde", "1.0.1")[0] == 403
    # And if the rule is lifted, it is there.
    mirror.stop()
    assert versions(make_mirror(upstream, "max_age = 0"), "serde") == ["1.0.0", "1.0.1"]


def test_exceptions_by_command_hold_at_once_until_they_end(
    upstream: Upstream, make_mirror: MakeMirror
) -> None:
    upstream.add("serde", "1.0.0", pubtime=ago(days=9))
    upstream.add("serde", "1.0.1", pubtime=ago(minutes=1))
    upstream.add("evil", "1.0.0")
    mirror = make_mirror(upstream, "", 'min_age = 3600\ndeny = ["evil"]')
    assert versions(mirror, "serde") == ["1.0.0"]

    mirror.cli("mirror", "allow", "serde@=1.0.1", "--reason", "fixes CVE-2026-1", "--until", "30d")
    assert versions(mirror, "serde") == ["1.0.0", "1.0.1"]
    assert "fixes CVE-2026-1" in mirror.cli("mirror", "explain", "serde@1.0.1").stdout
    mirror.cli("mirror", "deny", "serde@<1.0.1", "--reason", "we do not want it")
    assert versions(mirror, "serde") == ["1.0.1"]
    status, why = detail(mirror, "serde", "1.0.0")
    assert (status, "we do not want it" in why) == (403, True)
    mirror.cli("mirror", "allow", "evil", "--reason", "not that evil")
    until(lambda: versions(mirror, "evil") == ["1.0.0"], 5)

    listed = json.loads(mirror.cli("mirror", "rulings", "--json").stdout)
    assert [(each["kind"], each["crate"]) for each in listed] == [
        ("allow", "serde@=1.0.1"),
        ("deny", "serde@<1.0.1"),
        ("allow", "evil"),
    ]
    mirror.cli("mirror", "revoke", str(listed[1]["id"]))
    assert versions(mirror, "serde") == ["1.0.0", "1.0.1"]
    soon = (datetime.now(UTC) + timedelta(seconds=4)).strftime("%Y-%m-%dT%H:%M:%S")
    mirror.cli("mirror", "deny", "serde", "--reason", "for a moment", "--until", soon)
    assert versions(mirror, "serde") == []
    until(lambda: versions(mirror, "serde") == ["1.0.0", "1.0.1"], 40)

    actions = [event["action"] for event in json.loads(mirror.cli("audit", "--json").stdout)]
    assert [action for action in actions if action.startswith("mirror-")] == [
        "mirror-allow",
        "mirror-deny",
        "mirror-allow",
        "mirror-revoke",
        "mirror-deny",
    ]


@pytest.mark.parametrize(
    ("settings", "policy", "said"),
    [
        ("max_age = -1", "", "`registries.crates-io.max_age` is `-1` but must be a whole number of seconds"),
        ('upstream = "https://a/"', "", "`registries.crates-io.upstream`"),
        ("", 'deny = ["a@nonsense"]', "`registries.crates-io.policy.deny`: "),
        ("", 'internal = ["a@1"]', "`registries.crates-io.policy.internal`"),
        ("", 'missing_license = "refuse"', "is for registries of the kind `local`"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(
    tmp_path: Path, make_mirror: MakeMirror, settings: str, policy: str, said: str
) -> None:
    upstream = 'upstream = "sparse+http://127.0.0.1:1/"\n' if "upstream" not in settings else ""
    (tmp_path / "config.toml").write_text(
        f'[registries.crates-io]\nkind = "mirror"\n{upstream}{settings}\n[registries.crates-io.policy]\n{policy}\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "cargo_registry", "mirror", "status"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert said in done.stderr


def test_new_rule_holds_from_the_first_request_on_though_upstream_does_not_answer(
    upstream: Upstream, make_mirror: MakeMirror
) -> None:
    for name in ("indexed", "fetched"):
        upstream.add(name, "1.0.0")
        upstream.add(name, "1.0.1")
    mirror = make_mirror(upstream, "max_age = 0")
    for name in ("indexed", "fetched"):
        mirror.http.get(f"/api/v1/crates/{name}/1.0.0/download").raise_for_status()
    mirror.stop()
    upstream.everywhere = after(5)
    mirror = make_mirror(upstream, "max_age = 0", 'deny = ["*@=1.0.0"]')

    assert versions(mirror, "indexed") == ["1.0.1"]
    assert detail(mirror, "fetched", "1.0.0")[0] == 403
    upstream.everywhere = None
