"""Which text is a version, and which of two is the newer.

Spec: https://semver.org/spec/v2.0.0.html, as Rust's `semver` 1.0 reads it.
"""

import re
from collections.abc import Iterable

import semver

from cargo_registry.crate.names import shown
from cargo_registry.errors import InvalidVersion

# crates.io's limit: its CDN tags each release with `release:{name}@{version}`, at most 256 characters.
MAX_VERSION_CHARS = 150

MAX_NUMBER = 2**64 - 1

# Written out: `\d` would take the digits of every script, and `$` a newline at the end.
_NUMBER = r"(?:0|[1-9][0-9]*)"
_PRE = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_BUILD = r"[0-9A-Za-z-]+"
_VERSION = re.compile(
    rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})(?:-({_PRE}(?:\.{_PRE})*))?(?:\+({_BUILD}(?:\.{_BUILD})*))?"
)


def parse(text: str) -> semver.Version:
    """Return the version that `text` spells.

    Raises:
        InvalidVersion: not SemVer 2.0.0, a number above 2^64-1, or more than 150 characters.
    """
    if len(text) > MAX_VERSION_CHARS:
        raise InvalidVersion(
            f"the version {shown(text)} is too long; use at most {MAX_VERSION_CHARS} characters"
        )
    match = _VERSION.fullmatch(text)
    if match is None:
        raise InvalidVersion(
            f"the version {shown(text)} is not a semantic version; write it like `1.2.3` or `1.2.3-beta.1`"
        )
    major, minor, patch = (int(number) for number in match.group(1, 2, 3))
    if max(major, minor, patch) > MAX_NUMBER:
        raise InvalidVersion(
            f"the version {shown(text)} has a number that is too large; use numbers of at most {MAX_NUMBER}"
        )
    return semver.Version(major, minor, patch, match[4], match[5])


def without_build(text: str) -> str:
    """Return a valid version without its build metadata, which does not tell versions apart."""
    return text.partition("+")[0]


def max_version(versions: Iterable[str]) -> str | None:
    """Return the highest of valid versions, pre-releases included, or None where there is none."""
    return max(versions, key=parse, default=None)


def max_stable(versions: Iterable[str]) -> str | None:
    """Return the highest of valid versions that is no pre-release, or None where there is none."""
    return max_version(text for text in versions if parse(text).prerelease is None)
