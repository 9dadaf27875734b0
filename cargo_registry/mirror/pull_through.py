"""Pull-through: index files and tarballs come from upstream when somebody asks, once for all who ask.

The promises:

* An index file is asked for again when it is older than `max_age`. Who asks for it waits a second for that, then
  gets what is stored, as always when upstream fails.
* One request at a time for each file, over all processes on the data.
* A failing upstream is asked with growing pauses, whoever asks us how often.
* A tarball is stored only if it is the one that the index line promises.
"""

import asyncio
import logging
import math
import os
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from cargo_registry import download, index, publish
from cargo_registry.crate import manifest, tarball, versions
from cargo_registry.crate.entry import prefix, tarball_key
from cargo_registry.crate.names import CrateName, canonical, shown
from cargo_registry.db import crates, mirrors
from cargo_registry.db.crates import Listed
from cargo_registry.db.mirrors import Failure, File
from cargo_registry.errors import (
    Forbidden,
    InvalidVersion,
    NotFound,
    RegistryError,
    Unavailable,
    UpstreamDown,
)
from cargo_registry.mirror import takedown
from cargo_registry.mirror.batch import Batch
from cargo_registry.mirror.fetch import Fetch, Missing, Wrong
from cargo_registry.mirror.upstream import Absent, IndexFile, Unchanged, Upstream, UpstreamFailed
from cargo_registry.policy import serving
from cargo_registry.policy.serving import Line, Policy, Verdict
from cargo_registry.registry import Registry, Site
from cargo_registry.storage.disk import fsync
from cargo_registry.storage.locks import Locks

log = logging.getLogger(__name__)

_PATIENCE_S = 1.0  # for an answer to a file that we have
_LONGEST_S = 25.0  # for one that we do not have: cargo gives up after 30
_ABSENT_S = 5.0
_DOWNLOAD_AGE_S = 10  # a download comes right after its index file; only later is it worth a look of its own
# After the first failure, the second, …: at most four requests in three seconds, and one at least every ten.
_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
_RETRY_S = 0.25
_ROWS_S = 30.0
_RULES_S = 1.0  # of a crate that upstream is not asked for; a ruling may change that
_MAX_STATES = 100_000
_MAX_SERVED = 2_000
_LOCK_FILES = 4096
_LOCK_POLL_S = 0.01
_MAX_MANIFEST_BYTES = 1024 * 1024

Change = Callable[[Connection], None]

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_CKSUM = re.compile(r"[0-9a-f]{64}")


@dataclass(slots=True)
class _State:
    """What this process knows of the freshness of one index file."""

    fresh_until: float = 0.0  # monotonic; until then the file is served without a thought
    confirmed_at: float | None = None  # seconds since 1970
    failing_until: float = 0.0  # monotonic; while nothing is stored
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Lookup:
    task: "asyncio.Task[None]"
    began_at: float


@dataclass(frozen=True, slots=True)
class Stored:
    """A tarball that is in the store."""

    listed: Listed
    path: str


