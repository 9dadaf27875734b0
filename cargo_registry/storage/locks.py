"""One lock per crate, shared by every process on the data."""

import fcntl
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
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
    def hold(self, name: str) -> Iterator[None]:
        """Hold the lock of `name`; blocks its thread while another process or thread has it.

        The kernel frees the lock when its holder dies, however it dies.
        """
        descriptor = self._open(name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def hold_all(self, names: Iterable[str]) -> Iterator[None]:
        """Hold the locks of several names; taken in one order by everybody, so that nobody waits in a circle."""
        slots = {self._slot(name): name for name in names}
        with ExitStack() as stack:
            for slot in sorted(slots):
                stack.enter_context(self.hold(slots[slot]))
            yield

    @contextmanager
    def try_hold(self, name: str) -> Iterator[bool]:
        """Hold the lock of `name` if it is free now; give whether it is held. Never waits."""
        descriptor = self._open(name)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def _open(self, name: str) -> int:
        with reporting():
            return os.open(
                self._folder / f"{self._slot(name):02x}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
            )

    def _slot(self, name: str) -> int:
        return zlib.crc32(name.encode()) % self._files
