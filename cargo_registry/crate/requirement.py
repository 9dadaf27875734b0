"""What a dependency's version requirement says: `^1.2`, `>=1, <3`, `1.*`.

Written after the grammar of Rust's `semver` 1.0 (`VersionReq`), which cargo reads requirements with; it
differs from the requirements of npm and from Python's.
Spec: https://docs.rs/semver/1/semver/struct.VersionReq.html
"""

import re
from dataclasses import dataclass

import semver

from cargo_registry.crate import versions
from cargo_registry.crate.names import shown
from cargo_registry.crate.versions import MAX_NUMBER
from cargo_registry.errors import InvalidRequirement, InvalidVersion

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


def matches(text: str, vers: str, *, prereleases: bool = False) -> bool:
    """Tell whether a version meets a requirement, as cargo decides it (semver: eval.rs).

    A pre-release meets only a requirement that names one of the same version; with `prereleases`, also any range
    that it lies in. Text that is no version meets nothing.

    Raises:
        InvalidRequirement: cargo could not read the requirement.
    """
    form = normal_form(text)
    try:
        version = versions.parse(vers)
    except InvalidVersion:
        return False
    if form == "*":
        return prereleases or version.prerelease is None
    comparators = [_parts(part) for part in form.split(", ")]
    if not all(_meets(version, comparator) for comparator in comparators):
        return False
    if prereleases or version.prerelease is None:
        return True
    return any(
        comparator.pre is not None
        and (comparator.major, comparator.minor, comparator.patch)
        == (version.major, version.minor, version.patch)
        for comparator in comparators
    )


@dataclass(frozen=True, slots=True)
class _Comparator:
    op: str
    major: int
    minor: int | None
    patch: int | None
    pre: str | None


def _parts(part: str) -> _Comparator:
    """Read one part of a requirement in its normal form."""
    match = _COMPARATOR.fullmatch(part)
    if match is None:
        raise ValueError(f"not in normal form: {part!r}")
    major, minor, patch = (
        None if number is None else int(number) for number in match.group("major", "minor", "patch")
    )
    pre = None if match["pre"] is None else match["pre"][1:]
    # `1.2.*` means `=1.2` (semver: eval.rs, `Op::Wildcard`).
    return _Comparator(match["op"] or "=", major or 0, minor, patch, pre)


def _meets(version: semver.Version, comparator: _Comparator) -> bool:
    low = semver.Version(comparator.major, comparator.minor or 0, comparator.patch or 0, comparator.pre)
    if comparator.minor is None:
        above = (comparator.major + 1, 0, 0)
    elif comparator.patch is None:
        above = (comparator.major, comparator.minor + 1, 0)
    else:
        above = (comparator.major, comparator.minor, comparator.patch + 1)
    numbers = (version.major, version.minor, version.patch)
    version = version.replace(build=None)
    is_full = comparator.patch is not None
    match comparator.op:
        case "=":
            return version == low if is_full else (low.major, low.minor, low.patch) <= numbers < above
        case ">":
            return version > low if is_full else numbers >= above
        case ">=":
            return version >= low
        case "<":
            return version < low
        case "<=":
            return version <= low if is_full else numbers < above
        case "~":
            if is_full:
                above = (comparator.major, comparator.minor or 0, 0)
                above = (above[0], above[1] + 1, 0)
        case "^":
            if comparator.major or comparator.minor is None:
                above = (comparator.major + 1, 0, 0)
            elif comparator.minor or comparator.patch is None:
                above = (0, comparator.minor + 1, 0)
    return version >= low and numbers < above


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
