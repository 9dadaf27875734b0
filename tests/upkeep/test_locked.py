"""Another process keeps the database locked: changes are refused while cargo still waits, and reads go on."""

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from tests.programs import Server
from tests.upkeep.client import Answer, Client
from tests.upkeep.conftest import all_is_well

_CARGO_WAITS_S = 30


def test_locked_database_refuses_in_time_and_reads_go_on(running: Server, alice: Client) -> None:
    assert alice.publish("kept").status == 200

    def publish(number: int) -> tuple[Answer, float]:
        began = time.monotonic()
        with Client(running.direct_url, alice.token) as client:
            return client.publish(f"queued-{number}"), time.monotonic() - began

    with closing(sqlite3.connect(running.data_dir / "registry.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(8) as threads:
            queued = [threads.submit(publish, number) for number in range(8)]
            # Longer than any read of these may wait, and shorter than SQLite does.
            end = time.monotonic() + 3
            while time.monotonic() < end:
                began = time.monotonic()
                assert list(alice.lines("kept")) == ["1.0.0"]
                assert alice.download("kept").status == 200
                assert alice.get("/api/v1/crates/kept").status == 200
                assert alice.get("/api/v1/crates?q=kept").json()["meta"]["total"] == 1
                assert time.monotonic() - began < 1
                time.sleep(0.2)
            answers = [one.result() for one in queued]
        other.execute("ROLLBACK")
        for answer, took_s in answers:
            assert answer.status == 503
            assert "busy" in answer.refusal()
            assert int(answer.headers["retry-after"]) > 0
            assert took_s < _CARGO_WAITS_S - 2
        assert max(took_s for _, took_s in answers) > 9, "it did not even try"
        for number in range(8):
            assert alice.lines(f"queued-{number}") == {}
            assert alice.publish(f"queued-{number}").status == 200
    all_is_well(running.data_dir)


def test_short_lock_is_waited_for(running: Server, alice: Client) -> None:
    with (
        closing(sqlite3.connect(running.data_dir / "registry.db", isolation_level=None)) as other,
        ThreadPoolExecutor(1) as threads,
    ):
        other.execute("BEGIN IMMEDIATE")
        answer = threads.submit(alice.publish, "patient")
        time.sleep(1)
        assert not answer.done()
        other.execute("COMMIT")
        assert answer.result().status == 200
