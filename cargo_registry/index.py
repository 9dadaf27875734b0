"""Index files: renderings of rows. `change` is the one way to change what a file says.

A crate's file holds one JSON line per version, exactly as cargo gets it, and can be deleted and rebuilt.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection

from cargo_registry.crate import entry
from cargo_registry.crate.names import CrateName
from cargo_registry.db import crates, mirrors
from cargo_registry.registry import Registry

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spooled:
    """A tarball that has arrived, fsynced, and the key it shall have."""

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
    return await registry.db.in_writer(partial(_change, registry, name, rows, tarball, then))


def _change(
    registry: Registry,
    name: CrateName,
    rows: Callable[[Connection], T],
    tarball: Spooled | None,
    then: Callable[[T], None] | None,
) -> T:
    """Lock → transaction (rows, tarball, new file beside the old one) → COMMIT → rename → release.

    Without the lock, a slow writer renames an older list over a newer one that was already acknowledged,
    and readers see versions vanish in between. The file is written before the COMMIT, so that a full disk
    refuses the change whole; after it there is only a rename, which needs no space. A crash between the two
    leaves a prepared file, which `recover` and the next change of the crate find.
    """
    key = _key(registry, name)
    with registry.locks.hold(f"{registry.name}/{name.canonical}"):
        if key in registry.index_files.unfinished():
            _renew(registry, name)
        stored = False
        try:
            with registry.db.transaction() as tx:
                result = rows(tx)
                if tarball is not None:
                    registry.tarballs.adopt(tarball.key, tarball.path)
                    stored = True
                registry.index_files.prepare(key, _render(tx, registry, name))
        except BaseException:
            registry.index_files.forget(key)
            # Under the lock: nobody else can have listed the same bytes meanwhile.
            if tarball is not None and stored:
                registry.tarballs.delete(tarball.key)
            raise
        registry.index_files.show(key)
        if then is not None:
            then(result)
        return result


async def change_all(
    registry: Registry, changes: Sequence[tuple[CrateName, Callable[[Connection], T]]]
) -> list[T]:
    """Change several crates as `change` does, all of them or none, in one transaction.

    For what can be had again: a power cut may lose the files, not the rows. Who calls this renews such a file
    (`renew`) when it is asked for.
    """
    return await registry.db.in_writer(partial(_change_all, registry, changes))


def _change_all(
    registry: Registry, changes: Sequence[tuple[CrateName, Callable[[Connection], T]]]
) -> list[T]:
    keys = [_key(registry, name) for name, _ in changes]
    with registry.locks.hold_all(f"{registry.name}/{name.canonical}" for name, _ in changes):
        for name, _ in changes:
            if _key(registry, name) in registry.index_files.unfinished():
                _renew(registry, name)
        try:
            with registry.db.transaction() as tx:
                results = []
                for (name, rows), key in zip(changes, keys, strict=True):
                    results.append(rows(tx))
                    registry.index_files.prepare(key, _render(tx, registry, name), durable=False)
        except BaseException:
            for key in keys:
                registry.index_files.forget(key)
            raise
        for key in keys:
            registry.index_files.show(key)
        return results


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
    crate = crates.find(db, registry.name, name.text)
    # A key that is not quite the crate's name (`foo_bar` for `foo-bar`) is no file of its own.
    if crate is None or crate.name.lower() != name.lower:
        return b""
    return entry.render(crates.lines(db, crate.id))


def _names(db: Connection, registry: Registry) -> list[CrateName]:
    if registry.is_mirror:
        return [CrateName.stored(name) for name in mirrors.names(db, registry.name)]
    return [CrateName.stored(name) for name in crates.names(db, registry.name)]


def _key(registry: Registry, name: CrateName) -> str:
    return f"{registry.name}/{entry.index_path(name)}"
