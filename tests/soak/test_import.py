"""`make soak`: ten thousand crates."""

from pathlib import Path

import pytest

from tests.upkeep.conftest import all_is_well, token_of
from tests.upkeep.test_import import generate, import_measured


def test_ten_thousand_crates_come_in_and_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = 10_000
    folder = tmp_path / "data"
    token_of(folder, "alice")
    source = generate(tmp_path / "source", count)
    stopped = import_measured(folder, source, count // 3, interrupt_at=count // 3)
    said = import_measured(folder, source, count * 2 // 3)
    with capsys.disabled():
        print(f"\n{stopped}\n{said}")
    all_is_well(folder)
