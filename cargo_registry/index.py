"""Index files: renderings of rows. `change` is the one way to change what a file says.

A crate's file holds one JSON line per version, exactly as cargo gets it, and can be deleted and rebuilt.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cargo_registry.crate import entry
from cargo_registry.crate.names import CrateName
from cargo_registry.db import crates, mirrors
from cargo_registry.db.engine import MAX_QUEUE_S
from cargo_registry.errors import Unavailable
from cargo_registry.registry import Registry

T = TypeVar("T")

log = logging.getLogger(__name__)

# Changes that share a COMMIT. More would keep the first of them, and other processes, waiting.
_MAX_GROUP = 64


@dataclass(frozen=True, slots=True)
class Spooled:
    """A tarball that has arrived, and the key it shall have."""

    path: Path
    key: str


async def change(
    registry: Registry,
    name: CrateName,
    rows: Callable[[Connection], T],
    *,
    tarball: Spooled | None = None,
    then: Callable[[T], None] | None = None,
) -> T:
    """Change a crate's rows, as `rows(tx)` says, and its index file, as one; return what `rows` returns.

    A `tarball` is moved under its key once `rows` has not refused, so that the version exists with its
    tarball or not at all. On return the change is durable and the very next GET sees it. Whatever is raised,
    nothing has changed. `then` is called once the change shows, while nobody else can change the crate.
    """
    wanted = _Change(registry, name, rows, tarball, then)
    registry.waiting.append(wanted)
    registry.db.soon(partial(_change_waiting, registry))
    done = asyncio.wrap_future(wanted.done)
    try:
        # Finished even if the caller is cancelled: a client that hangs up changes nothing.
        result: T = await asyncio.shield(done)
    except asyncio.CancelledError:
        # Whoever called removes the tarball from the spool, which may not have been moved yet.
        await asyncio.wait({done})
        done.exception()  # nobody is left to be told
        raise
    return result


@dataclass(eq=False, slots=True)
class _Change:
    """A change of one crate that waits, or shares a COMMIT with others."""

    registry: Registry
    name: CrateName
    rows: Callable[[Connection], Any]
    tarball: Spooled | None
    then: Callable[[Any], None] | None
    asked: float = field(default_factory=time.monotonic)
    done: Future[Any] = field(default_factory=Future)
    result: Any = None
    stored: bool = False

    @property
    def key(self) -> str:
        return _key(self.registry, self.name)

    @property
    def lock(self) -> str:
        return f"{self.registry.name}/{self.name.canonical}"

    def prepare(self, tx: Connection, unsynced: set[Path]) -> None:
        """Change the rows, put the tarball under its key, and write the new file beside the old one."""
        self.result = self.rows(tx)
        if self.tarball is not None:
            self.registry.tarballs.adopt(self.tarball.key, self.tarball.path, unsynced=unsynced)
            self.stored = True
        data = _render(tx, self.registry, self.name)
        self.registry.index_files.prepare(self.key, data, unsynced=unsynced)

    def refuse(self, error: BaseException) -> None:
        """Take back what is no row, and say why."""
        with suppress(OSError):
            self.registry.index_files.forget(self.key)
            # Under the lock: nobody else can have listed the same bytes meanwhile.
            if self.tarball is not None and self.stored:
                self.registry.tarballs.delete(self.tarball.key)
        self.done.set_exception(error)

    def show(self) -> None:
        """Put the new file in place of the old one, and say that it is done."""
        try:
            self.registry.index_files.show(self.key)
            if self.then is not None:
                self.then(self.result)
        except OSError as error:
            # It has happened, so it is not answered with an error. The disk failed within these microseconds.
            log.error(
                "%s is changed, but its index file is shown only after the next start: %s", self.name, error
            )
        self.done.set_result(self.result)


def _change_waiting(registry: Registry) -> None:
    """Make the changes that wait, many at once: a COMMIT, and the fsyncs before it, cost the same for all."""
    group = _next_group(registry.waiting)
    if not group:
        return  # a call before took it along
    try:
        with registry.locks.hold(*(change.lock for change in group)):
            _change_group(registry, group)
    except BaseException as error:
        for change in group:
            if not change.done.done():
                change.done.set_exception(error)


def _next_group(waiting: deque[_Change]) -> list[_Change]:
    """Take the next changes out, of each crate one."""
    group: dict[str, _Change] = {}
    again = []
    while waiting and len(group) < _MAX_GROUP:
        change = waiting.popleft()
        if change.done.cancelled():
            continue
        if time.monotonic() - change.asked > MAX_QUEUE_S:
            busy = Unavailable("the registry's database is busy; nothing was changed, try again")
            if change.done.set_running_or_notify_cancel():
                change.done.set_exception(busy)
        elif group.setdefault(change.lock, change) is not change:
            again.append(change)
    # Whoever asked for them has also asked for another call of `_change_waiting`.
    waiting.extendleft(reversed(again))
    # From here on nobody can cancel them.
    return [change for change in group.values() if change.done.set_running_or_notify_cancel()]


def _change_group(registry: Registry, group: list[_Change]) -> None:
    """Transaction (rows, tarballs, new files beside the old ones) → fsync → COMMIT → rename; under the locks.

    Without the locks, a slow writer renames an older list over a newer one that was already acknowledged,
    and readers see versions vanish in between. The files are written before the COMMIT, so that a full disk
    refuses a change whole; after it there are only renames, which need no space. A crash between the two
    leaves prepared files, which `recover` and the next change of the crate find. A change that is refused
    undoes nothing of the others.
    """
    unfinished = set(registry.index_files.unfinished())
    for change in group:
        if change.key in unfinished:
            _renew(change.registry, change.name)
    unsynced: set[Path] = set()
    prepared: list[_Change] = []
    try:
        with registry.db.transaction() as tx:
            for change in group:
                try:
                    with tx.begin_nested():
                        change.prepare(tx, unsynced)
                except DBAPIError:
                    # The savepoint may be gone with the transaction.
                    raise
                except Exception as error:
                    change.refuse(error)
                else:
                    prepared.append(change)
            # Also of changes that were refused, of which some may be gone.
            registry.tarballs.sync(unsynced)
    except BaseException as error:
        for change in group:
            if not change.done.done():
                change.refuse(error)
        return
    for change in prepared:
        change.show()


async def recover(registry: Registry) -> None:
    """Finish what a crash left between COMMIT and rename. Costs nothing where there was no crash."""
    prefix = f"{registry.name}/"
    for key in registry.index_files.unfinished():
        if key.startswith(prefix):
            await registry.db.in_writer(partial(_renew_locked, registry, CrateName.stored(Path(key).name)))


async def renew(registry: Registry, name: CrateName) -> None:
    """Make a crate's file what its rows say, if it is not."""
    data = registry.db.look_up(_render, registry, name)
    if not _says(registry, name, data):
        await registry.db.in_writer(partial(_renew_locked, registry, name))


