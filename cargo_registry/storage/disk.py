"""Bytes under keys in a local directory: index files and tarballs.

A file is written under a temporary name, fsynced, then renamed into place. rename(2) is atomic, so a
reader sees the old bytes or the new; the folder is fsynced too, or a power cut may keep the data and
lose the name.

Everything here blocks, so it is called from threads, in one hop for the whole piece of work; the hot
read paths open files themselves (`path`).
"""

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from cargo_registry.errors import OutOfSpace, Unavailable

# nginx may serve these folders under another account; mkstemp makes 0600.
_FILE_MODE = 0o644
# At once: all of a group of changes, so that they wait together. More do not make a disk faster.
_MAX_SYNCS = 32


class DiskStore:
    """Files under `root`, which is created if missing.

    Keys are relative `/`-separated paths made by `crate.entry.index_path` and `tarball_key`. Any number
    of processes may share `root`. What is not finished lies in folders whose names begin with a dot:

    * `.spool`: uploads on their way in. Nobody refers to them; `sweep` removes what a crash left.
    * `.pending`: files prepared beside a transaction. Each may belong to a COMMIT that happened.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._syncing = ThreadPoolExecutor(_MAX_SYNCS, thread_name_prefix="fsync")
        with reporting():
            (root / ".spool").mkdir(parents=True, exist_ok=True)
            (root / ".pending").mkdir(exist_ok=True)

    def sync(self, paths: Iterable[Path]) -> None:
        """Make bytes of files and names in folders survive a power cut, all at once.

        A disk takes hardly longer for what waits together than for one. Paths that are gone are left out.
        """
        syncs = [self._syncing.submit(_fsync_if_there, path) for path in paths]
        wait(syncs)  # woken once, not by each
        with reporting():
            for done in syncs:
                done.result()

    def close(self) -> None:
        """End the threads that `sync` uses."""
        self._syncing.shutdown()

    def path(self, key: str) -> Path:
        """Return where the bytes of a key are, if there are any."""
        relative = PurePosixPath(key)
        if not relative.parts or relative.is_absolute() or ".." in relative.parts:
            # Keys come from our own code, so this is a bug and not a request to answer with 400.
            raise ValueError(f"not a key: {key!r}")
        return self.root.joinpath(relative)

    def read(self, key: str) -> bytes | None:
        """Return all the bytes, or None where the key is free."""
        try:
            return self.path(key).read_bytes() or None
        except FileNotFoundError:
            return None

    def delete(self, key: str) -> None:
        """Free the key. Deleting a free key is no error, so a retry is safe."""
        self.path(key).unlink(missing_ok=True)

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys below the folder `prefix`, in no set order."""
        for folder, folders, files in os.walk(self.root / prefix):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in files:
                if not name.startswith("."):
                    yield (Path(folder) / name).relative_to(self.root).as_posix()

    # Tarballs: spooled while they arrive, moved into place when their version is about to be listed.

    def spool(self) -> Path:
        """Return a new empty file on the file system of the store. The caller moves or unlinks it."""
        with reporting():
            handle, name = tempfile.mkstemp(dir=self.root / ".spool")
            os.fchmod(handle, _FILE_MODE)
            os.close(handle)
        return Path(name)

    def adopt(self, key: str, spooled: Path, *, unsynced: set[Path] | None = None) -> None:
        """Move a spooled file under a key; durable on return.

        With `unsynced`, durable once the caller has fsynced what is added to that (`sync`).
        Keys of tarballs hold their checksum, so what may lie there already is the same, or cut by a power cut.
        """
        path = self.path(key)
        touched = set() if unsynced is None else unsynced
        with reporting():
            _make_folder(path.parent, self.root, touched)
            spooled.replace(path)
            touched.update((path, path.parent))
            if unsynced is None:
                self.sync(touched)

    def sweep(self, *, older_than_s: float, now_s: float) -> None:
        """Remove uploads that a crash left in the spool, if the disk lets us: the next start tries again."""
        for path in (self.root / ".spool").iterdir():
            try:
                if path.stat().st_mtime < now_s - older_than_s:
                    path.unlink()
            except OSError:
                continue

    # Index files: prepared before the COMMIT, shown after it.

    def prepare(self, key: str, data: bytes, *, unsynced: set[Path] | None = None) -> None:
        """Write the next bytes of a key, durable but not yet shown; no bytes: it shall be free.

        With `unsynced`, durable once the caller has fsynced what is added to that (`sync`).
        `show` or `forget` comes next. Until then `unfinished` names the key, also after a crash. The new file
        gets an mtime at least one second after the old one's: nginx makes its ETag of seconds and size, and
        would hide a yank that is followed by an unyank.
        """
        path, pending = self.path(key), self._pending(key)
        touched = set() if unsynced is None else unsynced
        with reporting():
            try:
                with pending.open("wb") as file:
                    file.write(data)
                    os.fchmod(file.fileno(), _FILE_MODE)
                _make_folder(path.parent, self.root, touched)
                # A rename to a name that is not there yet may need room in the folder, and there may be none.
                # An empty file keeps it; readers take that for no file.
                if data:
                    _keep_room(path)
                later = _mtime_ns(path) + 1_000_000_000
                if later > _mtime_ns(pending):
                    os.utime(pending, ns=(later, later))
                touched.update((pending, pending.parent))
                if unsynced is None:
                    self.sync(touched)
            except OSError:
                self.forget(key)
                raise

    def prepared(self, key: str) -> bytes | None:
        """Return what was prepared for a key and neither shown nor forgotten, None if nothing was."""
        try:
            return self._pending(key).read_bytes()
        except FileNotFoundError:
            return None

    def show(self, key: str) -> None:
        """Put what was prepared in place of the old bytes.

        Needs no space and no fsync: where a power cut undoes the rename, the pending file is back and
        start-up finishes the work.
        """
        path, pending = self.path(key), self._pending(key)
        if pending.stat().st_size:
            pending.replace(path)
        else:
            path.unlink(missing_ok=True)
            pending.unlink()

    def forget(self, key: str) -> None:
        """Drop what was prepared; the old bytes stay."""
        path = self.path(key)
        try:
            if path.stat().st_size == 0:
                path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            pass
        self._pending(key).unlink(missing_ok=True)

    def unfinished(self) -> list[str]:
        """Return the keys that were prepared and neither shown nor forgotten."""
        return [name.replace(",", "/") for name in os.listdir(self.root / ".pending")]

    def _pending(self, key: str) -> Path:
        # Flat, so that one listdir at start-up finds all of them. No key has a comma.
        return self.root / ".pending" / key.replace("/", ",")


def fsync(path: Path) -> None:
    """Make a file's bytes, or a folder's names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_if_there(path: Path) -> None:
    with suppress(FileNotFoundError):
        fsync(path)


@contextmanager
def reporting() -> Iterator[None]:
    """Turn the ways a disk fails an honest request into errors of ours, without the path."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace("the registry's disk is full; nothing was changed, tell its operator") from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EIO):
            raise Unavailable("the registry cannot write to its disk; nothing was changed") from error
        raise


def _make_folder(folder: Path, root: Path, touched: set[Path]) -> None:
    """Create a folder below `root`; adds to `touched` each folder above that has a new name in it."""
    if folder.is_dir():
        return
    if folder.parent != root:
        _make_folder(folder.parent, root, touched)
    folder.mkdir(exist_ok=True)
    touched.add(folder.parent)


def _keep_room(path: Path) -> None:
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _FILE_MODE))


def _mtime_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
