"""`docs/operations.md` says what is so."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from cargo_registry import config
from cargo_registry.config import PolicyTable
from cargo_registry.policy.rules import RULES

TEXT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
EXAMPLES = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_settings(example: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(example)
    assert config.load(file, data_dir=tmp_path, environ={}).registries["main"].policy != PolicyTable()


def test_every_rule_is_listed_with_its_default() -> None:
    listed = dict(re.findall(r"^\| `(\w+)` \| .* \| (off|warn|refuse) \|$", TEXT, re.MULTILINE))
    assert listed == {one.name: one.default for one in fields(PolicyTable) if one.name in RULES}


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4
