import pytest
from hypothesis import given
from hypothesis import strategies as st

from cargo_registry.crate import versions
from cargo_registry.errors import InvalidVersion

from .conftest import RealCrate

U64 = st.integers(0, 2**64 - 1)
IDENTIFIER = st.from_regex(r"[0-9A-Za-z-]{1,8}", fullmatch=True)
PRE = st.lists(
    IDENTIFIER.filter(lambda text: not (text.isdigit() and text[0] == "0" and len(text) > 1)), max_size=3
)
BUILD = st.lists(IDENTIFIER, max_size=3)


def test_the_versions_of_real_crates_are_allowed(real_crates: list[RealCrate]) -> None:
    for crate in real_crates:
        assert str(versions.parse(crate.line["vers"])) == crate.line["vers"]


@given(U64, U64, U64, PRE, BUILD)
def test_each_version_of_the_grammar_is_read_and_printed_back(
    major: int, minor: int, patch: int, pre: list[str], build: list[str]
) -> None:
    text = f"{major}.{minor}.{patch}"
    text += "-" + ".".join(pre) if pre else ""
    text += "+" + ".".join(build) if build else ""
    version = versions.parse(text)
    assert str(version) == text
    assert (version.major, version.minor, version.patch) == (major, minor, patch)
    assert (version.prerelease or "", version.build or "") == (".".join(pre), ".".join(build))


@given(st.text(st.sampled_from("01.-+aZ \n१é"), max_size=12))
def test_any_other_text_is_refused_and_nothing_else_happens(text: str) -> None:
    try:
        version = versions.parse(text)
    except InvalidVersion:
        return
    assert str(version) == text
    assert text.isascii()


# https://semver.org/#is-there-a-suggested-regular-expression-regex-to-check-a-semver-string
@pytest.mark.parametrize(
    "text",
    [
        "1.1.2-prerelease+meta",
        "1.0.0-alpha-a.b-c-somethinglong+build.1-aef.1-its-okay",
        "1.0.0+0.build.1-rc.10000aaa-kk-0.1",
        "1.0.0-0A.is.legal",
        "2.0.0+build.1848",
        "1.2.3----RC-SNAPSHOT.12.9.1--.12+788",
        f"{2**64 - 1}.0.0",
        "1.0.0-" + "9" * 144,
    ],
)
def test_valid_versions(text: str) -> None:
    assert str(versions.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1.2",
        "1.2.3.4",
        "01.1.1",
        "1.01.1",
        "1.1.01",
        "1.2.3-0123",
        "1.2.3-0123.0123",
        "1.1.2+.123",
        "+invalid",
        "1.0.0-alpha_beta",
        "1.0.0-alpha..",
        "1.2.3+",
        "1.2.3-",
        "v1.2.3",
        "=1.2.3",
        " 1.2.3",
        "1.2.3 ",
        "1.2.3\n",
        "1.2.3\0",
        "\uff11.2.3",
        "1.२.3",
        "1.2.3-é",
        "1.2.3-१",
        f"{2**64}.0.0",
        "1.0.0-" + "9" * 145,
        "9" * 5000 + ".0.0",
    ],
)
def test_invalid_versions(text: str) -> None:
    with pytest.raises(InvalidVersion, match="the version"):
        versions.parse(text)


@pytest.mark.parametrize(
    ("text", "without"),
    [("1.0.0", "1.0.0"), ("1.0.0+a.b", "1.0.0"), ("1.0.0-a+b", "1.0.0-a"), ("1.0.0+a-b", "1.0.0")],
)
def test_build_metadata_can_be_left_out(text: str, without: str) -> None:
    assert versions.without_build(text) == without


# https://semver.org/#spec-item-11
ORDER = [
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.2.0",
    "1.10.0",
]


def test_versions_are_ordered_as_the_standard_says() -> None:
    mixed = ORDER[1::2] + ORDER[::2]
    assert sorted(mixed, key=versions.parse) == ORDER


@pytest.mark.parametrize(
    ("given", "highest", "stable"),
    [
        ([], None, None),
        (["2.0.0-a", "1.0.0-b"], "2.0.0-a", None),
        (["1.9.0", "1.10.0", "2.0.0-a"], "2.0.0-a", "1.10.0"),
        (["1.0.0+b", "0.9.0"], "1.0.0+b", "1.0.0+b"),
    ],
)
def test_the_highest_version_and_the_highest_stable_one(
    given: list[str], highest: str | None, stable: str | None
) -> None:
    assert versions.max_version(iter(given)) == highest
    assert versions.max_stable(iter(given)) == stable
