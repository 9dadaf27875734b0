"""Publishes, yanks and changes owners from many threads until the server is killed, and keeps book of every answer.

Each version is yanked only by the thread that published it, and each thread has an owner of its own to add and
remove: so what must hold after the kill is known, but for what was not answered, where either will do.
"""

import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.crates import crate_file
from tests.programs import Server, until
from tests.upkeep.client import Client, NoAnswer, sha256
from tests.upkeep.conftest import CONFIG, all_is_well, succeed, token_of

_THREADS = 6
_SHARED = ("shared-one", "shared-two")
_CONTESTED = "contested"


@dataclass(slots=True)
class Book:
    """What was answered, and what was asked and not answered."""

    cksum: dict[tuple[str, str], str] = field(default_factory=dict)
    yanked: dict[tuple[str, str], set[bool]] = field(default_factory=dict)  # what may be true now
    owns: dict[tuple[str, str], set[bool]] = field(default_factory=dict)  # by crate and login
    open: dict[tuple[str, str], set[str]] = field(default_factory=dict)  # checksums sent, no answer
    fresh: set[tuple[str, str]] = field(default_factory=set)  # acknowledged since the last check
    answered: int = 0
    lost: int = 0
    faults: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Hammer:
    """The load on one data folder, and the check of what is left of it."""

    def __init__(self, folder: Path, seed: int, *, workers: int) -> None:
        self.folder, self.workers = folder, workers
        self.chance = random.Random(seed)
        self.book = Book()
        self.kills = 0
        self._round = 0
        self._server = Server(folder, CONFIG, workers=workers)
        self._port = int(self._server.direct_url.rpartition(":")[2])
        self._token = token_of(folder, "alice")
        for number in range(_THREADS):
            succeed(folder, "user", "add", f"helper-{number}")
        with Client(self._server.direct_url, self._token) as client:
            for name in (*_SHARED, _CONTESTED):
                self._publish(client, name, "0.0.0", crate_file(name, "0.0.0"))

    def kill_all(self, within_s: float) -> None:
        """Load the server, kill all of it at a random instant, start it again, and check."""

        def kill() -> None:
            os.killpg(self._server.process.pid, signal.SIGKILL)

        self._under_load(kill, within_s)
        self._server.kill()
        self._server = Server(self.folder, workers=self.workers, port=self._port)
        self._check()

    def kill_a_worker(self, within_s: float) -> None:
        """Load the server, kill one worker as the kernel does that has no memory, wait for the new one, and check."""
        workers = workers_of(self._server)
        assert len(workers) == self.workers
        victim = self.chance.choice(workers)

        def kill() -> None:
            os.kill(victim, signal.SIGKILL)

        self._under_load(kill, within_s)
        pending = self.folder / "index_data" / ".pending"
        until(lambda: len(set(workers_of(self._server)) - {victim}) == self.workers)
        until(lambda: not list(pending.iterdir()))
        self._check()

    def finish(self) -> None:
        """Check every byte and stop in order."""
        all_is_well(self.folder)
        with Client(self._server.direct_url, self._token) as client:
            for (name, vers), cksum in self.book.cksum.items():
                assert client.is_whole(name, vers, cksum), f"{name}@{vers}"
        self._server.stop()
        all_is_well(self.folder)

    def close(self) -> None:
        """End the server, whatever happened."""
        if self._server.process.poll() is None:
            self._server.kill()

    def _under_load(self, kill: Callable[[], None], within_s: float) -> None:
        self.kills += 1
        self._round += 1
        over = threading.Event()
        threads = [
            threading.Thread(target=self._work, args=(number, self.chance.randrange(2**32), over))
            for number in range(_THREADS)
        ]
        for thread in threads:
            thread.start()
        over.wait(self.chance.uniform(0.02, within_s))
        kill()
        over.set()
        for thread in threads:
            thread.join()
        assert not self.book.faults, self.book.faults

    def _work(self, number: int, seed: int, over: threading.Event) -> None:
        chance = random.Random(seed)
        mine: list[tuple[str, str]] = []
        done = 0
        with Client(self._server.direct_url, self._token) as client:
            while not over.is_set():
                done += 1
                try:
                    self._act(client, chance, number, done, mine)
                except NoAnswer:
                    with self.book.lock:
                        self.book.lost += 1
                    if self.workers == 1:
                        return
                except AssertionError as fault:
                    self.book.faults.append(repr(fault))
                    return

    def _act(
        self, client: Client, chance: random.Random, number: int, done: int, mine: list[tuple[str, str]]
    ) -> None:
        """Change one thing; see at once that it shows."""
        what = chance.random()
        if what < 0.45 or not mine:
            name = chance.choice([*_SHARED, f"own-{number}-{self._round}"])
            vers = f"{self._round}.{number}.{done}"
            blob = chance.randbytes(chance.choice([10, 1000, 100_000, 2_000_000 if what < 0.05 else 10]))
            tarball = crate_file(name, vers, files={"src/lib.rs": b"", "blob": blob})
            if self._publish(client, name, vers, tarball):
                mine.append((name, vers))
                assert client.lines(name)[vers]["cksum"] == sha256(tarball)
        elif what < 0.55:
            vers = f"{self._round}.0.{done}"
            tarball = crate_file(_CONTESTED, vers, files={"src/lib.rs": b"// %d" % number})
            self._publish(client, _CONTESTED, vers, tarball, contested=True)
        elif what < 0.85:
            key = chance.choice(mine)
            self._set_yanked(client, key, chance.random() < 0.6)
        else:
            self._set_owner(client, chance.choice(mine)[0], f"helper-{number}", chance.random() < 0.6)

    def _publish(
        self, client: Client, name: str, vers: str, tarball: bytes, *, contested: bool = False
    ) -> bool:
        book, key, cksum = self.book, (name, vers), sha256(tarball)
        with book.lock:
            book.open.setdefault(key, set()).add(cksum)
        answer = client.publish(name, vers, tarball)
        with book.lock:
            book.answered += 1
            book.open[key].discard(cksum)
            if not book.open[key]:
                del book.open[key]
            if answer.status == 200:
                assert key not in book.cksum, f"{name}@{vers} was published twice"
                book.cksum[key], book.yanked[key] = cksum, {False}
                book.fresh.add(key)
                return True
        assert contested, answer.body
        assert answer.status == 409, answer.body
        return False

    def _set_yanked(self, client: Client, key: tuple[str, str], yanked: bool) -> None:
        self.book.yanked[key] |= {yanked}
        answer = client.set_yanked(*key, yanked)
        assert answer.status == 200, answer.body
        self.book.yanked[key] = {yanked}
        self.book.answered += 1
        assert client.lines(key[0])[key[1]]["yanked"] is yanked

    def _set_owner(self, client: Client, name: str, login: str, owns: bool) -> None:
        key = (name, login)
        self.book.owns.setdefault(key, {False})
        self.book.owns[key] |= {owns}
        answer = client.set_owner(name, login, owns)
        if owns or answer.status == 200:
            assert answer.status == 200, answer.body
        else:
            assert "is not an owner" in answer.refusal()
        self.book.owns[key] = {owns}
        self.book.answered += 1
        assert (login in client.owners(name)) is owns

    def _check(self) -> None:
        """Compare what is served with the book, settle what was open, and publish again what is not there."""
        book = self.book
        assert not list((self.folder / "index_data" / ".pending").iterdir())
        with Client(self._server.direct_url, self._token) as client:
            wanted: dict[str, set[str]] = {}
            for name, vers in [*book.cksum, *book.open]:
                wanted.setdefault(name, set()).add(vers)
            lines = {name: client.lines(name) for name in wanted}
            for name, versions in wanted.items():
                assert set(lines[name]) <= versions, "a version nobody published"
            for (name, vers), cksum in book.cksum.items():
                line = lines[name].get(vers)
                assert line is not None, f"{name}@{vers} was acknowledged and is gone"
                assert line["cksum"] == cksum, f"{name}@{vers} has changed"
                assert line["yanked"] in book.yanked[name, vers], f"{name}@{vers}: yanked {line['yanked']}"
                book.yanked[name, vers] = {line["yanked"]}
            for name, vers in book.fresh:
                assert client.is_whole(name, vers, book.cksum[name, vers]), f"{name}@{vers}"
            book.fresh.clear()
            for (name, login), possible in book.owns.items():
                if lines.get(name):
                    is_owner = login in client.owners(name)
                    assert is_owner in possible, f"{login} and {name}: {is_owner}, may be {possible}"
                    book.owns[name, login] = {is_owner}
            self._settle(client, lines)
        succeed(self.folder, "index", "verify")

    def _settle(self, client: Client, lines: dict[str, dict[str, dict[str, object]]]) -> None:
        """See that what was not answered is wholly there, or can be published: with other bytes, too."""
        book = self.book
        for (name, vers), sent in list(book.open.items()):
            if (name, vers) in book.cksum:  # contested, and another thread had the answer
                del book.open[name, vers]
                continue
            line = lines[name].get(vers)
            other = crate_file(name, vers, files={"src/lib.rs": b"// again"})
            if line is None:
                shown = client.get(f"/api/v1/crates/{name}/{vers}")
                assert shown.status == 404, shown.body
                assert client.download(name, vers).status == 404
                del book.open[name, vers]
                assert self._publish(client, name, vers, other)
            else:
                cksum = line["cksum"]
                assert cksum in sent
                assert isinstance(cksum, str)
                assert client.is_whole(name, vers, cksum)
                assert client.publish(name, vers, other).status == 409
                book.cksum[name, vers], book.yanked[name, vers] = cksum, {False}
                del book.open[name, vers]


def workers_of(server: Server) -> list[int]:
    """Return the processes of the workers."""
    found = subprocess.run(
        ["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True, check=False
    )
    return [int(line) for line in found.stdout.split()]
