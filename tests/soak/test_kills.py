"""`make soak`: kill -9 under load, hundreds of times."""

import os
import time
from pathlib import Path

import pytest

from tests.upkeep.load import Hammer

KILLS = int(os.environ["KILLS"])
# On data that has grown so far, a check takes as long as the load.
_ON_ONE_FOLDER = 25


def test_killed_server_has_lost_nothing_it_acknowledged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("SEED", time.time_ns() % 2**32))
    killed = answered = lost = 0
    while killed < KILLS:
        workers = 1 + killed // _ON_ONE_FOLDER % 2
        hammer = Hammer(tmp_path / f"from-{killed}", seed + killed, workers=workers)
        try:
            while hammer.kills < _ON_ONE_FOLDER and killed < KILLS:
                if workers > 1 and hammer.kills % 3 == 2:
                    hammer.kill_a_worker(within_s=1)
                else:
                    hammer.kill_all(within_s=1)
                killed += 1
            hammer.finish()
        finally:
            hammer.close()
        answered, lost = answered + hammer.book.answered, lost + hammer.book.lost
        with capsys.disabled():
            print(f"\nSEED={seed}: {killed} kills, {answered} changes answered, {lost} cut off")
