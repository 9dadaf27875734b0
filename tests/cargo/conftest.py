"""The servers that the tests with cargo share: one per toolchain, as each test runs once with each.

A test's crates have names that no other test uses.
"""

from collections.abc import Iterator

import pytest

from tests.programs import Server

CONFIG = """
[registries.main]
aliases = ["sparse+https://old.example.org/index/"]

[registries.other]

[registries.shop]

[registries.secret]
access = "auth-required"
"""


@pytest.fixture(scope="session")
def server(toolchain: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the registries `main`, `other` and `shop`, which are public, and `secret`, which is not."""
    with Server(tmp_path_factory.mktemp(toolchain), CONFIG) as server:
        yield server


@pytest.fixture(scope="session")
def recorded(toolchain: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same, and what cargo says to it is kept."""
    with Server(tmp_path_factory.mktemp(f"recorded-{toolchain}"), CONFIG, recorded=True) as server:
        yield server