async def differences(registry: Registry) -> AsyncIterator[str]:
    """Yield the name of each crate whose file is not what its rows say; for a file without crate, its key.

    Safe beside a running server: what changes meanwhile is looked at again under its lock.
    """
    names = await registry.db.read(_names, registry)
    for name in names:
        data = await registry.db.read(_render, registry, name)
        if not _says(registry, name, data) and await registry.db.in_writer(
            partial(_is_wrong, registry, name)
        ):
            yield name.text
    known = {_key(registry, name) for name in names}
    for key in sorted(set(registry.index_files.keys(registry.name)) - known):
        name = CrateName.stored(Path(key).name)
        if key != _key(registry, name) or await registry.db.in_writer(partial(_is_wrong, registry, name)):
            yield key


async def rebuild(registry: Registry, *, progress: Callable[[str], None]) -> int:
    """Write each index file that is not what its rows say, remove those without a crate; return how many."""
    changed = 0
    names = await registry.db.read(_names, registry)
    for name in names:
        changed += await registry.db.in_writer(partial(_renew_locked, registry, name))
        progress(name.text)
    known = {_key(registry, name) for name in names}
    for key in set(registry.index_files.keys(registry.name)) - known:
        name = CrateName.stored(Path(key).name)
        if key == _key(registry, name):
            # A crate of that name may just be coming into being: the rows decide, under its lock.
            changed += await registry.db.in_writer(partial(_renew_locked, registry, name))
        else:
            registry.index_files.delete(key)
            changed += 1
    return changed


def _is_wrong(registry: Registry, name: CrateName) -> bool:
    with registry.locks.hold(f"{registry.name}/{name.canonical}"), registry.db.transaction() as tx:
        return not _says(registry, name, _render(tx, registry, name))


def _renew_locked(registry: Registry, name: CrateName) -> bool:
    with registry.locks.hold(f"{registry.name}/{name.canonical}"):
        return _renew(registry, name)


def _renew(registry: Registry, name: CrateName) -> bool:
    """Make the index file what the rows say, under the crate's lock; return whether it was not."""
    key = _key(registry, name)
    with registry.db.transaction() as tx:
        data = _render(tx, registry, name)
    if _says(registry, name, data):
        registry.index_files.forget(key)
        return False
    if data:
        # What a crash left is as a rule just this. Written anew it would need space, and there may be none.
        if registry.index_files.prepared(key) != data:
            registry.index_files.prepare(key, data)
        registry.index_files.show(key)
    else:
        registry.index_files.delete(key)
        registry.index_files.forget(key)
    return True


def _says(registry: Registry, name: CrateName, data: bytes) -> bool:
    return (registry.index_files.read(_key(registry, name)) or b"") == data


def _render(db: Connection, registry: Registry, name: CrateName) -> bytes:
    if registry.policy is not None:
        return mirrors.render(db, registry.name, name.lower, registry.policy, now=registry.now())
    return entry.render(crates.lines(db, registry.name, name))


def _names(db: Connection, registry: Registry) -> list[CrateName]:
    if registry.is_mirror:
        return [CrateName.stored(name) for name in mirrors.names(db, registry.name)]
    return [CrateName.stored(name) for name in crates.names(db, registry.name)]


def _key(registry: Registry, name: CrateName) -> str:
    return f"{registry.name}/{entry.index_path(name)}"
