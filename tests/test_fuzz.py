"""What the fuzzers began with and found goes in and out as it should; `make fuzz` looks for more."""

from pathlib import Path

import pytest

from fuzz import api
from fuzz.targets import CORPUS, TARGETS

SEEDS = sorted(path for path in CORPUS.rglob("*") if path.is_file())


def test_every_target_has_seeds() -> None:
    assert {path.parent.name for path in SEEDS} == TARGETS.keys()


@pytest.mark.parametrize("seed", SEEDS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_seed_is_refused_or_taken_as_every_reader_would(seed: Path) -> None:
    TARGETS[seed.parent.name](seed.read_bytes())


def test_requests_of_all_kinds_break_nothing() -> None:
    run = api.fuzz("granian", 1.5, 1, print)
    assert run.findings == []
    assert run.requests > 50
    assert run.statuses["200"] > 0
