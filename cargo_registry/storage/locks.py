"""One lock per crate, shared by every process on the data."""

import fcntl
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cargo_registry.storage.disk import reporting

_FILES = 256


class Locks:
    """Advisory locks on 256 files in `folder`; two names may share one, which costs a wait and no more."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with reporting():
            folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def hold(self, *names: str) -> Iterator[None]:
        """Hold the locks of some names; blocks its thread while another process or thread has one of them.

        All in one call, never one more within: only so everybody takes them in the same order, and nobody
        waits for each other. The kernel frees locks when their holder dies, however it dies.
        """
        descriptors = []
        try:
            for slot in sorted({zlib.crc32(name.encode()) % _FILES for name in names}):
                path = self._folder / f"{slot:02x}"
                with reporting():
                    descriptors.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
                fcntl.flock(descriptors[-1], fcntl.LOCK_EX)
            yield
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
