"""Which names are allowed: crates, features, dependencies, logins and teams.

Spec: https://doc.rust-lang.org/cargo/reference/manifest.html#the-name-field, and where cargo leaves
it to the registry, the rules of crates.io (crates_io: crates_io_validation/src/lib.rs).

Two crates may not differ only in case or in `-` against `_`: both mean the same to people, and
cargo itself tries the other spelling when it finds nothing. Hence the canonical form.
"""

import fnmatch
import re
from dataclasses import dataclass
from typing import Self

from cargo_registry.errors import InvalidName

MAX_CRATE_NAME_CHARS = 64

_CRATE = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_RENAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_ACCOUNT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# A file of such a name cannot be made on Windows, whatever its extension.
WINDOWS_DEVICES = frozenset(
    ("nul", "con", "prn", "aux", *(f"com{n}" for n in range(10)), *(f"lpt{n}" for n in range(10)))
)

# What rustc and its libraries are or were made of: a dependency of such a name would look like the
# toolchain's. crates.io's list (migrations 2015-03-05, 2017-04-30, 2021-02-10) without
# `compiler-builtins`, which is a crate there, and which many crates depend on.
# fmt: off
_TOOLCHAIN = frozenset((
    "alloc", "arena", "ast", "builtins", "collections", "compiler_rt", "compiletest", "core", "coretest",
    "debug", "driver", "flate", "fmt_macros", "grammar", "graphviz", "macro", "macros", "proc_macro",
    "rbml", "rust_installer", "rustbook", "rustc", "rustc_back", "rustc_borrowck", "rustc_driver",
    "rustc_llvm", "rustc_resolve", "rustc_trans", "rustc_typeck", "rustdoc", "rustllvm", "rustuv",
    "serialize", "std", "syntax", "test", "unicode",
))
# fmt: on


@dataclass(frozen=True, slots=True)
class CrateName:
    """A crate's name as spelled by its author; it cannot exist unless valid.

    Raises:
        InvalidName: too long, a character that is not allowed, or reserved.
    """

    text: str

    def __post_init__(self) -> None:
        _check_crate_chars(self.text, "crate name")
        if self.canonical in WINDOWS_DEVICES:
            raise InvalidName(
                f"the crate name {shown(self.text)} is reserved by Windows for a device; choose another name"
            )
        if self.canonical in _TOOLCHAIN:
            raise InvalidName(
                f"the crate name {shown(self.text)} is reserved for Rust's own libraries and tools; "
                "choose another name"
            )

    @classmethod
    def stored(cls, text: str) -> Self:
        """Return a name that was let in before, whatever the rules say today."""
        name = object.__new__(cls)
        object.__setattr__(name, "text", text)
        return name

    @property
    def lower(self) -> str:
        """The name as it stands in paths of the index."""
        return self.text.lower()

    @property
    def canonical(self) -> str:
        """What must be unique: lower case with `_` for `-`."""
        return self.lower.replace("-", "_")

    def __str__(self) -> str:
        return self.text


def canonical(text: str) -> str | None:
    """Return the canonical form for a look-up, or None where no crate can have that name.

    Takes anything a URL can hold. Reserved names have a form too: there is just no such crate.
    """
    if len(text) > MAX_CRATE_NAME_CHARS or not _CRATE.fullmatch(text):
        return None
    return text.lower().replace("-", "_")


def matches(pattern: str, name: str) -> bool:
    """Tell whether a shell glob such as `team-*` matches a crate's name; as in names, case and `-`/`_` are one."""
    # Within [a-z] the hyphen is a range; everywhere else it is a letter of the name.
    parts = re.split(r"(\[[^\]]*\])", pattern.lower())
    folded = "".join(part if part.startswith("[") else part.replace("-", "_") for part in parts)
    return fnmatch.fnmatchcase(name.lower().replace("-", "_"), folded)


def check_dependency_name(name: str) -> None:
    """Check the real name of a crate that is depended on; reserved names are another registry's matter.

    Raises:
        InvalidName
    """
    _check_crate_chars(name, "dependency name")


def check_rename(name: str) -> None:
    """Check what a dependency is called in the code of the crate: as a crate, but `_` may come first.

    Raises:
        InvalidName
    """
    if not _RENAME.fullmatch(name) or len(name) > MAX_CRATE_NAME_CHARS:
        raise InvalidName(
            f"the dependency name {shown(name)} is not allowed; use a letter or `_` and then letters, digits, "
            f"`-` or `_`, at most {MAX_CRATE_NAME_CHARS} characters"
        )


def check_feature_name(name: str) -> None:
    """Check a feature's name as cargo does (cargo: cargo-util-schemas, `validate_feature_name`).

    Raises:
        InvalidName
    """
    if not name:
        raise InvalidName("a feature has an empty name; give it one")
    # Python's identifiers are `_` or XID_Start, then XID_Continue, as cargo's rule is.
    if not (name[0].isidentifier() or name[0] in "0123456789"):
        raise InvalidName(
            f"the feature name {shown(name)} is not allowed; it must start with a letter, a digit or `_`"
        )
    if not all(char in "+-." or f"_{char}".isidentifier() for char in name[1:]):
        raise InvalidName(
            f"the feature name {shown(name)} is not allowed; use only letters, digits, `_`, `-`, `+` and `.`"
        )


def check_login(text: str) -> None:
    """Check the login of an account.

    Raises:
        InvalidName
    """
    _check_account(text, "login")


def check_team(text: str) -> None:
    """Check the name of a team.

    Raises:
        InvalidName
    """
    _check_account(text, "team name")


def check_label(text: str) -> None:
    """Check what people call an account or token: anything that a terminal can show.

    Raises:
        InvalidName
    """
    if not text.isprintable():
        raise InvalidName(f"the name {shown(text)} is not allowed; use only characters that can be printed")


def shown(text: str) -> str:
    """Return text in backticks for a message: shortened, and harmless to a terminal."""
    printable = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text[:80]
    )
    return f"`{printable}{'…' if len(text) > 80 else ''}`"


def _check_crate_chars(name: str, label: str) -> None:
    if not name:
        raise InvalidName(f"the {label} is empty; give one")
    if len(name) > MAX_CRATE_NAME_CHARS:
        raise InvalidName(
            f"the {label} {shown(name)} is too long; use at most {MAX_CRATE_NAME_CHARS} characters"
        )
    if not _CRATE.fullmatch(name):
        raise InvalidName(
            f"the {label} {shown(name)} is not allowed; use an ASCII letter and then ASCII letters, digits, "
            "`-` and `_`"
        )


def _check_account(text: str, label: str) -> None:
    if not _ACCOUNT.fullmatch(text):
        raise InvalidName(
            f"the {label} {shown(text)} is not allowed; use an ASCII letter or digit and then ASCII letters, "
            "digits, `-`, `_` and `.`, at most 64 characters"
        )
