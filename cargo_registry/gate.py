"""Reading an upload: what is in its tarball, and whether that agrees with what cargo said of it.

This is nearly all the CPU time of a publish. In a thread, the tarball of a large crate keeps readers waiting
for 12 ms at a time, as Python runs one thread at a time; in a process of its own, for 2 ms. What it needs
to import is little, and a tarball that brings it down brings down nothing else.
"""

import asyncio
import os
import pickle
import signal
import struct
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from cargo_registry.crate import manifest, tarball, versions
from cargo_registry.crate.entry import IndexEntry, OwnUrls, check_agreement
from cargo_registry.crate.manifest import Manifest
from cargo_registry.crate.names import CrateName
from cargo_registry.crate.publish_body import PublishMetadata
from cargo_registry.errors import InvalidTarball, Unavailable

_SIZE = struct.Struct("<I")


def read(
    path: Path, cksum: str, metadata: PublishMetadata | None, own_urls: OwnUrls, now: datetime
) -> tuple[Manifest, IndexEntry]:
    """Return what a tarball says: its manifest is the truth, and the JSON must agree.

    Raises:
        Invalid: the tarball or its manifest break a rule, or the JSON says other than the manifest.
    """
    if metadata is not None:
        name, vers = CrateName(metadata.name).text, metadata.vers
        versions.parse(vers)
    else:
        facts = manifest.parse(_manifest(path))
        name, vers = facts.name, facts.version
    found = tarball.inspect(path, name, vers)
    facts = manifest.parse(found.manifest, members=found.members)
    if metadata is not None:
        check_agreement(metadata, facts, own_urls)
    return facts, IndexEntry.from_manifest(facts, cksum=cksum, pubtime=now, own_urls=own_urls)


def _manifest(path: Path) -> bytes:
    """Return the manifest of a tarball that came without cargo's JSON, which would name its top folder."""
    for member in ("Cargo.toml", "cargo.toml"):
        data = tarball.read_member(path, member, tarball.MAX_MANIFEST_BYTES)
        if data is not None:
            return data
    raise InvalidTarball("the tarball has no `Cargo.toml`; make it with `cargo package`")


class Reader:
    """A process that reads one upload after the other. It starts with the first and ends with this process."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._one_at_a_time = asyncio.Lock()

    async def read(
        self, path: Path, cksum: str, metadata: PublishMetadata | None, own_urls: OwnUrls, now: datetime
    ) -> tuple[Manifest, IndexEntry]:
        """Return or raise what the function `read` does.

        Raises:
            Unavailable: the process came to its end over it, twice.
        """
        # Not the struct itself: to pickle its UNSET takes 0.2 ms.
        said = None if metadata is None else msgspec.msgpack.encode(metadata)
        job = pickle.dumps((path, cksum, said, own_urls, now))
        # To the end even if the caller is cancelled: otherwise the next one would get this answer.
        answer: Any = await asyncio.shield(asyncio.ensure_future(self._ask(job)))
        if isinstance(answer, Exception):
            raise answer
        facts: tuple[Manifest, IndexEntry] = answer
        return facts

    async def _ask(self, job: bytes) -> object:
        async with self._one_at_a_time:
            for _ in range(2):
                process = self._process or await self._start()
                assert process.stdin is not None
                assert process.stdout is not None
                try:
                    process.stdin.write(_SIZE.pack(len(job)) + job)
                    await process.stdin.drain()
                    (size,) = _SIZE.unpack(await process.stdout.readexactly(_SIZE.size))
                    return pickle.loads(await process.stdout.readexactly(size))  # noqa: S301 - of our own process
                # uvloop has a RuntimeError for a pipe whose other end is gone.
                except (OSError, RuntimeError, asyncio.IncompleteReadError):
                    await self._end()
        raise Unavailable("the tarball could not be read; nothing was changed, try again")

    async def _start(self) -> asyncio.subprocess.Process:
        # Not by `multiprocessing`, which would import the whole program again.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from cargo_registry import gate; gate.main()",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        return self._process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def close(self) -> None:
        """End the process when it is done with what it reads."""
        async with self._one_at_a_time:
            await self._end()


def main() -> None:
    """Read uploads as a `Reader` asks for them, until it is gone."""
    # They are for the server, which answers what is in flight before it goes.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    jobs, answers = sys.stdin.buffer, sys.stdout.buffer
    while head := jobs.read(_SIZE.size):
        job = jobs.read(_SIZE.unpack(head)[0])
        path, cksum, said, own_urls, now = pickle.loads(job)  # noqa: S301 - of our own process
        metadata = None if said is None else msgspec.msgpack.decode(said, type=PublishMetadata)
        try:
            answer: object = read(path, cksum, metadata, own_urls, now)
        except Exception as error:
            answer = error
        data = pickle.dumps(answer)
        try:
            answers.write(_SIZE.pack(len(data)) + data)
            answers.flush()
        except BrokenPipeError:
            # Killed. Not even a word at the end, when Python flushes what nobody reads.
            os._exit(0)
