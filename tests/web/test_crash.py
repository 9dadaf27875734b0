"""What a registry is after its processes were killed, and what holds in each of several workers at once."""

import json
import os
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.client import HTTPException
from pathlib import Path

import pytest

from cargo_registry.storage.locks import Locks
from tests.crates import crate_file
from tests.programs import until
from tests.web.conftest import SITE, Site, ask, publish, published, stored


def workers(server: Site) -> list[int]:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    return [int(pid) for pid in children.read_text().split()]


@pytest.mark.parametrize("victims", ["everything", "a worker"])
def test_what_was_answered_is_there_after_a_kill_and_nothing_is_half(tmp_path: Path, victims: str) -> None:
    """Publish, yank and unyank as fast as it goes, and kill -9 in the middle, several times."""
    acknowledged: set[str] = set()
    yanked: dict[str, bool | None] = {}  # None: it was tried, and nobody knows
    token = ""
    number = 0
    for moment in range(3):
        with Site(tmp_path, SITE, workers=2) as server:
            token = token or server.token("alice")
            stop = threading.Event()

            def hammer(
                start: int, server: Site = server, stop: threading.Event = stop, token: str = token
            ) -> None:
                for number in range(start, start + 10_000, 2):
                    if stop.is_set():
                        return
                    with suppress(OSError, HTTPException):
                        if publish(server, token, "hammered", f"1.0.{number}").status == 200:
                            acknowledged.add(f"1.0.{number}")
                            path = f"/api/v1/crates/hammered/1.0.{number}/yank"
                            yanked[f"1.0.{number}"] = None
                            if ask(server, path, method="DELETE", token=token).status == 200:
                                yanked[f"1.0.{number}"] = True

            threads = [threading.Thread(target=hammer, args=(number + offset,)) for offset in (0, 1)]
            for thread in threads:
                thread.start()
            known = len(acknowledged)
            until(lambda known=known: len(acknowledged) > known + 3)  # type: ignore[misc]
            time.sleep(0.01 * moment)
            if victims == "everything":
                os.killpg(server.process.pid, signal.SIGKILL)
            else:
                os.kill(workers(server)[moment % 2], signal.SIGKILL)
            stop.set()
            for thread in threads:
                thread.join()
            number += 20_000
            server.kill()

    with Site(tmp_path, SITE) as server:
        lines = [json.loads(line) for line in ask(server, "/index/ha/mm/hammered").body.splitlines()]
        listed = {line["vers"]: line["yanked"] for line in lines}
        assert len(listed) == len(lines)
        assert acknowledged <= set(listed)
        for vers, state in yanked.items():
            if state is not None:
                assert listed[vers] is state
        for vers in listed:
            answered = ask(server, f"/api/v1/crates/hammered/{vers}/download")
            assert answered.body == crate_file("hammered", vers)
        server.cli("index", "verify")
        assert not [file for file in stored(server) if ".pending/" in file]


def test_index_file_that_a_crash_left_behind_is_shown_at_the_start(tmp_path: Path) -> None:
    """As after a kill between COMMIT and rename."""
    with Site(tmp_path, SITE) as server:
        published(server, server.token("alice"), "left", "1.0.0")
        first = ask(server, "/index/le/ft/left").body
        published(server, server.token("alice"), "left", "1.1.0")
        second = ask(server, "/index/le/ft/left").body
    file = tmp_path / "index_data/main/le/ft/left"
    pending = tmp_path / "index_data/.pending/main,le,ft,left"
    file.rename(pending)
    file.write_bytes(first)
    with Site(tmp_path, SITE) as server:
        assert ask(server, "/index/le/ft/left").body == second
        assert not pending.exists()


def test_worker_that_replaces_a_killed_one_finishes_its_work(tmp_path: Path) -> None:
    with Site(tmp_path, SITE) as server:
        published(server, server.token("alice"), "left", "1.0.0")
        first = ask(server, "/index/le/ft/left").body
        published(server, server.token("alice"), "left", "1.1.0")
        second = ask(server, "/index/le/ft/left").body
        file = tmp_path / "index_data/main/le/ft/left"
        file.rename(tmp_path / "index_data/.pending/main,le,ft,left")
        file.write_bytes(first)
        assert ask(server, "/index/le/ft/left").body == first
        os.kill(workers(server)[0], signal.SIGKILL)
        assert ask(server, "/index/le/ft/left").body == second