class Mirror:
    """Follows the upstream of one registry. Made within a running event loop; `close` when done."""

    def __init__(self, registry: Registry, *, local: Collection[str]) -> None:
        if registry.policy is None:
            raise ValueError(f"registry {registry.name} is no mirror")
        self.registry = registry
        self._policy: Policy = registry.policy
        self._local = local
        self._upstream = None if registry.table.offline else Upstream(registry.table)
        self._max_age = float(registry.table.max_age)
        self._rows: Batch[Change, None] = Batch(self._write_rows)
        self._states: dict[str, _State] = {}  # by index path
        self._served: OrderedDict[str, tuple[tuple[int, int, int], dict[str, Line]]] = OrderedDict()
        self._lookups: dict[str, _Lookup] = {}  # by name
        self._fetches: dict[str, Fetch] = {}  # by key
        self._compared: set[str] = set()  # names whose file was once compared with its rows
        self._tasks: set[asyncio.Task[None]] = set()
        # Not the locks of `index.change`, which is called while these are held.
        self._locks = Locks(registry.index_files.root / ".fetching", _LOCK_FILES)

    async def close(self) -> None:
        """Stop asking upstream, and finish what is being written."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._rows.close()
        if self._upstream is not None:
            await self._upstream.close()

    async def _write_rows(self, changes: Sequence[Change]) -> list[None]:
        def run(tx: Connection) -> list[None]:
            return [change(tx) for change in changes]

        return await self.registry.db.write(run)

    # --- Index files -----------------------------------------------------------------------------------

    def is_fresh(self, path: str) -> bool:
        """Return whether the file at an index path may be served without `freshen`. From any thread."""
        state = self._states.get(path)
        return state is not None and time.monotonic() < state.fresh_until

    def age(self, path: str) -> int | None:
        """Return how many seconds ago upstream confirmed the file; None: this process does not know."""
        state = self._states.get(path)
        if state is None or state.confirmed_at is None:
            return None
        return max(0, int(time.time() - state.confirmed_at))

    async def freshen(self, path: str, *, force: bool = False) -> None:
        """Make the file at an index path as new as it is promised to be. For what is no such path, do nothing.

        With `force`, upstream is asked whatever we know, and its answer is waited for.

        Raises:
            Unavailable: upstream does not answer, and nothing is stored.
        """
        name = path.rpartition("/")[2]
        if not _NAME.fullmatch(name) or path != index_path(name):
            return
        if self.is_fresh(path) and not force:
            return
        is_known = self._is_known(name)
        if is_known:
            await self._apply_rules(name)
        state = self._states.get(path)
        if not force and not is_known and state and (wait_s := state.failing_until - time.monotonic()) > 0:
            raise _unavailable(f"crate {shown(name)}", state.reason, wait_s)
        lookup = self._lookups.get(name)
        if force and lookup is not None:
            # It may find that upstream need not be asked.
            await asyncio.wait({lookup.task})
            lookup = self._lookups.get(name)
        if lookup is None or lookup.task.done():
            lookup = self._lookups[name] = _Lookup(
                self._start(self._look_up(name, force=force)), time.monotonic()
            )
            lookup.task.add_done_callback(partial(self._end_lookup, name))
        patience_s = _PATIENCE_S if is_known and not force else _LONGEST_S
        wait_s = max(0.0, lookup.began_at + patience_s - time.monotonic())
        await asyncio.wait({lookup.task}, timeout=wait_s)
        if not force and (is_known or self._is_known(name)):
            return
        if not lookup.task.done():
            raise _unavailable(f"crate {shown(name)}", "it did not answer in time", 1)
        state = self._states.get(path)
        if state and state.reason:
            raise _unavailable(f"crate {shown(name)}", state.reason, state.failing_until - time.monotonic())

    def _end_lookup(self, name: str, task: "asyncio.Task[None]") -> None:
        lookup = self._lookups.get(name)
        if lookup is not None and lookup.task is task:
            del self._lookups[name]

    def _is_known(self, name: str) -> bool:
        return bool(self.registry.db.remembered(mirrors.is_known, self.registry.name, name))

    async def _look_up(self, name: str, *, force: bool) -> None:
        """Ask upstream for an index file if nobody has, and bring rows, file and state up to date. Never raises."""
        path = index_path(name)
        state = self._states.setdefault(path, _State())
        if len(self._states) > _MAX_STATES:
            self._states.pop(next(iter(self._states)))
        try:
            began_at = self.registry.now()
            async with self._exclusive(f"index/{name}"):
                await self._look_up_alone(name, state, began_at, force=force)
        except RegistryError as error:
            # Our own disk or database; what is stored goes on being served.
            log.warning("%s of mirror %s: %s", name, self.registry.name, error)
            state.fresh_until = time.monotonic() + _PAUSES_S[1]
            state.failing_until, state.reason = state.fresh_until, str(error)
        except Exception:
            log.exception("%s of mirror %s", name, self.registry.name)
            state.fresh_until = state.failing_until = time.monotonic() + _PAUSES_S[1]
            state.reason = "the mirror failed; its log says why"

    async def _look_up_alone(self, name: str, state: _State, began_at: datetime, *, force: bool) -> None:
        registry = self.registry
        now = registry.now()
        file = self._file(name)
        rulings = registry.db.look_up(mirrors.rulings, registry.name, name=name, now=now)
        asked_for = serving.is_asked_for(name, self._policy, rulings)
        if self._upstream is None or not asked_for:
            self._note(state, file, _ROWS_S if file else _RULES_S)
            return
        age_s = (now - file.checked_at).total_seconds() if file else 0.0
        if file and not force and (file.checked_at >= began_at or 0 <= age_s < self._max_age):
            # Another process has asked, or this one before it was started anew.
            self._note(state, file, self._max_age - age_s)
            return
        what = f"index/{name}"
        failed = registry.db.look_up(mirrors.failure, registry.name, what)
        if failed and failed.next_try_at > now and not force:
            self._note_failure(state, file, failed, now)
            return
        try:
            answer = await self._ask(self._upstream, name, file, is_first=failed is None)
        except UpstreamFailed as error:
            failed = await self._fail(what, failed, error, asked_at=now)
            self._note_failure(state, file, failed, registry.now())
            return
        if failed:
            await self._rows.add(lambda tx: mirrors.clear_failure(tx, registry.name, what))
        now = registry.now()
        match answer:
            case Absent() if file is None:
                absent_s = min(self._max_age, _ABSENT_S)
                state.fresh_until = time.monotonic() + absent_s
                state.confirmed_at = time.time()
                state.failing_until, state.reason = 0.0, ""
                return
            case Absent() if file is not None and file.gone_at is None:
                file = replace(file, raw=b"", etag=None, last_modified=None, checked_at=now)
                await self._take(file)
            case IndexFile() if file is None or answer.data != file.raw:
                file = File(name, answer.data, answer.etag, answer.last_modified, now, now, None, "", None)
                await self._take(file)
            case _ if file is not None:
                if isinstance(answer, IndexFile):
                    file = replace(file, etag=answer.etag, last_modified=answer.last_modified)
                file = replace(file, checked_at=now)
                if isinstance(answer, IndexFile):
                    await self._rows.add(partial(_put_file, registry=registry, file=file))
                else:
                    await self._rows.add(lambda tx: mirrors.confirm(tx, registry.name, {name: now}))
        self._note(state, self._file(name), self._max_age)

    async def _ask(
        self, upstream: Upstream, name: str, file: File | None, *, is_first: bool
    ) -> IndexFile | Unchanged | Absent:
        """Ask upstream, once more if it fails for the first time, and check that the answer is an index file."""
        for is_last in (not is_first, True):
            try:
                answer = await upstream.index_file(
                    name,
                    etag=file.etag if file else None,
                    last_modified=file.last_modified if file else None,
                )
                if isinstance(answer, IndexFile):
                    _check_index_file(answer.data, name)
            except UpstreamFailed as error:
                if is_last or error.retry_after_s is not None or "in time" in str(error):
                    raise
            else:
                return answer
            await asyncio.sleep(_RETRY_S)
        raise AssertionError

    async def _take(self, file: File) -> None:
        self._compared.add(file.name)
        events = await index.change(
            self.registry,
            CrateName.stored(file.name),
            lambda tx: takedown.take(tx, self.registry, file, local=self._local),
        )
        for event in events:
            level = logging.WARNING if event.action in ("mirror-vanished", "mirror-back") else logging.ERROR
            log.log(level, "mirror %s: %s", self.registry.name, event)
        if any(event.action == "mirror-vanished" for event in events):
            # Somebody will ask who has it.
            await download.flush(self.registry)

    async def _apply_rules(self, name: str) -> None:
        """Write the file that is served anew where the policy has changed, or time has changed its outcome.

        And once in each process where it is not what the rows say: somebody may have removed it. Asks nobody, so it
        comes before all that may have to wait.
        """
        if name not in self._compared:
            self._compared.add(name)
            await index.renew(self.registry, CrateName.stored(name))
        found = self.registry.db.look_up(mirrors.rendering, self.registry.name, name)
        if found is None:
            return
        fingerprint, due_at = found
        if fingerprint != self._policy.fingerprint or (due_at is not None and due_at <= self.registry.now()):
            await render(self.registry, name)

    def _file(self, name: str) -> File | None:
        return self.registry.db.look_up(mirrors.file, self.registry.name, name)

    def _note(self, state: _State, file: File | None, fresh_s: float) -> None:
        """Note that a file may be served for a while."""
        if file is not None:
            state.confirmed_at = file.checked_at.timestamp()
            if file.due_at is not None:
                fresh_s = min(fresh_s, (file.due_at - self.registry.now()).total_seconds())
        # Now and then a look at the rows, which costs no request: another process may have changed what is due.
        state.fresh_until = time.monotonic() + min(fresh_s, _ROWS_S)
        state.failing_until, state.reason = 0.0, ""

    def _note_failure(self, state: _State, file: File | None, failed: Failure, now: datetime) -> None:
        """Note that upstream is left alone for a while; what is stored is served meanwhile."""
        pause_s = max(0.0, (failed.next_try_at - now).total_seconds())
        if file is not None:
            self._note(state, file, pause_s)
        state.failing_until = time.monotonic() + pause_s
        state.reason = failed.reason

    async def _fail(
        self, what: str, before: Failure | None, error: UpstreamFailed, *, asked_at: datetime
    ) -> Failure:
        """Write down that upstream failed, for every process, and return when it may be asked again."""
        count = before.failures if before else 0
        pause_s = _PAUSES_S[min(count, len(_PAUSES_S) - 1)]
        if error.retry_after_s is not None:
            pause_s = max(error.retry_after_s, _PAUSES_S[0])
        else:
            # From one question to the next: an upstream that takes its time to fail has had a part of its pause.
            pause_s = max(_PAUSES_S[0], pause_s - (self.registry.now() - asked_at).total_seconds())
        reason = str(error)
        failed = Failure(what, count + 1, self.registry.now() + timedelta(seconds=pause_s), reason)
        log.warning(
            "upstream of mirror %s fails on %s: %s; asked again in %.1f s",
            self.registry.name,
            what,
            reason,
            pause_s,
        )
        try:
            await self._rows.add(lambda tx: mirrors.put_failure(tx, self.registry.name, failed))
        except RegistryError as unwritten:
            log.warning("mirror %s: %s", self.registry.name, unwritten)
        return failed

    # --- Tarballs --------------------------------------------------------------------------------------

    async def find(self, name: str, vers: str, *, whole: bool = False) -> Stored | Fetch:
        """Return a version's tarball from the store, or, to who asks first, as it arrives.

        The name may be in any spelling. With `whole`, it is stored on return.

        Raises:
            NotFound: there is no such crate or version.
            Forbidden: a rule is against it; says which, and whom to ask.
            Unavailable: upstream does not give it now.
        """
        line = await self._line(name, vers)
        stored = self.find_stored(line)
        if stored is not None:
            return stored
        if self._upstream is None:
            raise NotFound(
                f"crate version `{line.name}@{line.vers}` is not stored here, and this mirror is offline"
            )
        key = self._key(line)
        fetch = self._fetches.get(key)
        is_first = fetch is None
        if fetch is None:
            fetch = self._fetches[key] = Fetch(self.registry.tarballs, line)
            self._start(self._fetch(self._upstream, fetch, key))
        if is_first and not whole:
            await fetch.begun.wait()
            # Without its length, a client could not tell a transfer that is cut from a whole one.
            if not fetch.done.is_set() and fetch.size is not None:
                return fetch
        await fetch.done.wait()
        if fetch.error is not None:
            raise fetch.error
        stored = self.find_stored(line)
        if stored is None:
            raise Unavailable(f"the tarball of `{line.name}@{line.vers}` has just been removed; try again")
        return stored

    def serves(self, name: str, vers: str, cksum: str) -> bool:
        """Return whether a version is served as it was found before; False: ask `find`. From any thread.

        The hot path: its index file is fresh, and we have read it as it is now.
        """
        path = index_path(name.lower())
        read = self._served.get(path)
        if read is None or not self.is_fresh(path):
            return False
        identity, lines = read
        try:
            found = os.stat(f"{self.registry.index_files.root}/{self.registry.name}/{path}")
        except FileNotFoundError:
            return False
        line = lines.get(vers)
        return (
            (found.st_mtime_ns, found.st_size, found.st_ino) == identity
            and line is not None
            and line.cksum == cksum
        )

    async def _line(self, name: str, vers: str) -> Line:
        """Return the line of a version that is served."""
        if canonical(name) is None:
            raise NotFound(f"crate {shown(name)} does not exist in registry `{self.registry.name}`")
        try:
            versions.parse(vers)
        except InvalidVersion:
            raise NotFound(f"crate {shown(name)} does not have a version {shown(vers)}") from None
        path = index_path(name.lower())
        if not self._is_known(name.lower()) and (
            spelled := self.registry.db.look_up(crates.find, self.registry.name, name)
        ):
            path = index_path(spelled.name.lower())
        if not self.is_fresh(path):
            await self._apply_rules(path.rpartition("/")[2])
            age_s = self.age(path)
            if self.lines(path).get(vers) is None:
                await self.freshen(path)
            elif age_s is None or age_s >= _DOWNLOAD_AGE_S:
                # What is listed can be fetched at once; whether it still is, the look-up tells the next one.
                self._start(self._freshen_quietly(path))
        line = self.lines(path).get(vers)
        if line is None:
            raise self.refusal(path.rpartition("/")[2], vers)
        if not _CKSUM.fullmatch(line.cksum):
            raise NotFound(
                f"the index line of `{line.name}@{vers}` has no checksum, so its tarball is not fetched"
            )
        return line

    async def _freshen_quietly(self, path: str) -> None:
        with suppress(Unavailable):
            await self.freshen(path)

    def lines(self, path: str) -> dict[str, Line]:
        """Return the lines of the file that is served at an index path, by version."""
        file = f"{self.registry.index_files.root}/{self.registry.name}/{path}"
        try:
            found = os.stat(file)
        except FileNotFoundError:
            self._served.pop(path, None)
            return {}
        identity = (found.st_mtime_ns, found.st_size, found.st_ino)
        cached = self._served.get(path)
        if cached is None or cached[0] != identity:
            data = self.registry.index_files.read(f"{self.registry.name}/{path}") or b""
            cached = identity, {line.vers: line for line in serving.lines_of(data)}
            self._served[path] = cached
            if len(self._served) > _MAX_SERVED:
                self._served.popitem(last=False)
        return cached[1]

    async def look(self, name: str) -> None:
        """Have a crate's file, if upstream gives it; an old one is good enough."""
        if not self._is_known(name):
            with suppress(Unavailable):
                await self.freshen(index_path(name))

    def explain(self, name: str, vers: str) -> tuple[Line | None, Verdict]:
        """Return what is decided about a version and why; no line: upstream is not known to have it."""
        return explain(self.registry, name.lower(), vers)

    def refusal(self, name: str, vers: str) -> RegistryError:
        """Return the error for a version that is not in the file served."""
        line, verdict = self.explain(name, vers)
        if verdict.served or (line is None and verdict.rule == "none"):
            return NotFound(f"crate {shown(name)} does not have a version {shown(vers)}")
        whom = self.registry.table.contact or "the operator of this mirror"
        return Forbidden(
            f"crate version `{name}@{vers}` is not served by the mirror `{self.registry.name}`, by its rule "
            f"`{verdict.rule}`: {verdict.why}; ask {whom} if you need it"
        )

    def _key(self, line: Line) -> str:
        return f"{self.registry.name}/{tarball_key(CrateName.stored(line.name), line.vers, line.cksum)}"

    def find_stored(self, line: Line) -> Stored | None:
        """Return the tarball of a version if it is in the store."""
        listed = self.registry.db.remembered(crates.listed, self.registry.name, line.name, line.vers)
        if listed is None or listed.cksum != line.cksum:
            return None
        # Not by `DiskStore.path`, as in `download.find`.
        path = f"{self.registry.tarballs.root}/{self._key(line)}"
        try:
            size = os.stat(path).st_size
        except FileNotFoundError:
            return None
        # Damaged on our disk: fetched anew.
        return Stored(listed, path) if size == listed.size and listed.damage is None else None

    async def _fetch(self, upstream: Upstream, fetch: Fetch, key: str) -> None:
        """Fetch a tarball and store it; `fetch` tells how it went. Never raises."""
        line = fetch.line
        error: RegistryError | None = Unavailable("the mirror is being stopped; try again")
        try:
            async with self._exclusive(f"tarball/{line.cksum}"):
                error = await self._fetch_alone(upstream, fetch, key)
        except RegistryError as unwritten:
            log.warning("%s@%s of mirror %s: %s", line.name, line.vers, self.registry.name, unwritten)
            error = unwritten
        except Exception:
            log.exception("%s@%s of mirror %s", line.name, line.vers, self.registry.name)
            error = Unavailable("the mirror failed on this tarball; its log says why")
        finally:
            self._fetches.pop(key, None)
            fetch.finish(error)

    async def _fetch_alone(self, upstream: Upstream, fetch: Fetch, key: str) -> RegistryError | None:
        registry, line = self.registry, fetch.line
        what = f"tarball/{line.name.lower()}@{line.vers}"
        if self.find_stored(line):
            return None
        failed = registry.db.look_up(mirrors.failure, registry.name, what)
        now = registry.now()
        if failed and failed.next_try_at > now:
            return _unavailable(
                f"the tarball of `{line.name}@{line.vers}`",
                failed.reason,
                (failed.next_try_at - now).total_seconds(),
            )
        try:
            await fetch.transfer(upstream, is_first=failed is None)
        except Wrong as error:
            log.warning(
                "tarball %s@%s from upstream of mirror %s: %s", line.name, line.vers, registry.name, error
            )
            return _unavailable(f"the tarball of `{line.name}@{line.vers}`", str(error), 1)
        except UpstreamFailed as error:
            failed = await self._fail(what, failed, error, asked_at=now)
            if isinstance(error, Missing):
                return NotFound(f"upstream lists `{line.name}@{line.vers}` and does not have its tarball")
            pause_s = (failed.next_try_at - registry.now()).total_seconds()
            return _unavailable(f"the tarball of `{line.name}@{line.vers}`", str(error), pause_s)
        facts = await asyncio.to_thread(self._keep, fetch, key)
        await self._rows.add(
            lambda tx: mirrors.store(
                tx, registry.name, line, size=fetch.written, manifest=facts, now=registry.now()
            )
        )
        if failed:
            await self._rows.add(lambda tx: mirrors.clear_failure(tx, registry.name, what))
        return None

    def _keep(self, fetch: Fetch, key: str) -> dict[str, Any]:
        """Move a tarball that is right into the store, and return what its manifest says. Blocks."""
        facts = read_facts(fetch.path)
        fsync(fetch.path)
        self.registry.tarballs.adopt(key, fetch.path)
        return facts

    def note_download(self, listed: Listed, who: str) -> None:
        """Remember who has a version now, in memory; `download.flush` writes."""
        self.registry.uses.note_downloader(self.registry.name, listed.name.lower(), listed.vers, who)

    # --- Tasks and locks -------------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @asynccontextmanager
    async def _exclusive(self, what: str) -> AsyncIterator[None]:
        """Be the only one, of all processes, who asks upstream for this."""
        while True:
            with self._locks.try_hold(f"{self.registry.name}/{what}") as is_held:
                if is_held:
                    yield
                    return
            await asyncio.sleep(_LOCK_POLL_S)


