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

    def __init__(self, folder: Path, files: int = _FILES) -> None:
        self._folder = folder
        self._files = files
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
            for slot in sorted({self._slot(name) for name in names}):
                descriptors.append(self._open(slot))
                fcntl.flock(descriptors[-1], fcntl.LOCK_EX)
            yield
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    @contextmanager
    def try_hold(self, name: str) -> Iterator[bool]:
        """Hold the lock of `name` if it is free now; give whether it is held. Never waits."""
        descriptor = self._open(self._slot(name))
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def _slot(self, name: str) -> int:
        return zlib.crc32(name.encode()) % self._files

    def _open(self, slot: int) -> int:
        with reporting():
            return os.open(self._folder / f"{slot:02x}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
