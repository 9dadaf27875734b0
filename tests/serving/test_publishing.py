"""Publishes at the same time: what shares a COMMIT stands or falls alone, and nothing keeps readers waiting."""

import json
import os
import signal
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.crates import crate_file, metadata
from tests.serving.served import Serve, Served, until


def body(name: str, vers: str, data: bytes | None = None) -> bytes:
    said = json.dumps(metadata(name, vers)).encode()
    packed = crate_file(name, vers) if data is None else data
    return struct.pack("<I", len(said)) + said + struct.pack("<I", len(packed)) + packed


def put(served: Served, token: str, sent: bytes) -> tuple[int, bytes]:
    status, _, answer = served.ask("/api/v1/crates/new", "PUT", sent, Authorization=token)
    return status, answer


def reader_of(served: Served) -> list[int]:
    """Return the processes that read uploads for a server."""
    found = subprocess.run(["pgrep", "-g", str(served.process.pid), "-f", "gate.main"], capture_output=True)
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_of_many_at_once_each_stands_or_falls_alone(serve: Serve, tmp_path: Path, workers: str) -> None:
    served = serve("--bootstrap", "ann", "--workers", workers)
    token = served.token()
    assert put(served, token, body("first", "1.0.0"))[0] == 200
    good = [(f"crate{n}", "1.0.0") for n in range(24)] + [("first", f"1.{n}.0") for n in range(1, 9)]
    # Taken, in another spelling, and not a tarball.
    bad = [body("first", "1.0.0"), body("First", "3.0.0"), body("broken", "1.0.0", b"x" * 1000)] * 4

    def publish(one: tuple[str, str] | bytes) -> bool:
        if isinstance(one, bytes):
            status, said = put(served, token, one)
            assert status in (400, 409), said
            return False
        name, vers = one
        status, said = put(served, token, body(name, vers))
        assert status == 200, said
        # The very next GET sees it, whichever worker answers.
        lines = served.ask(f"/index/{name[:2]}/{name[2:4]}/{name}")[2]
        assert f'"vers":"{vers}"'.encode() in lines
        return True

    every = [one for pair in zip(good, [*bad, *[None] * 20], strict=True) for one in pair if one is not None]
    with ThreadPoolExecutor(12) as threads:
        done = list(threads.map(publish, every))
    assert sum(done) == len(good)
    lines = [json.loads(line) for line in served.ask("/index/fi/rs/first")[2].splitlines()]
    assert sorted(line["vers"] for line in lines) == [f"1.{n}.0" for n in range(9)]
    data = tmp_path / "data"
    assert len(list((data / "crates_storage" / "main").rglob("*.crate"))) == len(good) + 1
    assert not list((data / "index_data" / ".pending").iterdir())
    assert not list((data / "crates_storage" / ".spool").iterdir())


def test_reader_that_dies_is_replaced_and_ends_with_its_worker(serve: Serve) -> None:
    served = serve("--bootstrap", "ann")
    token = served.token()
    assert put(served, token, body("first", "1.0.0"))[0] == 200
    (reader,) = reader_of(served)
    os.kill(reader, signal.SIGKILL)
    assert put(served, token, body("first", "1.1.0"))[0] == 200
    (another,) = reader_of(served)
    assert another != reader
    # A refusal comes from there as it is.
    status, said = put(served, token, body("second", "1.0.0", b"x" * 1000))
    assert (status, b"gzip" in said) == (400, True)

    os.kill(served.process.pid, signal.SIGKILL)
    until(lambda: not reader_of(served))


def test_stop_ends_in_order_with_a_reader(serve: Serve) -> None:
    served = serve("--bootstrap", "ann")
    assert put(served, served.token(), body("first", "1.0.0"))[0] == 200
    os.killpg(served.process.pid, signal.SIGTERM)
    assert served.process.wait(10) == 0
    assert not reader_of(served)
    assert "Traceback" not in served.stderr()
