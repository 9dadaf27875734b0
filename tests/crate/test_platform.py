"""What cargo accepts and how it prints it was taken from `cargo metadata --no-deps` of cargo 1.95 and 1.97."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cargo_registry.crate import platform
from cargo_registry.errors import InvalidRequirement

from .conftest import RealCrate


def test_the_targets_in_real_lines_can_be_read(real_crates: list[RealCrate]) -> None:
    for crate in real_crates:
        for dep in crate.line["deps"]:
            if dep["target"] is not None:
                platform.canonical(dep["target"])


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("cfg(unix)", "cfg(unix)"),
        ("cfg( unix )", "cfg(unix)"),
        ('cfg(target_os="linux")', 'cfg(target_os = "linux")'),
        ('cfg(target_os = "linux")', 'cfg(target_os = "linux")'),
        ('cfg(any(unix,target_os="x y (",))', 'cfg(any(unix, target_os = "x y ("))'),
        ("cfg(all())", "cfg(all())"),
        ("cfg(any( ))", "cfg(any())"),
        ("cfg(not(all(not ( windows ) , _a1)))", "cfg(not(all(not(windows), _a1)))"),
        ("cfg(r#async)", "cfg(r#async)"),
        ("cfg(r#all)", "cfg(r#all)"),
        ("cfg(true)", "cfg(true)"),
        ('cfg(feature = "")', 'cfg(feature = "")'),
        ("cfg", "cfg"),
        ("x86_64-pc-windows-msvc", "x86_64-pc-windows-msvc"),
        ("thumbv7em-none-eabihf.json", "thumbv7em-none-eabihf.json"),
    ],
)
def test_a_target_is_printed_as_cargo_prints_it(text: str, form: str) -> None:
    assert platform.canonical(text) == form


@pytest.mark.parametrize(
    "text",
    [
        "cfg()",
        "cfg(",
        "cfg(unix",
        " cfg(unix)",
        "cfg (unix)",
        "cfg(unix))",
        "cfg((unix))",
        "cfg(unix windows)",
        "cfg(unix, windows)",
        "cfg(all)",
        "cfg(all(unix)",
        "cfg(all(,))",
        "cfg(all(unix,,))",
        "cfg(all(unix windows))",
        "cfg(not())",
        "cfg(not(unix, windows))",
        "cfg(not(unix,))",
        "cfg(r#all(unix))",
        "cfg(r#)",
        "cfg(r#1)",
        'cfg("unix")',
        "cfg(target_os = linux)",
        "cfg(target_os = )",
        'cfg(= "linux")',
        'cfg(target_os = "linux)',
        'cfg(target_os == "linux")',
        "cfg(1)",
        "cfg(é)",
        "cfg(unix\t)",
        "cfg(unix\n)",
        "cfg(unix-like)",
        "x86_64 linux",
        "a/b.json",
        "unix)",
    ],
)
def test_what_cargo_cannot_read_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequirement, match="the target"):
        platform.canonical(text)


@pytest.mark.parametrize("text", ["", "é"])
def test_what_cargo_reads_but_no_target_is_called_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequirement, match="the target"):
        platform.canonical(text)


@pytest.mark.parametrize("depth", [33, 10_000, 300_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    platform.canonical(f"cfg({'not(' * 32}unix{')' * 32})")
    with pytest.raises(InvalidRequirement, match="nests too deeply"):
        platform.canonical(f"cfg({'not(' * depth}unix{')' * depth})")


SPACE = st.sampled_from(["", " ", "  "])
LEAF = st.sampled_from(["unix", 'target_os="linux"', 'target_os = "a)b"', "r#true", "_"])
EXPRESSION = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.builds("not({}{}{})".format, SPACE, inner, SPACE),
        st.builds(
            lambda op, items, space, end: f"{op}({(',' + space).join(items)}{end if items else ''})",
            st.sampled_from(["all", "any", "all "]),
            st.lists(inner, max_size=3),
            SPACE,
            st.sampled_from(["", ",", " , "]),
        ),
    ),
    max_leaves=8,
)


@given(EXPRESSION)
def test_spaces_and_last_commas_mean_nothing(expression: str) -> None:
    form = platform.canonical(f"cfg({expression})")
    assert platform.canonical(form) == form
    assert _bare(form) == _bare(f"cfg({expression})")


def _bare(text: str) -> str:
    return text.replace(" ", "").replace(",)", ")")


@given(st.text(st.sampled_from('cfgunixalot(),="r# \t1é'), max_size=20))
def test_any_text_is_read_or_refused_and_nothing_else_happens(text: str) -> None:
    try:
        platform.canonical(f"cfg({text})")
    except InvalidRequirement as error:
        assert "`cfg(" in str(error)  # noqa: PT017