def test_change_waits_for_the_lock_of_its_crate_and_no_other(tmp_path: Path) -> None:
    """Between COMMIT and rename nobody else may change the file: versions would vanish from it."""
    with Site(tmp_path, SITE) as server, ThreadPoolExecutor() as pool:
        token = server.token("alice")
        published(server, token, "held")
        yank = "/api/v1/crates/held/1.0.0/yank"
        for change in (
            lambda: publish(server, token, "held", "1.1.0"),
            lambda: ask(server, yank, method="DELETE", token=token),
        ):
            before = ask(server, "/index/he/ld/held").body
            with Locks(tmp_path / "index_data/.locks").hold("main/held"):
                changing = pool.submit(change)
                with pytest.raises(TimeoutError):
                    changing.result(0.5)
                assert ask(server, "/index/he/ld/held").body == before
            assert changing.result(10).status == 200
            assert ask(server, "/index/he/ld/held").body != before


def test_index_file_of_a_change_that_never_was_is_dropped(tmp_path: Path) -> None:
    """As after a kill before COMMIT."""
    with Site(tmp_path, SITE) as server:
        published(server, server.token("alice"), "left", "1.0.0")
        first = ask(server, "/index/le/ft/left").body
    pending = tmp_path / "index_data/.pending/main,le,ft,left"
    pending.write_bytes(first + b'{"name":"left","vers":"6.6.6"}\n')
    never = tmp_path / "index_data/.pending/main,ne,ve,never"
    never.write_bytes(b'{"name":"never","vers":"6.6.6"}\n')
    with Site(tmp_path, SITE) as server:
        assert ask(server, "/index/le/ft/left").body == first
        assert ask(server, "/index/ne/ve/never").status == 404
        assert not pending.exists()
        assert not never.exists()


def test_what_changed_holds_in_every_worker_at_once(tmp_path: Path) -> None:
    """Connections are spread over the workers as the kernel likes, so each thing is asked often."""
    with Site(tmp_path, SITE, workers=3) as server:
        token = server.token("alice")

        def statuses(path: str, token: str | None = None, times: int = 15) -> set[int]:
            return {ask(server, path, token=token).status for _ in range(times)}

        assert statuses("/index/ev/er/everywhere") == {404}
        published(server, token, "everywhere")
        assert statuses("/index/ev/er/everywhere") == {200}
        assert statuses("/api/v1/crates/everywhere/1.0.0/download") == {200}
        for verb, method, state in (("yank", "DELETE", True), ("unyank", "PUT", False)):
            path = f"/api/v1/crates/everywhere/1.0.0/{verb}"
            ask(server, path, method=method, token=token, body=b"")
            for _ in range(15):
                assert json.loads(ask(server, "/index/ev/er/everywhere").body)["yanked"] is state
        server.cli("crate", "yank", "everywhere@1.0.0")
        for _ in range(15):
            assert json.loads(ask(server, "/index/ev/er/everywhere").body)["yanked"] is True

        secret = "/secret/index/config.json"
        assert statuses(secret, token) == {200}
        server.cli("user", "disable", "alice")
        assert statuses(secret, token) == {401}
        server.cli("user", "enable", "alice")
        assert statuses(secret, token) == {200}
        server.cli("token", "revoke", "1")
        assert statuses(secret, token) == {401}


def test_last_use_of_a_token_is_written(tmp_path: Path) -> None:
    with Site(tmp_path, SITE) as server:
        token = server.token("alice")
        (before,) = json.loads(server.cli("token", "list", "--json").stdout)
        assert before["last_used_at"] is None
        assert ask(server, "/secret/index/config.json", token=token).status == 200
    with closing(sqlite3.connect(tmp_path / "registry.db")) as db:
        assert db.execute("SELECT last_used_at FROM tokens").fetchone() != (None,)
