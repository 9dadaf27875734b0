"""Many at once: threads, workers, two servers, servers and commands, all on the same data."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.crates import crate_file
from tests.programs import Server, until
from tests.upkeep.client import Client, NoAnswer, index_path, sha256
from tests.upkeep.conftest import CONFIG, all_is_well, operate, token_of


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "data", CONFIG, workers=request.param) as server:
        yield server


def together(work: Callable[[int], int], count: int) -> list[int]:
    """Run the work in so many threads that begin at one moment."""
    gate = threading.Barrier(count)

    def run(number: int) -> int:
        gate.wait()
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


def test_one_of_sixteen_equal_publishes_wins(server: Server) -> None:
    token = token_of(server.data_dir, "alice")

    for name, same in (("equal", True), ("unlike", False)):
        tarballs = [
            crate_file(name, "1.0.0", files={"src/lib.rs": b"" if same else b"// %d" % number})
            for number in range(16)
        ]

        def publish(number: int, name: str = name, tarballs: list[bytes] = tarballs) -> int:
            with Client(server.direct_url, token) as client:
                return client.publish(name, "1.0.0", tarballs[number]).status

        statuses = together(publish, 16)
        assert sorted(statuses) == [200] + [409] * 15
        with Client(server.direct_url, token) as client:
            winner = tarballs[statuses.index(200)]
            assert client.lines(name)["1.0.0"]["cksum"] == sha256(winner)
            assert client.download(name).body == winner
    assert len(list((server.data_dir / "crates_storage").rglob("*.crate"))) == 2
    assert not list((server.data_dir / "crates_storage" / ".spool").iterdir())
    all_is_well(server.data_dir)


def test_readers_never_miss_what_was_acknowledged(tmp_path: Path) -> None:
    """Two workers, a second server and the command line change one crate; who asks after an answer sees it.

    The file is read over HTTP from both servers, and from disk as nginx would.
    """
    folder = tmp_path / "data"
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(folder, CONFIG, workers=2)) for _ in range(2)]
        token = token_of(folder, "alice")
        known: dict[str, bool] = {}  # what was acknowledged: yanked by version
        lock = threading.Lock()
        over = threading.Event()
        faults: list[str] = []
        reads = 0
        with Client(servers[0].direct_url, token) as client:
            assert client.publish("hot", "0.0.0").status == 200

        def write(number: int) -> int:
            with Client(servers[number % 2].direct_url, token) as client:
                for turn in range(12):
                    vers = f"{number + 1}.{turn}.0"
                    assert client.publish("hot", vers).status == 200
                    with lock:
                        known[vers] = False
                    if turn % 2:
                        # Not changed any more after this, so that what it is remains known.
                        assert client.yank("hot", vers).status == 200
                        with lock:
                            known[vers] = True
            return 0

        def command(_: int) -> int:
            with lock:
                known.pop("0.0.0", None)
            for turn in range(8):
                assert operate(folder, "crate", "unyank" if turn % 2 else "yank", "hot@0.0.0").code == 0
            return 0

        def read(number: int) -> None:
            nonlocal reads
            path = folder / "index_data" / "main" / index_path("hot")
            with Client(servers[number % 2].direct_url) as client:
                while not over.is_set():
                    with lock:
                        before = dict(known)
                    if number < 2:
                        lines = client.lines("hot")
                    else:
                        data = path.read_bytes()
                        if not data.endswith(b"\n"):
                            faults.append(f"torn: {data[-50:]!r}")
                        lines = {line["vers"]: line for line in map(json.loads, data.splitlines())}
                    reads += 1
                    for vers, yanked in before.items():
                        if vers not in lines:
                            faults.append(f"{vers} is missing")
                        elif yanked and not lines[vers]["yanked"]:
                            faults.append(f"{vers} is not yanked")

        readers = [threading.Thread(target=read, args=(number,)) for number in range(3)]
        for reader in readers:
            reader.start()
        try:
            with ThreadPoolExecutor(5) as threads:
                # The command runs in this process, whose stdout it takes: one of them only.
                jobs = [threads.submit(write, number) for number in range(4)]
                jobs.append(threads.submit(command, 0))
                for job in jobs:
                    job.result()
        finally:
            over.set()
            for reader in readers:
                reader.join()
        assert not faults, faults[:5]
        assert reads > 50
        with Client(servers[1].direct_url) as client:
            assert len(client.lines("hot")) == 1 + 4 * 12
        all_is_well(folder)


@pytest.mark.parametrize("server", [2], ids=["two workers"], indirect=True)
def test_a_crate_appears_once_whoever_names_it_first(server: Server) -> None:
    """New names in two spellings at once: one is the crate, the other is refused."""
    token = token_of(server.data_dir, "alice")

    def publish(number: int) -> int:
        name = ("two-words", "two_words", "Two-Words")[number % 3]
        with Client(server.direct_url, token) as client:
            return client.publish(name, f"1.0.{number}").status

    statuses = together(publish, 9)
    assert statuses.count(200) in (3,), statuses
    assert set(statuses) == {200, 409}
    all_is_well(server.data_dir)


def test_stop_under_load_answers_what_is_in_flight(server: Server) -> None:
    """Every upload that the server has begun to take is answered, and the exit code is 0."""
    token = token_of(server.data_dir, "alice")
    tarballs = [
        crate_file(f"upload-{number}", "1.0.0", files={"src/lib.rs": b"", "blob": bytes(2_000_000)})
        for number in range(8)
    ]
    stopped = threading.Event()
    outcome: dict[int, int] = {}

    def upload(number: int) -> None:
        with Client(server.direct_url, token) as client:
            connection = client.connection
            body = b"".join(
                len(part).to_bytes(4, "little") + part
                for part in (
                    json.dumps(
                        {"name": f"upload-{number}", "vers": "1.0.0", "deps": [], "features": {}}
                    ).encode(),
                    tarballs[number],
                )
            )
            connection.putrequest("PUT", "/api/v1/crates/new")
            connection.putheader("Authorization", token)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            half = len(body) // 2
            connection.send(body[:half])
            sent.release()
            stopped.wait(10)
            time.sleep(0.3)
            connection.send(body[half:])
            outcome[number] = connection.getresponse().status

    sent = threading.Semaphore(0)
    threads = [threading.Thread(target=upload, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert sent.acquire(timeout=10)
    until(lambda: len(list((server.data_dir / "crates_storage" / ".spool").iterdir())) == 8)
    server.process.send_signal(signal.SIGTERM)
    stopped.set()
    for thread in threads:
        thread.join(20)
    assert outcome == dict.fromkeys(range(8), 200)
    assert server.process.wait(10) == 0
    server.stop()
    for number in range(8):
        assert operate(server.data_dir, "crate", "show", f"upload-{number}").code == 0
    all_is_well(server.data_dir)


@pytest.mark.parametrize("server", [2], ids=["two workers"], indirect=True)
def test_stop_under_a_storm_of_publishes(server: Server) -> None:
    """What was answered is there, and what was not was never taken."""
    token = token_of(server.data_dir, "alice")
    answered: list[str] = []
    unanswered: list[str] = []

    def storm(number: int) -> None:
        with Client(server.direct_url, token) as client:
            for turn in range(1000):
                name = f"storm-{number}-{turn}"
                try:
                    assert client.publish(name).status == 200
                except NoAnswer:
                    unanswered.append(name)
                    return
                answered.append(name)

    threads = [threading.Thread(target=storm, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    server.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(20)
    assert server.process.wait(20) == 0
    server.stop()
    assert len(unanswered) == 6
    listed = {crate["name"] for crate in operate(server.data_dir, "crate", "list", "--json").json()}
    assert listed == set(answered), "none was done and not answered"
    all_is_well(server.data_dir)