def open_mirrors(site: Site) -> dict[str, Mirror]:
    """Return what follows upstream for each mirror of a site, by registry. Within a running event loop."""
    local = [registry.name for registry in site.registries.values() if not registry.is_mirror]
    return {
        registry.name: Mirror(registry, local=local)
        for registry in site.registries.values()
        if registry.is_mirror
    }


def index_path(name: str) -> str:
    """Return the index path of a lower-case name."""
    return f"{prefix(name)}/{name}"


async def render(registry: Registry, name: str) -> None:
    """Write the file that is served of a crate anew, as the rules say now."""

    def rows(tx: Connection) -> None:
        file = mirrors.file(tx, registry.name, name)
        if file is not None:
            takedown.put(tx, registry, file)

    await index.change(registry, CrateName.stored(name), rows)


def explain(registry: Registry, name: str, vers: str) -> tuple[Line | None, Verdict]:
    """Return what is decided about a version, by its crate's lower-case name, and why."""
    policy = registry.policy
    if policy is None:
        raise ValueError(f"registry {registry.name} is no mirror")
    now = registry.now()

    def look_up(db: Connection) -> tuple[Line | None, Verdict]:
        file = mirrors.file(db, registry.name, name)
        if file is None:
            facts = serving.Facts(
                policy, now, now, rulings=mirrors.rulings(db, registry.name, name=name, now=now)
            )
            return None, serving.judge(Line(b"", name, vers, "", False, now - timedelta(days=36500)), facts)
        lines, facts = mirrors.facts(db, registry.name, file, policy, now=now)
        for line in lines:
            if line.vers == vers:
                return line, serving.judge(line, facts)
        return None, Verdict(False, "none", "upstream has no such version")

    return registry.db.look_up(look_up)


