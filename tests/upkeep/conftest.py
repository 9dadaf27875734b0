"""What the tests of upkeep share: disks to mount, and the operator's commands in the test's own process."""

import contextlib
import io
import json
import os
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cargo_registry.cli import main
from cargo_registry.errors import RegistryError
from tests.conftest import missing
from tests.programs import Server
from tests.upkeep.client import Client

CONFIG = "[limits]\nrate_limits = false\n"


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        return json.loads(self.stdout)


def operate(data_dir: Path, *arguments: str | Path) -> Done:
    """Run an operator's command on a data folder, in this process: a start of Python takes half a second.

    For the data it is the same as a process of its own.
    """
    where = ["--data-dir", str(data_dir)]
    if (data_dir / "config.toml").exists():
        where += ["--config", str(data_dir / "config.toml")]
    with redirect_stdout(io.StringIO()) as stdout, redirect_stderr(io.StringIO()) as stderr:
        try:
            code = main.app([*map(str, arguments), *where], standalone_mode=False) or 0
        except RegistryError as error:  # as `main` does
            code = 1
            print(f"error: {error}", file=stderr)
    return Done(code, stdout.getvalue(), stderr.getvalue())


def succeed(data_dir: Path, *arguments: str | Path) -> Done:
    """Run a command that must end well."""
    done = operate(data_dir, *arguments)
    assert done.code == 0, f"{arguments}\n{done.stdout}{done.stderr}"
    return done


def die_in(where: Any, name: str, *, after: bool, folder: Path, command: list[str]) -> None:
    """Run a command in a process that kills itself when it calls this function, or right after it has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads; there are none
        child = os.fork()
    if child == 0:
        called: Callable[..., Any] = getattr(where, name)

        def dying(*args: Any, **kwargs: Any) -> None:
            if after:
                called(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(where, name, dying)
        try:
            operate(folder, *command)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it never came to that point"
    assert os.WTERMSIG(status) == signal.SIGKILL


def token_of(data_dir: Path, login: str, *options: str) -> str:
    """Make a user, if need be, and return a new token of his."""
    operate(data_dir, "user", "add", login)
    return succeed(data_dir, "token", "create", login, *options).stdout.strip()


def all_is_well(data_dir: Path) -> None:
    """Check that rows, index files and tarballs agree, to the last byte, and that nothing is half done."""
    succeed(data_dir, "index", "verify")
    checked = operate(data_dir, "fsck", "--deep", "--json")
    assert (checked.code, checked.json()["findings"]) == (0, []), checked.stdout
    assert not list((data_dir / "index_data" / ".pending").iterdir())


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Server]:
    """A server on data of its own, without rate limits."""
    with Server(tmp_path / "data", CONFIG) as server:
        yield server


@pytest.fixture
def alice(running: Server) -> Iterator[Client]:
    """A user of `running`."""
    with Client(running.direct_url, token_of(running.data_dir, "alice")) as client:
        yield client


def mounted(*command: str) -> bool:
    """Mount something, if this user may."""
    try:
        return not subprocess.run(["mount", *command], capture_output=True, check=False).returncode
    except FileNotFoundError:
        return False


def unmount(folder: Path) -> None:
    """Unmount, also what is in use."""
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB; only root can mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mounted("-t", "tmpfs", "-o", "size=24m", "none", str(folder)):
        missing("a small file system cannot be mounted here; run the tests as root")
    yield folder
    unmount(folder)


def resize(folder: Path, mib: int) -> None:
    """Give a small disk another size."""
    subprocess.run(["mount", "-o", f"remount,size={mib}m", str(folder)], check=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Put the folder, read-only, on top of itself: whoever asks for a path in it from now on cannot write."""
    if not mounted("--bind", str(folder), str(folder)):
        missing("a folder cannot be mounted read-only here; run the tests as root")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield
    finally:
        unmount(folder)


@pytest.fixture
def failing_disk(tmp_path: Path) -> Iterator["FailingDisk"]:
    """An ext4 file system in a file, which the kernel can be told to give up on."""
    disk = FailingDisk(tmp_path / "image", tmp_path / "disk")
    yield disk
    if disk.folder.is_mount():
        unmount(disk.folder)


class FailingDisk:
    """An ext4 file system that becomes read-only at a stroke, as the kernel does when a disk fails.

    An ordinary remount is refused while files are open for writing, and a server always has some.
    """

    def __init__(self, image: Path, folder: Path) -> None:
        self.image, self.folder = image, folder
        folder.mkdir()
        with image.open("wb") as file:
            file.truncate(48 * 1024 * 1024)
        try:
            made = subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], capture_output=True, check=False)
        except FileNotFoundError:
            missing("there is no mkfs.ext4 on this machine")
        if made.returncode or not self.mount():
            missing("an image cannot be mounted here; run the tests as root")

    def mount(self) -> bool:
        return mounted("-o", "loop,errors=remount-ro", "-t", "ext4", str(self.image), str(self.folder))

    def fail(self) -> None:
        """Make the kernel believe that it found an error on the disk."""
        source = subprocess.run(
            ["findmnt", "-n", "-o", "SOURCE", str(self.folder)], capture_output=True, text=True, check=True
        ).stdout.strip()
        trigger = Path("/sys/fs/ext4") / Path(source).name / "trigger_fs_error"
        try:
            trigger.write_text("1")
        except OSError:
            missing("this kernel cannot be told that a disk failed")

    def replace(self) -> None:
        """Unmount, check and mount it again: the administrator's part."""
        # What was killed may still be on its way out.
        assert soon(lambda: not subprocess.run(["umount", str(self.folder)], check=False).returncode)
        # 1: errors were corrected, here the mark that there was one.
        checked = subprocess.run(["e2fsck", "-f", "-y", str(self.image)], capture_output=True, check=False)
        assert checked.returncode <= 1, checked.stdout
        assert self.mount()


def soon(claim: Callable[[], bool], within_s: float = 5) -> bool:
    """Return whether something becomes so in time."""
    end = time.monotonic() + within_s
    while not claim():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
