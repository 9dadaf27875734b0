"""The reading side of crates.io's API: shapes, envelopes and what the tools around cargo make of them.

Shapes: crates.io's own types (crates_io_api_types), as `docs` of the project sum them up. What Renovate,
cargo-binstall and the others read was taken from their sources.
"""

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.crates import crate_file, metadata, publish_body
from tests.programs import Server, until
from tests.web.conftest import SITE, Answer, ask, published

README = """# Title

<script>alert(1)</script><style>a{}</style><iframe src="https://evil.example"></iframe>
<img src=x onerror="alert(1)"> <a href="javascript:alert(1)">one</a> [two](javascript:alert(1))
[three](data:text/html,x) [four](https://example.org) **bold** <form><input></form> <svg onload=alert(1)>
<a href="vbscript:x" style="position:fixed">five</a> <base href="https://evil.example"> <b onclick=x>six</b>

| a | b |
|---|---|
| 1 | ~~2~~ |
"""

MANIFEST = """[package]
name = "sums"
version = "{vers}"
edition = "2021"
rust-version = "1.70"
description = "Adds numbers"
license = "MIT"
homepage = "https://example.org"
documentation = "https://docs.example.org"
repository = "https://git.example.org/sums"
keywords = ["math", "add"]
categories = ["mathematics"]
links = "sums"
[features]
default = ["std"]
std = []
weak = ["big?/std"]
[dependencies]
log = "0.4"
[dependencies.big]
version = "1.2"
optional = true
default-features = false
features = ["x"]
package = "num-big"
registry-index = "{index}"
[target.'cfg(unix)'.build-dependencies]
cc = "1"
[[bin]]
name = "adder"
path = "src/main.rs"
"""
CRATES_IO = "https://github.com/rust-lang/crates.io-index"


def sums(server: Server, vers: str) -> bytes:
    """Return the publish of a crate that has everything."""
    deps: list[dict[str, Any]] = [
        {
            "name": "num-big",
            "version_req": "^1.2",
            "optional": True,
            "default_features": False,
            "features": ["x"],
            "explicit_name_in_toml": "big",
        },
        {"name": "log", "version_req": "^0.4", "registry": CRATES_IO},
        {"name": "cc", "version_req": "^1", "registry": CRATES_IO, "kind": "build", "target": "cfg(unix)"},
    ]
    more = {"links": "sums", "rust_version": "1.70"}
    features = {"default": ["std"], "std": [], "weak": ["big?/std"]}
    files = {"src/lib.rs": b"", "src/main.rs": b"", "README.md": README.encode()}
    manifest = MANIFEST.format(vers=vers, index=server.index_url())
    return publish_body(
        metadata("sums", vers, deps=deps, features=features, **more),
        crate_file("sums", vers, manifest=manifest, files=files),
    )


