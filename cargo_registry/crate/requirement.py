"""What a dependency's version requirement says: `^1.2`, `>=1, <3`, `1.*`.

Written after the grammar of Rust's `semver` 1.0 (`VersionReq`), which cargo reads requirements with; it
differs from the requirements of npm and from Python's.
Spec: https://docs.rs/semver/1/semver/struct.VersionReq.html
"""

import re

from cargo_registry.crate.names import shown
from cargo_registry.crate.versions import MAX_NUMBER
from cargo_registry.errors import InvalidRequirement

# (semver: parse.rs, `MAX_COMPARATORS`)
_MAX_COMPARATORS = 32

_NUMBER = r"(?:0|[1-9][0-9]*)"
_PRE = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_BUILD = r"[0-9A-Za-z-]+"
_COMPARATOR = re.compile(
    rf"""
    (?P<op>>=|<=|[=><~^])?[ ]*
    (?P<major>{_NUMBER})
    (?:\.(?:
        (?P<wildcard>[*xX])(?:\.[*xX])?
      | (?P<minor>{_NUMBER})
        (?:\.(?:
            (?P<last_wildcard>[*xX])
          | (?P<patch>{_NUMBER})(?P<pre>-{_PRE}(?:\.{_PRE})*)?(?:\+{_BUILD}(?:\.{_BUILD})*)?
        ))?
    ))?
    [ ]*
    """,
    re.VERBOSE,
)


def normal_form(text: str) -> str:
    """Return the requirement as cargo prints it; two that say the same in other words stay apart.

    `1.0.0+meta` → `^1.0.0`, `>= 1.0 ,< 3` → `>=1.0, <3`, `1.x` → `1.*`, `=1.*` → `=1`.

    Raises:
        InvalidRequirement: cargo could not read it.
    """
    if is_wildcard(text):
        return "*"
    # Only spaces: cargo refuses a tab or a line break here.
    parts = text.lstrip(" ").split(",")
    if len(parts) > _MAX_COMPARATORS:
        raise InvalidRequirement(
            f"the version requirement {shown(text)} has too many parts; use at most {_MAX_COMPARATORS}"
        )
    return ", ".join(_comparator(part.lstrip(" "), text) for part in parts)


def is_wildcard(text: str) -> bool:
    """Tell whether a requirement is `*` alone, which any version meets."""
    return text.strip(" ") in {"*", "x", "X"}


def _comparator(part: str, whole: str) -> str:
    match = _COMPARATOR.fullmatch(part)
    if match is None:
        raise InvalidRequirement(
            f"the version requirement {shown(whole)} cannot be read; write it like `1.2`, `>=1.2, <2` or `=1.2.3`"
        )
    numbers = [number for number in match.group("major", "minor", "patch") if number is not None]
    # Longer texts need not be compared; and int() refuses more than 4,300 digits.
    if any(len(number) > 20 or int(number) > MAX_NUMBER for number in numbers):
        raise InvalidRequirement(
            f"the version requirement {shown(whole)} has a number that is too large; use at most {MAX_NUMBER}"
        )
    version = ".".join(numbers) + (match["pre"] or "")
    if match["op"]:
        return match["op"] + version
    return f"{version}.*" if match["wildcard"] or match["last_wildcard"] else f"^{version}"
