"""The real crates: 339 tarballs of crates.io and their index lines, kept beside the project."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_DATA = Path(__file__).parents[2].parent / "shared" / "data"


@dataclass(frozen=True)
class RealCrate:
    """A tarball and the line that crates.io serves for it."""

    tarball: Path
    line: dict[str, Any]


@pytest.fixture(scope="session")
def real_crates() -> list[RealCrate]:
    if not _DATA.is_dir():
        reason = "the real crates (`shared/data` beside the project) are not there"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    lines = [
        json.loads(line)
        for file in sorted((_DATA / "index").rglob("*"))
        if file.is_file()
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    return [RealCrate(_DATA / "crates" / f"{line['name']}-{line['vers']}.crate", line) for line in lines]
