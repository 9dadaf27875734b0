import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cargo_registry.crate import publish_body
from cargo_registry.crate.publish_body import PublishDep, PublishMetadata
from cargo_registry.errors import InvalidPublish

RECORDED = Path(__file__).parent / "recorded"


def _decode(**keys: Any) -> PublishMetadata:
    return publish_body.decode(json.dumps({"name": "a", "vers": "1.0.0"} | keys).encode())


def test_what_cargo_sends_is_read_with_every_field() -> None:
    """`recorded/` holds what `cargo publish` of cargo 1.95 sent, and the `Cargo.toml` it packed."""
    metadata = publish_body.decode((RECORDED / "cargo-1.95.json").read_bytes())
    assert (metadata.name, metadata.vers) == ("recorded", "1.2.3+build.7")
    assert metadata.description == "Schön"
    assert metadata.readme == "# hi\n"
    assert metadata.readme_file == "README.md"
    assert metadata.license_file is None
    assert metadata.badges == {"maintenance": {"status": "actively-developed"}}
    assert (metadata.links, metadata.rust_version) == ("recorded", "1.70")
    assert metadata.features["a"] == ["dep:renamed", "renamed?/f1", "from-us/f2"]
    assert metadata.deps[3] == PublishDep(
        name="real-name",
        version_req=">=1.0, <3",
        optional=True,
        kind="normal",
        explicit_name_in_toml="renamed",
    )
    assert metadata.deps[0].registry == "sparse+http://127.0.0.1:8765/other/"
    assert metadata.deps[0].default_features is False


def test_name_and_version_are_enough() -> None:
    metadata = _decode()
    assert (metadata.deps, metadata.features, metadata.authors, metadata.description) == ([], {}, [], None)


def test_null_means_what_a_missing_key_means() -> None:
    keys = [field for field in PublishMetadata.__struct_fields__ if field not in {"name", "vers"}]
    metadata = _decode(**dict.fromkeys(keys))
    assert msgspec.structs.replace(metadata, links=msgspec.UNSET, rust_version=msgspec.UNSET) == _decode()
    dep = {"name": "b", "version_req": "1"}
    nulls = dict.fromkeys(field for field in PublishDep.__struct_fields__ if field not in dep)
    assert _decode(deps=[dep | nulls]) == _decode(deps=[dep])


def test_links_and_rust_version_tell_null_from_missing() -> None:
    assert _decode().links is msgspec.UNSET
    assert _decode().rust_version is msgspec.UNSET
    assert _decode(links=None).links is None
    assert _decode(rust_version=None).rust_version is None


def test_unknown_keys_and_doubled_ones_are_no_error() -> None:
    assert _decode(future={"a": [None]}) == _decode()
    assert publish_body.decode(b'{"name":"b","name":"a","vers":"1.0.0"}') == _decode()


@pytest.mark.parametrize(
    ("keys", "where"),
    [
        ({"name": None}, r"\$\.name"),
        ({"vers": 1}, r"\$\.vers"),
        ({"deps": {}}, r"\$\.deps"),
        ({"deps": [1]}, r"\$\.deps\[0\]"),
        ({"deps": [None]}, r"\$\.deps\[0\]"),
        ({"deps": [{"name": "b"}]}, "version_req"),
        ({"deps": [{"name": "b", "version_req": None}]}, "version_req"),
        ({"deps": [{"name": "b", "version_req": "1", "kind": "other"}]}, r"\$\.deps\[0\]\.kind"),
        ({"deps": [{"name": "b", "version_req": "1", "features": [1]}]}, r"\$\.deps\[0\]\.features\[0\]"),
        ({"deps": [{"name": "b", "version_req": "1", "optional": "yes"}]}, r"\$\.deps\[0\]\.optional"),
        ({"deps": [{"name": "b", "version_req": "1", "artifact": "bin"}]}, r"\$\.deps\[0\]\.artifact"),
        ({"features": []}, r"\$\.features"),
        ({"features": {"a": None}}, r"\$\.features"),
        ({"features": {"a": [None]}}, r"\$\.features"),
        ({"authors": "Ann"}, r"\$\.authors"),
        ({"description": 1}, r"\$\.description"),
        ({"documentation": 1}, r"\$\.documentation"),
        ({"homepage": 1}, r"\$\.homepage"),
        ({"readme": 1}, r"\$\.readme"),
        ({"readme_file": 1}, r"\$\.readme_file"),
        ({"keywords": [1]}, r"\$\.keywords\[0\]"),
        ({"categories": [1]}, r"\$\.categories\[0\]"),
        ({"license": 1}, r"\$\.license"),
        ({"license_file": 1}, r"\$\.license_file"),
        ({"repository": 1}, r"\$\.repository"),
        ({"badges": {"a": 1}}, r"\$\.badges"),
        ({"badges": {"a": {"b": 1}}}, r"\$\.badges"),
        ({"links": 1}, r"\$\.links"),
        ({"rust_version": 1.7}, r"\$\.rust_version"),
    ],
)
def test_a_wrong_type_is_refused_with_its_place(keys: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidPublish, match=where):
        _decode(**keys)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not start with JSON"),
        (b"{", "does not start with JSON"),
        (b'{"name":"a","vers":"1.0.0"} x', "does not start with JSON"),
        (b'\xef\xbb\xbf{"name":"a","vers":"1.0.0"}', "does not start with JSON"),
        (b'{"name":"a","vers":"1.0.0","links":"\\ud800"}', "does not start with JSON"),
        (b'{"name":"a","vers":"1.0.0","links":"\\udc00x"}', "does not start with JSON"),
        (b'{"name":"a","vers":"1.0.0","x":NaN}', "does not start with JSON"),
        (b'{"name":"a","vers":"1.0.0","links":"\xff"}', "not in UTF-8"),
        (b'{"name":"a","vers":"1.0.0","links":"\xed\xa0\x80"}', "not in UTF-8"),
        (b"[]", "wrong shape"),
        (b"null", "wrong shape"),
        (b'{"name":"a"}', "wrong shape"),
        (b"[" * 100_000, "nests too deeply"),
        (b'{"name":"a","vers":"1.0.0","x":' + b"[" * 500_000 + b"]" * 500_000 + b"}", "nests too deeply"),
        (b'{"a":' * 100_000, "nests too deeply"),
    ],
)
def test_what_is_no_json_of_a_crate_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidPublish, match=message):
        publish_body.decode(data)


@given(st.binary(max_size=60) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["name", "vers", "deps", "features", "links", "x"]), inner, max_size=4),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_bytes_are_read_or_refused_and_nothing_else_happens(data: bytes) -> None:
    try:
        publish_body.decode(data)
    except InvalidPublish as error:
        assert "publish request" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("four", "length"), [(b"\0\0\0\0", 0), (b"\1\2\0\0", 513), (b"\xff\xff\xff\xff", 2**32 - 1)]
)
def test_a_length_is_little_endian(four: bytes, length: int) -> None:
    assert publish_body.parse_length(four) == length


@pytest.mark.parametrize("four", [b"", b"\1\0\0"])
def test_a_length_that_is_cut_off_is_refused(four: bytes) -> None:
    with pytest.raises(InvalidPublish, match="ends within a length"):
        publish_body.parse_length(four)
