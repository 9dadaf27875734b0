"""For which targets a dependency is: `cfg(unix)`, `x86_64-pc-windows-msvc`.

Written after the grammar of the crate `cargo-platform`, which cargo reads these with.
Spec: https://doc.rust-lang.org/cargo/reference/specifying-dependencies.html#platform-specific-dependencies
"""

import re
from collections.abc import Iterator
from typing import NoReturn

from cargo_registry.crate.names import shown
from cargo_registry.errors import InvalidRequirement

# Real ones nest four deep at most. cargo recurses without a limit and overflows its stack.
_MAX_NESTING = 32

_TRIPLE = re.compile(r"[A-Za-z0-9_.-]+")
# The third kind of character is one that fits nowhere. Only the space is white: cargo refuses a tab.
_TOKEN = re.compile(r' *(?:((?:r#)?[A-Za-z_][A-Za-z0-9_]*|"[^"]*"|[(),=])|(.))', re.DOTALL)


def canonical(target: str) -> str:
    """Return a target as cargo prints it, so that two spellings of the same one are equal.

    `cfg(target_os="linux")` → `cfg(target_os = "linux")`, `cfg( any(unix,) )` → `cfg(any(unix))`. A triple
    stays as it is.

    Raises:
        InvalidRequirement: cargo could not read it.
    """
    if target.startswith("cfg(") and target.endswith(")"):
        return f"cfg({_Parser(target).whole()})"
    if not _TRIPLE.fullmatch(target):
        raise InvalidRequirement(
            f"the target {shown(target)} cannot be read; write a triple such as `x86_64-unknown-linux-gnu`, or a "
            "condition such as `cfg(unix)`"
        )
    return target


class _Parser:
    """One reading of the expression between `cfg(` and `)`."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._tokens = self._tokenize(target[len("cfg(") : -1])
        self._next = next(self._tokens, "")

    def whole(self) -> str:
        """Return the expression, printed; nothing may follow it."""
        expression = self._expression(0)
        if self._next:
            self._refuse()
        return expression

    def _expression(self, depth: int) -> str:
        if depth > _MAX_NESTING:
            raise InvalidRequirement(
                f"the target {shown(self._target)} nests too deeply; use at most {_MAX_NESTING} levels"
            )
        word = self._take_word()
        if word in {"all", "any"}:
            self._take("(")
            return f"{word}({', '.join(self._list(depth + 1))})"
        if word == "not":
            self._take("(")
            expression = self._expression(depth + 1)
            self._take(")")
            return f"not({expression})"
        if self._next == "=":
            self._take("=")
            return f"{word} = {self._take_string()}"
        return word

    def _list(self, depth: int) -> Iterator[str]:
        """Yield what stands before the closing `)`; a comma may stand last."""
        while self._next != ")":
            yield self._expression(depth)
            if self._next != ",":
                break
            self._take(",")
        self._take(")")

    def _take(self, expected: str) -> None:
        if self._next != expected:
            self._refuse()
        self._next = next(self._tokens, "")

    def _take_word(self) -> str:
        word = self._next
        if not word or word[0] in '"(),=':
            self._refuse()
        self._take(word)
        return word

    def _take_string(self) -> str:
        string = self._next
        if not string.startswith('"'):
            self._refuse()
        self._take(string)
        return string

    def _tokenize(self, text: str) -> Iterator[str]:
        for match in _TOKEN.finditer(text.rstrip(" ")):
            if match[2] is not None:
                self._refuse()
            yield match[1]

    def _refuse(self) -> NoReturn:
        raise InvalidRequirement(
            f"the target {shown(self._target)} cannot be read; write it like `cfg(unix)` or "
            '`cfg(all(target_os = "linux", not(target_env = "musl")))`'
        )
