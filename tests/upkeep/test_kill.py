"""Kill -9 at random instants under load. `make soak` does the same for much longer."""

import os
import time
from pathlib import Path

import pytest

from tests.upkeep.load import Hammer


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_server_has_lost_nothing_it_acknowledged(tmp_path: Path, workers: int) -> None:
    seed = int(os.environ.get("SEED", time.time_ns() % 2**32))
    print(f"SEED={seed}")
    hammer = Hammer(tmp_path / "data", seed, workers=workers)
    try:
        for _ in range(3):
            hammer.kill_all(within_s=0.7)
            if workers > 1:
                hammer.kill_a_worker(within_s=0.5)
        hammer.finish()
    finally:
        hammer.close()
    assert hammer.book.answered > 20
