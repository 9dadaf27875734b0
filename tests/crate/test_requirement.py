"""What cargo accepts and how it prints it was taken from `cargo metadata --no-deps` of cargo 1.95 and 1.97."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cargo_registry.crate import requirement
from cargo_registry.errors import InvalidRequirement

from .conftest import RealCrate


def test_the_requirements_in_real_lines_are_in_normal_form(real_crates: list[RealCrate]) -> None:
    for crate in real_crates:
        for dep in crate.line["deps"]:
            assert requirement.normal_form(dep["req"]) == dep["req"]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("1", "^1"),
        ("1.0", "^1.0"),
        ("^1.0.0", "^1.0.0"),
        ("1.0.0+meta", "^1.0.0"),
        ("=1.2.3+00.x", "=1.2.3"),
        ("  1.2.3  ", "^1.2.3"),
        (">=1.0, <3", ">=1.0, <3"),
        (">= 1.0 , < 3", ">=1.0, <3"),
        (">=1,<2", ">=1, <2"),
        ("~  1.2", "~1.2"),
        ("1.2.3-rc.1+b", "^1.2.3-rc.1"),
        ("=1.0.0-0a.-.0", "=1.0.0-0a.-.0"),
        ("*", "*"),
        (" x ", "*"),
        ("X", "*"),
        ("1.*", "1.*"),
        ("1.x", "1.*"),
        ("1.X.x", "1.*"),
        ("1.2.*", "1.2.*"),
        ("=1.*", "=1"),
        (">1.2.x", ">1.2"),
        ("^1.*.*", "^1"),
        ("1.*, <2", "1.*, <2"),
        (f"{2**64 - 1}", f"^{2**64 - 1}"),
        (", ".join(["1"] * 32), ", ".join(["^1"] * 32)),
    ],
)
def test_a_requirement_is_printed_as_cargo_prints_it(text: str, form: str) -> None:
    assert requirement.normal_form(text) == form


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a",
        "01",
        "1.02",
        "1.2.3-01",
        "1.2.3-",
        "1.2.3+",
        "1.2-rc",
        "1+b",
        "1.*-rc",
        "1.*.3",
        "*.1",
        "*, 1",
        "1, *",
        "**",
        "=*",
        "^x",
        "1,",
        ",1",
        "1,,2",
        "1 2",
        ">=1 <2",
        "1 || 2",
        "1 - 2",
        "==1",
        "!=1",
        "~>1",
        "=>1",
        "v1",
        "1.2.3.4",
        "1.",
        ".1",
        "1 .2",
        "1\t",
        "\t1",
        "1\n",
        "1.2.3é",
        "१",
        f"{2**64}",
        "9" * 5000,
        ", ".join(["1"] * 33),
    ],
)
def test_what_cargo_cannot_read_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequirement, match="the version requirement"):
        requirement.normal_form(text)


COMPARATOR = st.builds(
    lambda op, space, numbers, after: op + space + ".".join(numbers) + after,
    st.sampled_from(["", "=", ">", ">=", "<", "<=", "~", "^"]),
    st.sampled_from(["", " ", "   "]),
    st.lists(st.sampled_from(["0", "1", "27", "*", "x", "01"]), min_size=1, max_size=3),
    st.sampled_from(["", " ", "-rc.1", "+b"]),
)


@given(st.lists(COMPARATOR, min_size=1, max_size=4).map(",".join))
def test_the_normal_form_of_a_normal_form_is_itself(text: str) -> None:
    try:
        form = requirement.normal_form(text)
    except InvalidRequirement:
        return
    assert requirement.normal_form(form) == form


@pytest.mark.parametrize(
    ("text", "is_wildcard"), [("*", True), (" x ", True), ("1.*", False), (">=0", False), ("", False)]
)
def test_only_a_lone_wildcard_is_one(text: str, is_wildcard: bool) -> None:
    assert requirement.is_wildcard(text) is is_wildcard
