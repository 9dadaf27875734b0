"""Which lines of an index file a mirror serves, and why not the others: one rule per function, pure.

Applied where the file is rendered, so it holds for every cargo; `judge` also answers a download of what is not
served, and `mirror explain`. Room for more: a rule is a function in `RULES`, what it must know a field of `Facts`.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from cargo_registry.config import PolicyTable
from cargo_registry.crate import requirement
from cargo_registry.crate.names import matches
from cargo_registry.errors import ConfigError, InvalidRequirement

_YANKED = re.compile(rb'("yanked"\s*:\s*)(?:true|false|null)')


class _Line(msgspec.Struct):
    name: str
    vers: str
    cksum: str = ""
    yanked: bool | None = False
    pubtime: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an index file, and what of it rules look at."""

    raw: bytes  # as upstream sent it, without its line end
    name: str
    vers: str
    cksum: str
    yanked: bool
    pubtime: datetime | None


@dataclass(frozen=True, slots=True)
class Pattern:
    """What an entry of a list means: a glob over names and, if not None, a requirement on versions."""

    text: str
    name: str
    req: str | None

    def is_for(self, name: str) -> bool:
        """Return whether any version of the crate can match."""
        return matches(self.name, name)

    def covers(self, line: Line, *, prereleases: bool) -> bool:
        """Return whether the version matches; a pre-release inside a range only with `prereleases`."""
        return self.is_for(line.name) and (
            self.req is None or requirement.matches(self.req, line.vers, prereleases=prereleases)
        )


@dataclass(frozen=True, slots=True)
class Ruling:
    """An exception made by command."""

    id: int
    kind: Literal["allow", "deny"]
    pattern: Pattern
    reason: str
    until: datetime | None
    by: str


