import pytest

from cargo_registry.policy import licenses


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        # https://doc.rust-lang.org/cargo/reference/manifest.html#the-license-and-license-file-fields
        ("MIT", "MIT"),
        ("MIT OR Apache-2.0", "MIT OR Apache-2.0"),
        ("LGPL-2.1-only AND MIT AND BSD-2-Clause", "LGPL-2.1-only AND MIT AND BSD-2-Clause"),
        ("GPL-2.0-or-later WITH Bison-exception-2.2", "GPL-2.0-or-later WITH Bison-exception-2.2"),
        # The slash of old, with and without spaces.
        ("MIT/Apache-2.0", "MIT OR Apache-2.0"),
        ("MIT / Apache-2.0", "MIT OR Apache-2.0"),
        ("Unlicense/MIT", "Unlicense OR MIT"),
        # SPDX 2.3, annex D: identifiers are compared without case.
        ("mit OR apache-2.0", "MIT OR Apache-2.0"),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", "(MIT OR Apache-2.0) AND Unicode-3.0"),
        # Deprecated, and still in many crates.
        ("GPL-3.0", "GPL-3.0"),
        ("Apache-2.0+", "Apache-2.0+"),
        ("LicenseRef-House-1", "LicenseRef-House-1"),
    ],
)
def test_expressions_get_the_spelling_of_spdx(written: str, normal: str) -> None:
    assert licenses.normal_form(written) == normal


@pytest.mark.parametrize(
    "written",
    [
        "",
        " ",
        "MIT OR",
        "OR MIT",
        "MIT Apache-2.0",
        "MIT,Apache-2.0",
        "MIT & Apache-2.0",
        "(MIT",
        "MIT)",
        "()",
        "MIT//Apache-2.0",
        "MIT or or Apache-2.0",
        "MIT WITH",
        "MIT WITH MIT",
        "Proprietary",
        "BSD",
        "MIT\nOR Apache-2.0 x",
        "\0",
        "MIT OR \ud800",
        "(" * 10_000,
        "(" * 10_000 + "MIT" + ")" * 10_000,
        "MIT OR " * 10_000,
    ],
)
def test_what_is_no_expression_has_no_normal_form(written: str) -> None:
    assert licenses.normal_form(written) is None


@pytest.mark.parametrize(
    ("expression", "allowed", "is_allowed"),
    [
        ("MIT", ["MIT"], True),
        ("MIT", ["mit"], True),
        ("MIT", ["Apache-2.0"], False),
        ("MIT", [], False),
        ("MIT OR GPL-3.0-only", ["MIT"], True),
        ("GPL-3.0-only OR MIT", ["MIT"], True),
        ("GPL-3.0-only OR AGPL-3.0-only", ["MIT"], False),
        ("MIT AND Apache-2.0", ["MIT"], False),
        ("MIT AND Apache-2.0", ["MIT", "Apache-2.0"], True),
        # AND binds more tightly than OR (SPDX 2.3, annex D.4.5).
        ("MIT OR Apache-2.0 AND BSD-3-Clause", ["MIT"], True),
        ("MIT OR Apache-2.0 AND BSD-3-Clause", ["Apache-2.0"], False),
        ("GPL-3.0-only AND MIT OR Apache-2.0", ["Apache-2.0"], True),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", ["MIT"], False),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", ["MIT", "Unicode-3.0"], True),
        ("((GPL-3.0-only) OR (MIT AND (ISC)))", ["ISC", "MIT"], True),
        # An exception grants more than the license alone.
        ("GPL-2.0-only WITH Classpath-exception-2.0", ["GPL-2.0-only"], True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", ["GPL-2.0-only WITH Classpath-exception-2.0"], True),
        ("GPL-2.0-only", ["GPL-2.0-only WITH Classpath-exception-2.0"], False),
        ("GPL-2.0-only WITH Bison-exception-2.2", ["GPL-2.0-only WITH Classpath-exception-2.0"], False),
        ("MIT AND GPL-2.0-only WITH Classpath-exception-2.0 OR ISC", ["ISC"], True),
        # Another license than the one that is allowed.
        ("MIT-0", ["MIT"], False),
        ("GPL-2.0-or-later", ["GPL-2.0-only"], False),
    ],
)
def test_one_side_of_or_is_enough_and_both_of_and(
    expression: str, allowed: list[str], is_allowed: bool
) -> None:
    normal = licenses.normal_form(expression)
    assert normal is not None
    assert licenses.is_allowed(normal, allowed) is is_allowed