def depending(server: Server, name: str, vers: str, lines: str, deps: list[dict[str, Any]]) -> None:
    """Publish a crate with dependencies, written as `{index}` where they are in this registry."""
    manifest = f'[package]\nname = "{name}"\nversion = "{vers}"\n{lines}'.replace(
        "{index}", server.index_url()
    )
    published(
        server,
        server.token("alice"),
        name,
        vers,
        body=publish_body(metadata(name, vers, deps=deps), crate_file(name, vers, manifest=manifest)),
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with `sums` in five versions, the crates that it needs and those that need it."""
    with Server(tmp_path_factory.mktemp("lookups"), SITE) as server:
        alice = server.token("alice")
        server.user("bob")
        server.cli("team", "add", "adders", "bob")
        published(server, alice, "num-big", "1.2.0")
        for vers in ("1.0.0", "1.2.0", "2.0.0-rc.1", "1.1.5", "1.10.0"):
            published(server, alice, "sums", body=sums(server, vers))
        body = json.dumps({"users": ["team:adders"]}).encode()
        assert ask(server, "/api/v1/crates/sums/owners", method="PUT", body=body, token=alice).status == 200
        assert ask(server, "/api/v1/crates/sums/1.10.0/yank", method="DELETE", token=alice).status == 200
        published(server, alice, "hidden", base="/secret")
        yield server


def get(server: Server, target: str) -> Any:
    answer = ask(server, target)
    assert answer.status == 200, answer.body
    return answer.json()


def is_time(value: object) -> bool:
    return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None


CRATE = {
    "id": "sums",
    "name": "sums",
    "keywords": ["math", "add"],
    "categories": ["mathematics"],
    "badges": [],
    "downloads": 0,
    "recent_downloads": 0,
    "default_version": "1.2.0",
    "num_versions": 5,
    "yanked": False,
    "max_version": "2.0.0-rc.1",
    # The last published that is not yanked.
    "newest_version": "1.1.5",
    "max_stable_version": "1.2.0",
    "description": "Adds numbers",
    "homepage": "https://example.org",
    "documentation": "https://docs.example.org",
    "repository": "https://git.example.org/sums",
    "links": {
        "version_downloads": "/api/v1/crates/sums/downloads",
        "versions": "/api/v1/crates/sums/versions",
        "owners": "/api/v1/crates/sums/owners",
        "owner_team": "/api/v1/crates/sums/owner_team",
        "owner_user": "/api/v1/crates/sums/owner_user",
        "reverse_dependencies": "/api/v1/crates/sums/reverse_dependencies",
    },
    "exact_match": False,
    "trustpub_only": False,
}
VERSION = {
    "crate": "sums",
    "num": "1.2.0",
    "dl_path": "/api/v1/crates/sums/1.2.0/download",
    "readme_path": "/api/v1/crates/sums/1.2.0/readme",
    "downloads": 0,
    "features": {"default": ["std"], "std": [], "weak": ["big?/std"]},
    "yanked": False,
    "yank_message": None,
    "lib_links": "sums",
    "license": "MIT",
    "links": {
        "dependencies": "/api/v1/crates/sums/1.2.0/dependencies",
        "version_downloads": "/api/v1/crates/sums/1.2.0/downloads",
        "authors": "/api/v1/crates/sums/1.2.0/authors",
    },
    "audit_actions": [],
    "rust_version": "1.70",
    "has_lib": True,
    "bin_names": ["adder"],
    "edition": "2021",
    "description": "Adds numbers",
    "homepage": "https://example.org",
    "documentation": "https://docs.example.org",
    "repository": "https://git.example.org/sums",
    "trustpub_data": None,
    "linecounts": None,
}


def check_crate(crate: dict[str, Any]) -> None:
    assert is_time(crate.pop("created_at"))
    assert is_time(crate.pop("updated_at"))
    crate.pop("versions")
    assert crate == CRATE


def check_version(version: dict[str, Any]) -> None:
    assert is_time(version.pop("created_at"))
    assert is_time(version.pop("updated_at"))
    assert isinstance(version.pop("id"), int)
    assert version.pop("crate_size") > 100
    assert re.fullmatch("[0-9a-f]{64}", version.pop("checksum"))
    by = version.pop("published_by")
    assert isinstance(by.pop("id"), int)
    assert by == {"login": "alice", "name": None, "url": None, "avatar": None}
    assert version == VERSION


# --- A crate ---


def test_crate_has_every_key_of_crates_io(server: Server) -> None:
    found = get(server, "/api/v1/crates/sums")
    assert list(found) == ["crate", "versions", "keywords", "categories"]
    assert found["crate"]["versions"] == [version["id"] for version in found["versions"]]
    check_crate(found["crate"])
    assert [version["num"] for version in found["versions"]] == [
        "1.10.0",
        "1.1.5",
        "2.0.0-rc.1",
        "1.2.0",
        "1.0.0",
    ]
    check_version(next(version for version in found["versions"] if version["num"] == "1.2.0"))
    (math, add), (category,) = found["keywords"], found["categories"]
    assert is_time(math.pop("created_at"))
    assert math == {"id": "math", "keyword": "math", "crates_cnt": 1}
    assert add["keyword"] == "add"
    assert is_time(category.pop("created_at"))
    assert category == {
        "id": "mathematics",
        "category": "mathematics",
        "slug": "mathematics",
        "description": "",
        "crates_cnt": 1,
    }


@pytest.mark.parametrize(
    ("include", "parts"),
    [
        ("", []),
        ("versions", ["versions"]),
        ("keywords,categories", ["keywords", "categories"]),
        ("full", ["versions", "keywords", "categories"]),
        ("downloads,badges,default_version", []),
        ("nonsense", []),
    ],
)
def test_include_says_what_comes_along(server: Server, include: str, parts: list[str]) -> None:
    found = get(server, f"/api/v1/crates/sums?include={include}")
    assert [key for key in ("versions", "keywords", "categories") if found[key] is not None] == parts
    assert (found["crate"]["versions"] is not None) is ("versions" in parts)
    check_crate(found["crate"])


def test_any_spelling_finds_the_crate(server: Server) -> None:
    assert get(server, "/api/v1/crates/Num_Big")["crate"]["id"] == "num-big"


def test_crate_whose_versions_are_all_yanked(server: Server) -> None:
    token = server.token("alice")
    published(server, token, "gone")
    assert ask(server, "/api/v1/crates/gone/1.0.0/yank", method="DELETE", token=token).status == 200
    crate = get(server, "/api/v1/crates/gone")["crate"]
    assert (crate["yanked"], crate["max_version"], crate["max_stable_version"]) == (True, "0.0.0", None)
    assert (crate["newest_version"], crate["default_version"], crate["num_versions"]) == ("1.0.0", "1.0.0", 1)


def test_crates_called_new_and_check_are_crates(server: Server) -> None:
    for name in ("new", "check"):
        assert ask(server, f"/api/v1/crates/{name}").status == 404
        published(server, server.token("alice"), name)
        assert get(server, f"/api/v1/crates/{name}")["crate"]["name"] == name
        assert get(server, f"/api/v1/crates/{name}/1.0.0")["version"]["num"] == "1.0.0"
        assert get(server, f"/api/v1/crates/{name}/owners")["users"][0]["login"] == "alice"


@pytest.mark.parametrize(
    "tail", ["", "/1.0.0", "/versions", "/owners", "/1.0.0/readme", "/downloads", "/reverse_dependencies"]
)
def test_unknown_crate_is_a_404_with_a_sentence(server: Server, tail: str) -> None:
    for name in ("nothing", "%00", "a%20b", "..", "%F0%9F%A6%80", "a" * 300):
        answer = ask(server, f"/api/v1/crates/{name}{tail}")
        assert answer.status == 404
        assert answer.detail().isprintable()


# --- Versions ---


def test_version_has_every_key_of_crates_io(server: Server) -> None:
    found = get(server, "/api/v1/crates/sums/1.2.0")
    assert list(found) == ["version"]
    check_version(found["version"])


@pytest.mark.parametrize("vers", ["9.9.9", "1.2", "latest", "1.2.0+x", "%00", "%ED%A0%80", "1.2.0%20"])
def test_unknown_version_is_a_404_that_names_both(server: Server, vers: str) -> None:
    answer = ask(server, f"/api/v1/crates/sums/{vers}")
    assert answer.status == 404
    assert "`sums`" in answer.detail()


@pytest.mark.parametrize(
    ("query", "nums", "total"),
    [
        ("", ["2.0.0-rc.1", "1.10.0", "1.2.0", "1.1.5", "1.0.0"], 5),
        ("?sort=semver", ["2.0.0-rc.1", "1.10.0", "1.2.0", "1.1.5", "1.0.0"], 5),
        ("?sort=date", ["1.10.0", "1.1.5", "2.0.0-rc.1", "1.2.0", "1.0.0"], 5),
        ("?nums[]=1.0.0&nums[]=1.10.0&nums[]=7.0.0", ["1.10.0", "1.0.0"], 2),
        ("?per_page=2", ["2.0.0-rc.1", "1.10.0"], 5),
        ("?per_page=2&page=3", ["1.0.0"], 5),
        ("?per_page=2&page=4", [], 5),
    ],
)
def test_versions_come_highest_first_in_pages_if_asked(
    server: Server, query: str, nums: list[str], total: int
) -> None:
    found = get(server, f"/api/v1/crates/sums/versions{query}")
    assert [version["num"] for version in found["versions"]] == nums
    assert found["meta"]["total"] == total


def test_pages_lead_from_one_to_the_next(server: Server) -> None:
    seen, query = [], "?per_page=2&nums[]=1.0.0&nums[]=1.2.0&nums[]=1.1.5"
    while query:
        found = get(server, f"/api/v1/crates/sums/versions{query}")
        seen += [version["num"] for version in found["versions"]]
        query = found["meta"]["next_page"]
    assert seen == ["1.2.0", "1.1.5", "1.0.0"]
    assert found["meta"]["prev_page"].startswith("?")
    assert len(get(server, f"/api/v1/crates/sums/versions{found['meta']['prev_page']}")["versions"]) == 2


@pytest.mark.parametrize("key", ["per_page", "page"])
@pytest.mark.parametrize(
    "value", ["-1", "0", "1e9", "abc", "%C2%B2", "%D9%A3", "101000000", "1.5", "%00", "9" * 5000, "+1", " 1"]
)
@pytest.mark.parametrize(
    "target", ["/api/v1/crates", "/api/v1/crates/sums/versions", "/api/v1/crates/sums/reverse_dependencies"]
)
def test_a_page_that_is_none_is_a_400(server: Server, target: str, key: str, value: str) -> None:
    answer = ask(server, f"{target}?{key}={value.replace(' ', '%20')}")
    assert answer.status == 400
    assert f"`{key}` must be a number" in answer.detail()


# --- Dependencies, both ways ---


def test_dependencies_have_every_key_of_crates_io(server: Server) -> None:
    found = get(server, "/api/v1/crates/sums/1.2.0/dependencies")
    assert list(found) == ["dependencies"]
    big, cc, log = found["dependencies"]
    version = get(server, "/api/v1/crates/sums/1.2.0")["version"]["id"]
    assert len({dep["id"] for dep in (big, cc, log)}) == 3
    del big["id"]
    assert big == {
        "version_id": version,
        "crate_id": "num-big",
        "req": "^1.2",
        "optional": True,
        "default_features": False,
        "features": ["x"],
        "target": None,
        "kind": "normal",
        "registry": None,
        "explicit_name_in_toml": "big",
        "downloads": 0,
    }
    assert (cc["crate_id"], cc["kind"], cc["target"], cc["registry"]) == (
        "cc",
        "build",
        "cfg(unix)",
        CRATES_IO,
    )
    assert (log["crate_id"], log["req"], log["optional"], log["default_features"]) == (
        "log",
        "^0.4",
        False,
        True,
    )


OWN = '{ version = "1", registry-index = "{index}" }'


def test_reverse_dependencies_are_of_default_versions_that_are_not_yanked(server: Server) -> None:
    token = server.token("alice")
    published(server, token, "base")
    own = [{"name": "base", "version_req": "^1"}]
    depending(server, "uses", "1.0.0", f"[dependencies]\nbase = {OWN}\n", own)
    depending(server, "uses", "2.0.0-rc.1", f"[dependencies]\nbase = {OWN}\n", own)
    depending(
        server,
        "dev-uses",
        "1.0.0",
        f"[dev-dependencies]\nBase = {OWN}\n",
        [{"name": "Base", "version_req": "^1", "kind": "dev"}],
    )
    # Not any more, not from here, not offered.
    depending(server, "used", "1.0.0", f"[dependencies]\nbase = {OWN}\n", own)
    published(server, token, "used", "1.0.1")
    depending(
        server,
        "elsewhere",
        "1.0.0",
        '[dependencies]\nbase = "1"\n',
        [{"name": "base", "version_req": "^1", "registry": CRATES_IO}],
    )
    depending(server, "taken-back", "1.0.0", f"[dependencies]\nbase = {OWN}\n", own)
    assert ask(server, "/api/v1/crates/taken-back/1.0.0/yank", method="DELETE", token=token).status == 200

    found = get(server, "/api/v1/crates/base/reverse_dependencies")
    assert list(found) == ["dependencies", "versions", "meta"]
    assert found["meta"] == {"total": 2}
    assert [(version["crate"], version["num"]) for version in found["versions"]] == [
        ("dev-uses", "1.0.0"),
        ("uses", "1.0.0"),
    ]
    assert [dep["version_id"] for dep in found["dependencies"]] == [
        version["id"] for version in found["versions"]
    ]
    assert [dep["kind"] for dep in found["dependencies"]] == ["dev", "normal"]
    second = get(server, "/api/v1/crates/base/reverse_dependencies?per_page=1&page=2")
    assert ([version["crate"] for version in second["versions"]], second["meta"]["total"]) == (["uses"], 2)


def test_reverse_dependencies_leave_out_a_namesake_from_elsewhere(server: Server) -> None:
    published(server, server.token("alice"), "twin")
    lines = f'[dependencies]\ntwin = {OWN}\nother = {{ version = "2", package = "twin" }}\n'
    deps = [
        {"name": "twin", "version_req": "^1"},
        {"name": "twin", "version_req": "^2", "explicit_name_in_toml": "other", "registry": CRATES_IO},
    ]
    depending(server, "has-both", "1.0.0", lines, deps)
    (dep,) = get(server, "/api/v1/crates/twin/reverse_dependencies")["dependencies"]
    assert (dep["req"], dep["registry"]) == ("^1", None)


# --- Owners ---


def test_owners_are_users_and_teams(server: Server) -> None:
    everyone = get(server, "/api/v1/crates/sums/owners")["users"]
    assert {(owner["login"], owner["kind"], owner["name"]) for owner in everyone} == {
        ("alice", "user", None),
        ("team:adders", "team", "adders"),
    }
    for owner in everyone:
        assert owner.keys() == {"id", "login", "kind", "name", "url", "avatar"}
        assert isinstance(owner["id"], int)
    assert [owner["login"] for owner in get(server, "/api/v1/crates/sums/owner_user")["users"]] == ["alice"]
    assert [owner["login"] for owner in get(server, "/api/v1/crates/sums/owner_team")["teams"]] == [
        "team:adders"
    ]


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"{}",
            b"null",
            b"[]",
            b'["bob"]',
            b'"bob"',
            b"bob",
            b'{"users":[]}',
            b'{"users":null}',
            b'{"users":"bob"}',
        ),
        *(
            b'{"users":[""]}',
            b'{"users":[" "]}',
            b'{"users":["bob",""]}',
            b'{"users":[null]}',
            b'{"users":[1]}',
            b'{"users":{}}',
        ),
        *(
            b'{"users":["nobody"]}',
            b'{"users":["bob","nobody"]}',
            b'{"users":["team:none"]}',
            b'{"users":["team:"]}',
        ),
        *(
            b'{"users":["\\ud800"]}',
            b'{"users":["\xff"]}',
            b'{"users":["a\\u0000b"]}',
            b'{"users":[["bob"]]}',
        ),
        *(b"[" * 100_000, b'{"x":' * 100_000, b'{"users":["bob"]', b'{"users":["bob"]}x'),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_owners_body_without_logins_changes_nothing(server: Server, method: str, body: bytes) -> None:
    before = get(server, "/api/v1/crates/sums/owners")
    answer = ask(server, "/api/v1/crates/sums/owners", method=method, body=body, token=server.token("alice"))
    assert answer.status == 400
    assert answer.detail().isprintable()
    assert get(server, "/api/v1/crates/sums/owners") == before


# --- README ---


def test_readme_has_nothing_active(server: Server) -> None:
    answer = ask(server, "/api/v1/crates/sums/1.2.0/readme")
    assert (answer.status, answer.header("content-type")) == (200, "text/html; charset=utf-8")
    policy = answer.header("content-security-policy") or ""
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert answer.header("x-content-type-options") == "nosniff"
    html = answer.body.decode().lower()
    for active in (
        *(
            "<script",
            "alert(1)</",
            '="javascript:',
            '="vbscript:',
            '="data:',
            "onerror",
            "onclick",
            "onload",
            "<style",
            "style=",
        ),
        *("<iframe", "<form", "<input", "<svg", "<base", "evil.example"),
    ):
        assert active not in html, active
    assert "<h1>title</h1>" in html
    assert '<a href="https://example.org" rel="nofollow noopener noreferrer">four</a>' in html
    for kept in ("<strong>bold</strong>", "<table>", "<s>2</s>", ">one</a>", "<b>six</b>"):
        assert kept in html, kept


def with_readme(server: Server, name: str, file: str, text: bytes, key: str = "") -> Answer:
    manifest = f'[package]\nname = "{name}"\nversion = "1.0.0"\n{key}\n'
    tarball = crate_file(name, "1.0.0", manifest=manifest, files={"src/lib.rs": b"", file: text})
    published(server, server.token("alice"), name, body=publish_body(metadata(name, "1.0.0"), tarball))
    return ask(server, f"/api/v1/crates/{name}/1.0.0/readme")


def test_readme_that_is_not_markdown_is_shown_as_text(server: Server) -> None:
    answer = with_readme(server, "text", "README.txt", b"<script>alert(1)</script> *x* &amp;")
    assert answer.body == b"<pre>&lt;script&gt;alert(1)&lt;/script&gt; *x* &amp;amp;</pre>\n"


def test_readme_of_another_name_and_of_wrong_bytes(server: Server) -> None:
    answer = with_readme(server, "named", "docs/GUIDE", b"# \xff hi", 'readme = "docs/GUIDE"')
    assert answer.body.decode() == "<h1>\N{REPLACEMENT CHARACTER} hi</h1>\n"


def test_readme_that_is_not_there_is_a_404(server: Server) -> None:
    answer = with_readme(server, "without", "x", b"", "readme = false")
    assert (answer.status, "has no README" in answer.detail()) == (404, True)


def test_readme_where_json_is_accepted_is_its_url(server: Server) -> None:
    answer = ask(server, "/api/v1/crates/sums/1.2.0/readme", headers={"Accept": "application/json"})
    assert answer.json() == {"url": f"{server.url}/api/v1/crates/sums/1.2.0/readme"}
    assert answer.header("vary") == "accept" or answer.status == 200


def test_readme_that_takes_long_to_render_is_shown_as_text(server: Server) -> None:
    """A megabyte of `![](` took half a minute, each time that anybody asked."""
    started = time.monotonic()
    answer = with_readme(server, "long", "README.md", b"![](" * 250_000)
    assert answer.status == 200
    assert time.monotonic() - started < 5
    assert answer.body.startswith(b"<pre>![](")


# --- Downloads ---


def test_downloads_are_counted_by_version_and_day(server: Server) -> None:
    published(server, server.token("alice"), "fetched")
    for vers in ("1.0.1", "1.0.2", "1.0.3", "1.0.4", "1.0.5"):
        published(server, server.token("alice"), "fetched", vers)
    for vers, count in (("1.0.0", 2), ("1.0.5", 3)):
        for _ in range(count):
            assert ask(server, f"/api/v1/crates/fetched/{vers}/download").status == 200
    # A look is no download.
    assert ask(server, "/api/v1/crates/fetched/1.0.5/download", method="HEAD").status == 200
    until(lambda: get(server, "/api/v1/crates/fetched")["crate"]["downloads"] == 5)

    found = get(server, "/api/v1/crates/fetched")
    assert found["crate"]["recent_downloads"] == 5
    assert {version["num"]: version["downloads"] for version in found["versions"]} == {
        **dict.fromkeys(["1.0.1", "1.0.2", "1.0.3", "1.0.4"], 0),
        "1.0.0": 2,
        "1.0.5": 3,
    }
    today = datetime.now(UTC).date().isoformat()
    newest = found["versions"][0]["id"]
    assert get(server, "/api/v1/crates/fetched/downloads") == {
        "version_downloads": [{"version": newest, "downloads": 3, "date": today}],
        "meta": {"extra_downloads": [{"date": today, "downloads": 2}]},
    }
    assert get(server, "/api/v1/crates/fetched/1.0.5/downloads") == {
        "version_downloads": [{"version": newest, "downloads": 3, "date": today}]
    }
    hit = get(server, "/api/v1/crates?q=fetched&sort=downloads")["crates"][0]
    assert (hit["name"], hit["downloads"]) == ("fetched", 5)
    # Most downloaded first.
    assert get(server, "/api/v1/crates?sort=recent-downloads")["crates"][0]["name"] == "fetched"


# --- Search ---


def test_search_has_the_keys_that_cargo_and_others_read(server: Server) -> None:
    found = get(server, "/api/v1/crates?q=sums")
    assert found["meta"] == {"total": 1, "next_page": None, "prev_page": None}
    (hit,) = found["crates"]
    assert is_time(hit.pop("created_at"))
    assert is_time(hit.pop("updated_at"))
    for key in (
        "id",
        "name",
        "description",
        "max_version",
        "max_stable_version",
        "default_version",
        "downloads",
    ):
        assert hit[key] == CRATE[key]
    assert hit["exact_match"] is True
    assert isinstance(hit["newest_version"], str)


@pytest.mark.parametrize(
    "sort", ["alphabetical", "relevance", "downloads", "recent-downloads", "recent-updates", "new", ""]
)
def test_search_in_pages_shows_each_crate_once(server: Server, sort: str) -> None:
    seen, query = [], f"?per_page=3&sort={sort}"
    while query:
        found = get(server, f"/api/v1/crates{query}")
        assert len(found["crates"]) <= 3
        seen += [hit["name"] for hit in found["crates"]]
        query = found["meta"]["next_page"]
    assert len(seen) == len(set(seen)) == found["meta"]["total"]
    if sort == "alphabetical":
        assert seen == sorted(seen)


def test_search_for_an_order_that_is_none_is_a_400(server: Server) -> None:
    answer = ask(server, "/api/v1/crates?sort=size%1b")
    assert (answer.status, "recent-downloads" in answer.detail()) == (400, True)


# --- Up to date ---


def test_everything_is_up_to_date_when_a_publish_or_yank_has_answered(server: Server) -> None:
    token = server.token("alice")
    published(server, token, "prompt")
    for vers in ("1.0.1", "1.1.0", "2.0.0"):
        published(server, token, "prompt", vers)
        crate = get(server, "/api/v1/crates/prompt")["crate"]
        assert (crate["max_stable_version"], crate["newest_version"], crate["default_version"]) == (
            vers,
            vers,
            vers,
        )
        assert get(server, f"/api/v1/crates/prompt/{vers}")["version"]["yanked"] is False
        assert get(server, "/api/v1/crates?q=prompt")["crates"][0]["max_version"] == vers
        assert get(server, "/api/v1/crates/prompt/versions")["versions"][0]["num"] == vers
        assert ask(server, f"/api/v1/crates/prompt/{vers}/download").status == 200
        assert f'"vers":"{vers}"'.encode() in ask(server, "/index/pr/om/prompt").body
    for yanked in (True, False):
        method, verb = ("DELETE", "yank") if yanked else ("PUT", "unyank")
        assert ask(server, f"/api/v1/crates/prompt/2.0.0/{verb}", method=method, token=token).status == 200
        highest = "1.1.0" if yanked else "2.0.0"
        crate = get(server, "/api/v1/crates/prompt")["crate"]
        assert (crate["max_version"], crate["default_version"], crate["newest_version"]) == (highest,) * 3
        assert get(server, "/api/v1/crates/prompt/2.0.0")["version"]["yanked"] is yanked
        assert get(server, "/api/v1/crates?q=prompt")["crates"][0]["max_version"] == highest


# --- Private registries ---

TARGETS = [
    *("/api/v1/crates", "/api/v1/crates?q=hidden", "/api/v1/crates/hidden", "/api/v1/crates/hidden/versions"),
    *(
        "/api/v1/crates/hidden/1.0.0",
        "/api/v1/crates/hidden/1.0.0/dependencies",
        "/api/v1/crates/hidden/owners",
    ),
    *(
        "/api/v1/crates/hidden/owner_user",
        "/api/v1/crates/hidden/owner_team",
        "/api/v1/crates/hidden/1.0.0/readme",
    ),
    *(
        "/api/v1/crates/hidden/downloads",
        "/api/v1/crates/hidden/1.0.0/downloads",
        "/api/v1/crates/hidden/1.0.0/download",
    ),
    *(
        "/api/v1/crates/hidden/reverse_dependencies",
        "/api/v1/crates/new",
        "/api/v1/crates/check",
        "/index/hi/dd/hidden",
    ),
    *("/index/config.json", "/api/v1/anything", "/"),
]


@pytest.mark.parametrize("token", [None, "crg_wrong"])
def test_what_may_not_be_read_looks_like_what_does_not_exist(server: Server, token: str | None) -> None:
    answers = set()
    for target in TARGETS:
        for existing in (target, target.replace("hidden", "absent").replace("hi/dd", "ab/se")):
            answer = ask(server, f"/secret{existing}", token=token)
            assert answer.status == 401
            answers.add((answer.body, answer.header("www-authenticate"), answer.header("content-type")))
    assert len(answers) == 1


def test_with_a_token_a_private_registry_can_be_read(server: Server) -> None:
    token = server.token("alice")
    for target in TARGETS:
        answer = ask(server, f"/secret{target}", token=token)
        assert answer.status in (200, 404), target
        if answer.status == 200 and "download" not in target:
            assert (
                "private" in (answer.header("cache-control") or "")
                or answer.header("cache-control") == "no-store"
            )
    assert (
        ask(server, "/secret/api/v1/crates/hidden", token=server.token("bob", "--registry", "main")).status
        == 403
    )


def test_registries_do_not_see_each_other(server: Server) -> None:
    assert ask(server, "/api/v1/crates/hidden").status == 404
    assert ask(server, "/other/api/v1/crates/sums").status == 404
    assert get(server, "/other/api/v1/crates")["meta"]["total"] == 0


# --- What the tools read ---


def test_what_renovate_reads(server: Server) -> None:
    """(renovate: modules/datasource/crate/index.ts, `getReleases`, `getCrateMetadata`, `postprocessRelease`.)"""
    lines = [json.loads(line) for line in ask(server, "/index/su/ms/sums").body.splitlines()]
    release = next(line for line in lines if line["vers"] == "1.2.0")
    assert (release["yanked"], release["rust_version"]) == (False, "1.70")
    pubtime = datetime.fromisoformat(release["pubtime"])
    crate = get(server, "/api/v1/crates/sums?include=")["crate"]
    for key in ("description", "homepage", "repository"):
        assert isinstance(crate[key], str)
    created = datetime.fromisoformat(get(server, "/api/v1/crates/sums/1.2.0")["version"]["created_at"])
    assert abs((created - pubtime).total_seconds()) < 2


def test_what_cargo_binstall_reads(server: Server) -> None:
    """(cargo-binstall: binstalk-registry/src/crates_io_registry.rs.)"""
    crate = get(server, "/api/v1/crates/sums")
    best = crate["crate"]["max_stable_version"]
    assert best in {version["num"] for version in crate["versions"] if not version["yanked"]}
    version = get(server, f"/api/v1/crates/sums/{best}")["version"]
    assert (version["num"], version["yanked"]) == (best, False)
    tarball = server.http.get(version["dl_path"])
    (line,) = (
        entry
        for entry in map(json.loads, ask(server, "/index/su/ms/sums").body.splitlines())
        if entry["vers"] == best
    )
    assert version["checksum"] == line["cksum"]
    assert (tarball.status_code, len(tarball.content)) == (200, version["crate_size"])


def test_what_dependabot_reads(server: Server) -> None:
    """(dependabot: cargo/lib/dependabot/cargo/update_checker/latest_version_finder.rb.)"""
    for version in get(server, "/api/v1/crates/sums")["versions"]:
        assert re.fullmatch(r"\d+\.\d+\.\d+(-.+)?", version["num"])
        assert isinstance(version["yanked"], bool)
        assert isinstance(version["downloads"], int)
        assert is_time(version["created_at"])
        assert version["dl_path"].startswith("/api/v1/crates/sums/")
