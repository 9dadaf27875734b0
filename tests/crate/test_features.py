"""Which graphs cargo accepts was taken from `cargo metadata --no-deps` of cargo 1.95 and 1.97."""

import pytest

from cargo_registry.crate import features
from cargo_registry.errors import InvalidManifest, InvalidName

from .conftest import RealCrate

# Dependencies: o and p are optional, r is required, both is optional for one target and required for another.
DEPS = [("o", True), ("p", True), ("r", False), ("both", False), ("both", True)]


@pytest.mark.parametrize(
    "graph",
    [
        {},
        {"default": ["o", "p"]},
        {"f": ["g"], "g": ["f"]},
        {"f": ["f"]},
        {"f": ["g", "g"], "g": []},
        {"f": ["dep:o"]},
        {"f": ["dep:o", "o/x"]},
        {"f": ["o?/x"]},
        {"f": ["r/x", "o/x"]},
        {"o": ["dep:o"]},
        {"o": ["o/x"]},
        {"o": ["o?/x"]},
        {"o": [], "f": ["dep:o"]},
        {"r": []},
        {"r": ["r/x"]},
        {"r": [], "f": ["r"]},
        {"f": ["both", "both?/x"]},
    ],
)
def test_graphs_that_cargo_accepts(graph: dict[str, list[str]]) -> None:
    features.check(graph, DEPS)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ({"f": ["g"]}, "`f` has the value `g`, but there is no such feature or optional dependency"),
        ({"f": [""]}, "`f` has the value ``, but there is no such feature"),
        ({"f": ["r"]}, "`f` has the value `r`, but that dependency is not optional"),
        ({"f": ["o"], "g": ["dep:o"]}, "`f` has the value `o`, but .* no feature of its name; write `dep:o`"),
        ({"f": ["dep:g"]}, "`f` has the value `dep:g`, but there is no dependency `g`"),
        ({"f": ["dep:"]}, "`f` has the value `dep:`, but there is no dependency ``"),
        ({"f": ["dep:r"]}, "`f` has the value `dep:r`, but the dependency `r` is not optional"),
        ({"f": ["g/x"]}, "`f` has the value `g/x`, but there is no dependency `g`"),
        ({"f": ["f/x"]}, "`f` has the value `f/x`, but there is no dependency `f`"),
        ({"f": ["g?/x"]}, r"`f` has the value `g\?/x`, but there is no dependency `g`"),
        ({"f": ["r?/x"]}, r"`f` has the value `r\?/x`, but the dependency `r` is not optional"),
        ({"f": ["o??/x"]}, r"`f` has the value `o\?\?/x`, but there is no dependency `o\?`"),
        ({"f": ["dep:o/x"]}, "`f` has the value `dep:o/x` with both `dep:` and `/`"),
        ({"f": ["dep:o?/x"]}, r"`f` has the value `dep:o\?/x` with both `dep:` and `/`"),
        ({"f": ["o/x/y"]}, "`f` has the wrong value `o/x/y`"),
        ({"o": []}, "the optional dependency `o` is not included in any feature"),
        ({"o": ["f"], "f": []}, "the optional dependency `o` is not included in any feature"),
    ],
)
def test_graphs_that_cargo_refuses(graph: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InvalidManifest, match=message):
        features.check(graph, DEPS)


@pytest.mark.parametrize("value", ["o/", "o/dep:x", "o/x y"])
def test_features_of_dependencies_have_a_name_of_a_feature(value: str) -> None:
    """As crates.io has it; cargo finds out when it resolves."""
    with pytest.raises(InvalidManifest, match="`f` has the wrong value"):
        features.check({"f": [value]}, DEPS)


@pytest.mark.parametrize("name", ["", "dep:o", "o/x", "+a"])
def test_a_feature_has_the_name_of_one(name: str) -> None:
    with pytest.raises(InvalidName, match="feature"):
        features.check({name: []}, DEPS)


@pytest.mark.parametrize(
    ("graph", "plain", "extended"),
    [
        ({}, [], []),
        ({"a": ["o"], "b": ["o/x", "a"]}, ["a", "b"], []),
        ({"a": ["dep:o"], "b": []}, ["b"], ["a"]),
        ({"a": ["o?/x"]}, [], ["a"]),
        ({"a": ["b"], "b": ["c"], "c": ["dep:o"], "d": []}, ["d"], ["a", "b", "c"]),
        ({"a": ["b"], "b": ["a", "dep:o"]}, [], ["a", "b"]),
        # Not by name: this enables the dependency `b`, not the feature.
        ({"a": ["b/x"], "b": ["dep:b"]}, ["a"], ["b"]),
    ],
)
def test_features_that_lead_to_new_syntax_are_kept_from_old_cargos(
    graph: dict[str, list[str]], plain: list[str], extended: list[str]
) -> None:
    assert [list(half) for half in features.split(graph)] == [plain, extended]
    assert features.split(graph)[0] | features.split(graph)[1] == graph


def test_real_features_are_split_as_crates_io_splits_them(real_crates: list[RealCrate]) -> None:
    split = 0
    for crate in real_crates:
        plain, extended = crate.line["features"], crate.line.get("features2", {})
        assert features.split(plain | extended) == (plain, extended)
        split += bool(extended)
    assert split == 102


def test_a_long_chain_of_features_is_split_at_once() -> None:
    chain = {f"f{n}": [f"f{n + 1}"] for n in range(50_000)} | {"f50000": ["dep:o"]}
    assert features.split(chain) == ({}, chain)
