"""An upstream that can be told what to do, and mirrors of it in real processes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.mirror.upstream import Upstream
from tests.programs import Server

MakeMirror = Callable[..., Server]


@dataclass
class Pair:
    """A mirror and its upstream, which a module's tests share; each uses crates of its own."""

    upstream: Upstream
    mirror: Server  # the registry at its root has `max_age = 0`, `/lazy` the usual one

    def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        return self.mirror.http.get(path, headers=headers or {})

    def download(
        self, name: str, vers: str = "1.0.0", headers: dict[str, str] | None = None
    ) -> httpx.Response:
        return self.get(f"/api/v1/crates/{name}/{vers}/download", headers)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Upstream() as upstream:
        config = f"""
[server]
default_registry = "eager"
[registries.eager]
kind = "mirror"
upstream = "{upstream.index_url}"
max_age = 0
contact = "ops@example.org"
[registries.lazy]
kind = "mirror"
upstream = "{upstream.index_url}"
"""
        with Server(tmp_path_factory.mktemp("mirror"), config) as server:
            yield Pair(upstream, server)


@pytest.fixture
def pair(_shared: Pair) -> Iterator[Pair]:
    _shared.upstream.asked.clear()
    yield _shared
    _shared.upstream.everywhere = None
    _shared.upstream.behaviour.clear()


@pytest.fixture
def make_mirror(tmp_path: Path) -> Iterator[MakeMirror]:
    """Start a mirror at the root of its site; started once more, on the same data."""
    with ExitStack() as stack:

        def make(
            upstream: Upstream | str,
            settings: str = "",
            policy: str = "",
            *,
            workers: int = 1,
            more: str = "",
        ) -> Server:
            url = upstream if isinstance(upstream, str) else upstream.index_url
            config = f"""
[server]
default_registry = "crates-io"
[registries.crates-io]
kind = "mirror"
upstream = "{url}"
{settings}
[registries.crates-io.policy]
{policy}
{more}
"""
            return stack.enter_context(Server(tmp_path / "mirror", config, workers=workers))

        yield make