@dataclass(frozen=True, slots=True)
class Policy:
    """`[registries.NAME.policy]` of a mirror, its patterns read."""

    table: PolicyTable
    deny: Sequence[Pattern]
    allow: Sequence[Pattern]
    internal: Sequence[Pattern]
    min_age_exempt: Sequence[Pattern]
    offline: bool

    @property
    def fingerprint(self) -> str:
        """What changes when a file must be rendered anew."""
        table = self.table
        return repr(
            (
                table.min_age,
                table.trust_pubtime,
                table.min_age_exempt,
                table.deny,
                table.allow,
                table.internal,
                table.vanished,
                self.offline,
            )
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """What a rule may look at besides the line."""

    policy: Policy
    now: datetime
    filled_at: datetime  # when the mirror saw the crate for the first time
    first_seen: Mapping[str, datetime] = field(default_factory=dict)  # by version; of those that came later
    gone: Mapping[str, datetime] = field(
        default_factory=dict
    )  # by version: since when upstream has it no more
    rulings: Sequence[Ruling] = ()
    stored: Collection[str] = ()  # versions whose tarball is here


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided about a version, by which rule, and why."""

    served: bool
    rule: str
    why: str
    until: datetime | None = None  # when it may be decided otherwise


Rule = Callable[[Line, Facts], Verdict | None]


def read_policy(table: PolicyTable, *, offline: bool, registry: str) -> Policy:
    """Return the policy of a mirror.

    Raises:
        ConfigError: a requirement cannot be read.
    """

    def patterns(key: str) -> list[Pattern]:
        try:
            return [pattern(text) for text in getattr(table, key)]
        except InvalidRequirement as error:
            raise ConfigError(f"`registries.{registry}.policy.{key}`: {error}") from None

    return Policy(
        table, patterns("deny"), patterns("allow"), patterns("internal"), patterns("min_age_exempt"), offline
    )


def pattern(text: str) -> Pattern:
    """Return what `NAME` or `NAME@REQ` means, NAME a shell glob.

    Raises:
        InvalidRequirement: the requirement cannot be read.
    """
    name, at, req = text.partition("@")
    return Pattern(text, name.strip(), requirement.normal_form(req) if at else None)


def lines_of(data: bytes) -> list[Line]:
    """Return the lines of an index file.

    Raises:
        ValueError: it is none: a line is no JSON object with `name` and `vers`.
    """
    lines = []
    for raw in data.split(b"\n"):
        text = raw.strip()
        if text:
            lines.append(_line(text))
    return lines


def _line(raw: bytes) -> Line:
    try:
        found = _DECODER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return Line(raw, found.name, found.vers, found.cksum, bool(found.yanked), _time(found.pubtime))


_DECODER = msgspec.json.Decoder(_Line)


def with_yanked(raw: bytes, yanked: bool) -> bytes:
    """Return a line with `yanked` said otherwise, every other byte as it was."""
    return _YANKED.sub(rb"\g<1>" + (b"true" if yanked else b"false"), raw, count=1)


def judge(line: Line, facts: Facts) -> Verdict:
    """Return what the first rule that has an opinion says."""
    for rule in RULES:
        verdict = rule(line, facts)
        if verdict is not None:
            return verdict
    return Verdict(True, "none", "no rule is against it")


def is_asked_for(name: str, policy: Policy, rulings: Sequence[Ruling]) -> bool:
    """Return whether upstream may be asked for a crate: not for internal names, nor where nothing could be served."""
    if any(pattern.is_for(name) for pattern in policy.internal):
        return False
    if any(ruling.kind == "allow" and ruling.pattern.is_for(name) for ruling in rulings):
        return True
    denied = [*policy.deny, *(ruling.pattern for ruling in rulings if ruling.kind == "deny")]
    if any(pattern.req is None and pattern.is_for(name) for pattern in denied):
        return False
    return not policy.allow or any(pattern.is_for(name) for pattern in policy.allow)


def next_change(lines: Sequence[Line], facts: Facts) -> datetime | None:
    """Return when a rule will first say otherwise because time has passed; None: never."""
    times = [ruling.until for ruling in facts.rulings if ruling.until is not None]
    if facts.policy.table.min_age:
        times += [verdict.until for line in lines if (verdict := judge(line, facts)).until is not None]
    return min((time for time in times if time is not None), default=None)


def internal(line: Line, facts: Facts) -> Verdict | None:
    """Internal names come from no upstream."""
    for pattern in facts.policy.internal:
        if pattern.is_for(line.name):
            return Verdict(False, "internal", f"`{pattern.text}` is an internal name of this house")
    return None


def offline(line: Line, facts: Facts) -> Verdict | None:
    """Offline, only what is stored can be had."""
    if facts.policy.offline and line.vers not in facts.stored:
        return Verdict(False, "offline", "this mirror is offline and its tarball is not stored")
    return None


def denied_by_command(line: Line, facts: Facts) -> Verdict | None:
    """What `mirror deny` says."""
    for ruling in facts.rulings:
        if ruling.kind == "deny" and ruling.pattern.covers(line, prereleases=True):
            return Verdict(False, "mirror deny", _ruling(ruling), ruling.until)
    return None


def allowed_by_command(line: Line, facts: Facts) -> Verdict | None:
    """What `mirror allow` says; goes before everything that stands in the configuration but `internal`."""
    for ruling in facts.rulings:
        if ruling.kind == "allow" and ruling.pattern.covers(line, prereleases=True):
            return Verdict(True, "mirror allow", _ruling(ruling), ruling.until)
    return None


def deny(line: Line, facts: Facts) -> Verdict | None:
    """The list `deny`."""
    for pattern in facts.policy.deny:
        if pattern.covers(line, prereleases=True):
            return Verdict(False, "deny", f"`{pattern.text}` is on the list `deny`")
    return None


def allow(line: Line, facts: Facts) -> Verdict | None:
    """The list `allow`, where there is one."""
    patterns = facts.policy.allow
    if patterns and not any(pattern.covers(line, prereleases=False) for pattern in patterns):
        return Verdict(False, "allow", "it is not on the list `allow`")
    return None


def vanished(line: Line, facts: Facts) -> Verdict | None:
    """What upstream has taken away is kept and not served."""
    since = facts.gone.get(line.vers)
    if since is None or facts.policy.table.vanished == "serve":
        return None
    return Verdict(
        False, "vanished", f"upstream has it no more since {since:%Y-%m-%d %H:%M} UTC, so it is in quarantine"
    )


def min_age(line: Line, facts: Facts) -> Verdict | None:
    """A version must have been out for a while: most malicious ones are found within hours."""
    table = facts.policy.table
    if not table.min_age or any(
        pattern.covers(line, prereleases=True) for pattern in facts.policy.min_age_exempt
    ):
        return None
    seen = facts.first_seen.get(line.vers)
    if line.pubtime is None:
        since = seen or facts.filled_at
    elif seen is not None and not table.trust_pubtime:
        since = max(seen, line.pubtime)
    else:
        since = line.pubtime
    try:
        due = since + timedelta(seconds=table.min_age)
    except OverflowError:
        due = datetime.max.replace(tzinfo=UTC)
    if facts.now >= due:
        return None
    return Verdict(
        False,
        "min_age",
        f"it is out since {since:%Y-%m-%d %H:%M} UTC, and versions are served {table.min_age} seconds after that, "
        f"from {due:%Y-%m-%d %H:%M} UTC on",
        due,
    )


RULES: Sequence[Rule] = (
    internal,
    offline,
    denied_by_command,
    allowed_by_command,
    deny,
    allow,
    vanished,
    min_age,
)
"""In this order; the first that has an opinion decides."""


def _ruling(ruling: Ruling) -> str:
    until = f", until {ruling.until:%Y-%m-%d %H:%M} UTC" if ruling.until else ""
    return f"`{ruling.pattern.text}` by {ruling.by}: {ruling.reason}{until}"


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
