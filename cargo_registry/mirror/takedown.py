"""What a new file from upstream changes: versions that come, vanish, come back, or claim another checksum.

Runs within `index.change`; what is written here and the file that is served change as one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from cargo_registry.db import audit, mirrors
from cargo_registry.db.audit import Actor
from cargo_registry.db.mirrors import File, Seen
from cargo_registry.policy import serving
from cargo_registry.policy.serving import Line
from cargo_registry.registry import Registry


@dataclass(frozen=True, slots=True)
class Event:
    """Something that somebody should know of."""

    action: str  # as in the audit log
    name: str
    vers: str | None
    detail: str

    def __str__(self) -> str:
        return f"{self.action} {self.name}{f'@{self.vers}' if self.vers else ''}: {self.detail}"


def take(tx: Connection, registry: Registry, new: File, *, local: Collection[str]) -> Sequence[Event]:
    """Put upstream's file in place of the one before, and return what is remarkable about it.

    `local`: the registries of this server that people publish to.
    """
    now = new.checked_at
    before = mirrors.file(tx, registry.name, new.name)
    lines = serving.lines_of(new.raw)
    events: list[Event] = []
    if before is not None:
        new = replace(new, filled_at=before.filled_at)
        if not new.raw:
            new = replace(new, gone_at=before.gone_at or now)
        events += _compare(tx, registry, before, lines, now)
    events += _namesakes(tx, registry, new.name, lines, local, is_first=before is None)
    held = put(tx, registry, new)
    if before is not None:
        mirrors.set_yanked(tx, registry.name, held, now=now)
    for event in events:
        audit.record(
            tx,
            event.action,
            actor=Actor("mirror"),
            now=now,
            registry=registry.name,
            crate=event.name,
            vers=event.vers,
            detail=event.detail,
        )
    return events


def put(tx: Connection, registry: Registry, file: File) -> Sequence[Line]:
    """Write a file, and under which policy and until when its rendering holds; return the lines that hold."""
    policy = _policy(registry)
    now = registry.now()
    lines, facts = mirrors.facts(tx, registry.name, file, policy, now=now)
    due = serving.next_change(lines, facts)
    mirrors.put_file(tx, registry.name, replace(file, fingerprint=policy.fingerprint, due_at=due))
    return lines


def _compare(
    tx: Connection, registry: Registry, before: File, lines: Sequence[Line], now: datetime
) -> list[Event]:
    events: list[Event] = []
    known = mirrors.seen(tx, registry.name, before.name)
    old = {line.vers: line for line in serving.lines_of(before.raw)}
    new = {line.vers: line for line in lines}
    for vers, line in new.items():
        was = known.get(vers) or (_seen(old[vers]) if vers in old else None)
        if was is None:
            mirrors.put_seen(tx, registry.name, replace(_seen(line), first_seen_at=now))
            continue
        changed = was
        if was.gone_at is not None:
            events.append(Event("mirror-back", before.name, vers, "upstream has the version again"))
            changed = replace(changed, gone_at=None)
        if line.cksum == was.cksum:
            if was.changed_at is not None:
                events.append(Event("mirror-cksum-right", before.name, vers, "upstream is right again"))
            changed = replace(changed, line=line.raw, changed_at=None, changed_cksum=None)
        elif was.changed_cksum != line.cksum:
            events.append(
                Event(
                    "mirror-cksum-alarm",
                    before.name,
                    vers,
                    f"upstream says {line.cksum} and said {was.cksum}; the old line holds, nothing new is fetched",
                )
            )
            changed = replace(changed, changed_at=was.changed_at or now, changed_cksum=line.cksum)
        if changed != was and (vers in known or changed != replace(was, line=line.raw)):
            mirrors.put_seen(tx, registry.name, changed)
    for vers in (old.keys() | known.keys()) - new.keys():
        was = known.get(vers) or _seen(old[vers])
        if was.gone_at is None:
            mirrors.put_seen(tx, registry.name, replace(was, gone_at=now))
            kept = "goes on being served" if registry.table.policy.vanished == "serve" else "is in quarantine"
            events.append(Event("mirror-vanished", before.name, vers, f"upstream has it no more; it {kept}"))
    return events


class _Dep(msgspec.Struct):
    name: str
    package: str | None = None
    registry: str | None = None


class _Deps(msgspec.Struct):
    deps: list[_Dep] = []


def _namesakes(
    tx: Connection,
    registry: Registry,
    name: str,
    lines: Sequence[Line],
    local: Collection[str],
    *,
    is_first: bool,
) -> list[Event]:
    """Return alarms over names of ours that upstream uses: somebody may be waiting for a build to mix them up."""
    found: dict[str, str] = {}
    if is_first and lines and (namesake := mirrors.local_namesake(tx, local, name)):
        found[name] = f"registry `{namesake}` of this server has a crate of that name, and so has upstream"
    if internal := _policy(registry).internal:
        for line in lines:
            try:
                deps = msgspec.json.decode(line.raw, type=_Deps).deps
            except msgspec.DecodeError:
                continue
            for dep in deps:
                wanted = dep.package or dep.name
                if dep.registry is None and any(pattern.is_for(wanted) for pattern in internal):
                    found.setdefault(wanted, f"upstream's `{name}@{line.vers}` depends on this internal name")
    return [
        Event("mirror-internal-name", known, None, detail)
        for known, detail in found.items()
        if mirrors.raise_alarm(
            tx, registry.name, kind="internal-name", name=known, detail=detail, now=registry.now()
        )
    ]


def _seen(line: Line) -> Seen:
    return Seen(line.name.lower(), line.vers, line.raw, line.cksum, None, None, None, None)


def _policy(registry: Registry) -> serving.Policy:
    if registry.policy is None:
        raise ValueError(f"registry {registry.name} is no mirror")
    return registry.policy
