"""One lock per crate: between threads, between processes, and after a holder's death."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cargo_registry.storage.locks import Locks


def holder(folder: Path, name: str) -> subprocess.Popen[bytes]:
    """Return a process that holds a lock until its stdin ends, and has it already."""
    program = (
        "import pathlib, sys\n"
        "from cargo_registry.storage.locks import Locks\n"
        f"with Locks(pathlib.Path({str(folder)!r})).hold({name!r}):\n"
        "    print(flush=True)\n"
        "    sys.stdin.read()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


class Taking(threading.Thread):
    """A thread that wants a lock; `has_it` once it does."""

    def __init__(self, locks: Locks, name: str) -> None:
        super().__init__(daemon=True)
        self.locks = locks
        self.lock_name = name
        self.has_it = threading.Event()
        self.start()

    def run(self) -> None:
        with self.locks.hold(self.lock_name):
            self.has_it.set()


@pytest.mark.parametrize("end", ["orderly", "killed"])
def test_lock_of_another_process_is_waited_for(tmp_path: Path, end: str) -> None:
    with holder(tmp_path, "main/serde") as process:
        taking = Taking(Locks(tmp_path), "main/serde")
        assert not taking.has_it.wait(0.2)
        if end == "killed":
            process.send_signal(signal.SIGKILL)
        else:
            assert process.stdin is not None
            process.stdin.close()
        assert taking.has_it.wait(5)
    taking.join()


def test_lock_of_another_thread_is_waited_for(tmp_path: Path) -> None:
    locks = Locks(tmp_path)
    with locks.hold("main/serde"):
        taking = Taking(locks, "main/serde")
        assert not taking.has_it.wait(0.1)
    assert taking.has_it.wait(5)
    taking.join()


def test_other_names_are_not_waited_for(tmp_path: Path) -> None:
    """Two names may share a file, so ask for twenty: fewer than one in 256 share one with any given."""
    locks = Locks(tmp_path)
    with locks.hold("main/serde"):
        takings = [Taking(locks, f"main/crate{number}") for number in range(20)]
        time.sleep(0.2)
        assert sum(taking.has_it.is_set() for taking in takings) >= 18
    for taking in takings:
        taking.join(5)


def test_lock_is_free_after_an_exception(tmp_path: Path) -> None:
    locks = Locks(tmp_path)
    with pytest.raises(RuntimeError), locks.hold("main/serde"):
        raise RuntimeError
    with locks.hold("main/serde"):
        pass


def test_no_increment_is_lost_between_processes(tmp_path: Path) -> None:
    """Read, wait, write: without a lock, most of it would be lost."""
    program = (
        "import pathlib, time\n"
        "from cargo_registry.storage.locks import Locks\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "locks, count = Locks(folder / 'locks'), folder / 'count'\n"
        "for _ in range(25):\n"
        "    with locks.hold('main/serde'):\n"
        "        number = int(count.read_text())\n"
        "        time.sleep(0.001)\n"
        "        count.write_text(str(number + 1))\n"
    )
    (tmp_path / "count").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(4)]
    assert [process.wait(30) for process in processes] == [0] * 4
    assert (tmp_path / "count").read_text() == "100"
