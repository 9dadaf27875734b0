"""Whether anybody has changed the database: the header of SQLite's WAL index, which each commit rewrites.

SQLite itself compares this header with the last one it saw to know whether its own cache still holds, and
`PRAGMA data_version` counts how often that differed. Looking here takes no locks and no system call: 0.1 µs
instead of 3, on each request. https://sqlite.org/walformat.html#the_wal_index_header
"""

import mmap
import os
from dataclasses import dataclass
from pathlib import Path

_HEADER_BYTES = 48  # the first of two copies; the one that is written last


@dataclass(slots=True)
class _Map:
    """A WAL index that this process has mapped."""

    descriptor: int
    header: mmap.mmap
    users: int


# By device and inode. POSIX drops a process's locks on a file when the process closes any descriptor of it,
# and SQLite's connections hold theirs: so there is one map for all of them, which is closed after the last.
_maps: dict[tuple[int, int], _Map] = {}


class Changes:
    """Watches the database at `path`, which some connection of this process has begun to use in WAL mode.

    To be closed when this process has no connection any more that was open while this was.
    """

    def __init__(self, path: Path) -> None:
        index = f"{path}-shm"
        found = os.stat(index)
        self._key = found.st_dev, found.st_ino
        known = _maps.get(self._key)
        if known is None:
            descriptor = os.open(index, os.O_RDONLY)
            known = _Map(descriptor, mmap.mmap(descriptor, _HEADER_BYTES, access=mmap.ACCESS_READ), 0)
            _maps[self._key] = known
        known.users += 1
        self._header = known.header
        self._is_closed = False

    def state(self) -> bytes:
        """Return what is different after each commit of any process. From any thread."""
        return self._header[:]

    def close(self) -> None:
        """Watch no longer."""
        if self._is_closed:
            return
        self._is_closed = True
        known = _maps[self._key]
        known.users -= 1
        if not known.users:
            del _maps[self._key]
            known.header.close()
            os.close(known.descriptor)