def read_facts(path: Path) -> dict[str, Any]:
    """Return what pages and search say of a version; old crates break today's rules, and then it is little."""
    try:
        data = tarball.read_member(path, "Cargo.toml", _MAX_MANIFEST_BYTES)
        if data is not None:
            return publish.facts_to_keep(manifest.parse(data))
    except (RegistryError, OSError, ValueError) as error:
        log.info("a tarball whose manifest cannot be read: %s", error)
    return dict.fromkeys(_TEXTS) | {
        "authors": [],
        "bin_names": [],
        "categories": [],
        "keywords": [],
        "has_lib": True,
        "edition": "2015",
    }


_TEXTS = ("description", "documentation", "homepage", "license", "license_file", "readme", "repository")


def _check_index_file(data: bytes, name: str) -> None:
    """Refuse what is no index file of this crate.

    Raises:
        UpstreamFailed
    """
    try:
        lines = serving.lines_of(data)
    except ValueError as error:
        raise UpstreamFailed(
            f"it sent something with status 200 that is no index file: {error}"[:300]
        ) from None
    if not lines:
        raise UpstreamFailed("it sent an empty index file")
    if other := next((line.name for line in lines if line.name.lower() != name), None):
        raise UpstreamFailed(f"it sent the index file of {shown(other)}")


def _put_file(tx: Connection, *, registry: Registry, file: File) -> None:
    mirrors.put_file(tx, registry.name, file)


def _unavailable(what: str, reason: str, wait_s: float) -> UpstreamDown:
    wait = max(1, math.ceil(wait_s))
    error = UpstreamDown(f"upstream does not give {what} now: {reason}; try again in {wait} s")
    error.retry_after_s = wait
    return error
