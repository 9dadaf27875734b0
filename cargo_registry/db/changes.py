"""Whether anybody has changed the database: the header of SQLite's WAL index, which each commit rewrites.

SQLite itself compares this header with the last one it saw to know whether its own cache still holds, and
`PRAGMA data_version` counts how often that differed. Looking here takes no locks and no system call: 0.1 µs
instead of 3, on each request. https://sqlite.org/walformat.html#the_wal_index_header
"""

import itertools
import mmap
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_HEADER_BYTES = 48  # the first of two copies; the one that is written last
_TIMES_MAPPED = 2  # the descriptor of a map, and mmap's own


@dataclass(slots=True)
class _Map:
    """A WAL index that this process has mapped."""

    descriptor: int
    header: mmap.mmap
    users: int


# By device and inode. POSIX drops a process's locks on a file when the process closes any descriptor of it,
# and SQLite's connections hold theirs: so there is one map for all of them.
_maps: dict[tuple[int, int], _Map] = {}
_unknown = itertools.count()


class Changes:
    """Watches the database at `path`, which some connection of this process has begun to use in WAL mode."""

    def __init__(self, path: Path) -> None:
        self._map: _Map | None = None
        # Where SQLite has it, which follows links.
        index = f"{os.path.realpath(path)}-shm"
        try:
            found = os.stat(index)
        except FileNotFoundError:
            return
        if found.st_size < _HEADER_BYTES:
            return
        self._key = found.st_dev, found.st_ino
        known = _maps.get(self._key)
        if known is None:
            descriptor = os.open(index, os.O_RDONLY)
            known = _Map(descriptor, mmap.mmap(descriptor, _HEADER_BYTES, access=mmap.ACCESS_READ), 0)
            _maps[self._key] = known
        known.users += 1
        self._map = known

    def state(self) -> bytes:
        """Return what is different after each commit of any process. From any thread.

        It is different each time where there is no such file: on a read-only disk, after a power cut, SQLite
        does without, and nothing can be known to hold.
        """
        known = self._map
        return known.header[:] if known is not None else b"%d" % next(_unknown)

    def close(self) -> None:
        """Watch no longer."""
        known, self._map = self._map, None
        if known is None:
            return
        known.users -= 1
        # SQLite may still have it: a read that was cancelled goes on in its thread.
        if not known.users and _times_open(self._key) <= _TIMES_MAPPED:
            del _maps[self._key]
            known.header.close()
            os.close(known.descriptor)


def _times_open(key: tuple[int, int]) -> int:
    """Return how many descriptors of a file this process has."""
    times = 0
    for descriptor in os.listdir("/dev/fd"):
        with suppress(OSError):  # the one of this folder
            found = os.fstat(int(descriptor))
            times += (found.st_dev, found.st_ino) == key
    return times
