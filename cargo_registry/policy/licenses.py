"""License expressions, as manifests spell them.

Spec: https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions/, and cargo's old `MIT/Apache-2.0`, which
means OR: https://doc.rust-lang.org/cargo/reference/manifest.html#the-license-and-license-file-fields
"""

import re
from collections.abc import Collection

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression


def normal_form(expression: str) -> str | None:
    """Return an expression in SPDX's spelling; None if it is none, or names an unknown license."""
    try:
        return canonicalize_license_expression(expression.replace("/", " OR "))
    except InvalidLicenseExpression:
        return None


def is_allowed(expression: str, allowed: Collection[str]) -> bool:
    """Tell whether an expression in normal form can be met with these licenses alone.

    One side of an OR is enough, an AND needs both. `MIT` in `allowed` also covers `MIT WITH …`, since an
    exception only ever grants more.
    """
    fine = {license_id.lower() for license_id in allowed}
    tokens = re.findall(r"[()]|[^\s()]+", expression)
    return _any(tokens, fine)


def _any(tokens: list[str], fine: Collection[str]) -> bool:
    """Take `a OR b …` off the front of `tokens` and say whether it can be met."""
    met = _all(tokens, fine)
    while tokens and tokens[0] == "OR":
        tokens.pop(0)
        # Not `or`: the other side has to be taken off, whatever this one says.
        met = _all(tokens, fine) | met
    return met


def _all(tokens: list[str], fine: Collection[str]) -> bool:
    met = _one(tokens, fine)
    while tokens and tokens[0] == "AND":
        tokens.pop(0)
        met = _one(tokens, fine) & met
    return met


def _one(tokens: list[str], fine: Collection[str]) -> bool:
    word = tokens.pop(0)
    if word == "(":
        met = _any(tokens, fine)
        tokens.pop(0)
        return met
    met = word.lower() in fine
    if tokens and tokens[0] == "WITH":
        exception = tokens[1]
        del tokens[:2]
        met = met or f"{word} WITH {exception}".lower() in fine
    return met
