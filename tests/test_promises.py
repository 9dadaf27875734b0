"""Promises that hold across the whole package: nothing can be added and forgotten elsewhere."""

import asyncio
import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
from starlette.routing import Route

from cargo_registry import errors
from cargo_registry.config import load
from cargo_registry.registry import close_site, open_site
from cargo_registry.web import api, lookups
from cargo_registry.web.errors import STATUS, to_response
from cargo_registry.web.limits import Limits

ROOT = Path(__file__).parent.parent


def every_error() -> Iterator[type[errors.RegistryError]]:
    """Return every class of ours below RegistryError."""
    waiting = list(errors.RegistryError.__subclasses__())
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__ == errors.__name__:
            yield kind


def _name(kind: type[errors.RegistryError]) -> str:
    return kind.__name__


def make(kind: type[errors.RegistryError]) -> errors.RegistryError:
    if issubclass(kind, errors.TooMany):
        return kind("a sentence", retry_after_s=7)
    return kind("a sentence")


@pytest.mark.parametrize("kind", list(every_error()), ids=_name)
def test_each_error_has_a_status_or_is_the_operators(kind: type[errors.RegistryError]) -> None:
    has_status = any(parent in STATUS for parent in kind.__mro__)
    assert has_status is not issubclass(kind, errors.ConfigError)
    if not has_status:
        return
    response = to_response(make(kind))
    assert response.status_code >= 400
    assert bytes(response.body) == b'{"errors":[{"detail":"a sentence"}]}'
    # A client that may come again is told when.
    comes_again = response.status_code in (429, 503, 507)
    assert ("retry-after" in response.headers) is comes_again
    assert response.headers["cache-control"] == "no-store"


def test_errors_have_the_statuses_that_their_tree_shows() -> None:
    """The docstring is what people read."""
    shown = re.findall(r"^\W*(\w+)\s+(\d{3})\b", errors.__doc__ or "", re.MULTILINE)
    assert len(shown) > 8
    for name, status in shown:
        kind = getattr(errors, name)
        assert to_response(make(kind)).status_code == int(status), name


def test_every_error_is_in_the_tree() -> None:
    tree = set(re.findall(r"\w+", errors.__doc__ or ""))
    assert {kind.__name__ for kind in every_error()} <= tree


def test_bug_says_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    response = to_response(ZeroDivisionError("/a/path and a secret"))
    assert response.status_code == HTTPStatus.INTERNAL_SERVER_ERROR
    assert b"secret" not in bytes(response.body)
    assert "ZeroDivisionError" in caplog.text


def test_each_route_is_documented(tmp_path: Path) -> None:
    documents = [file for file in (ROOT / "docs").glob("*.md") if "api" in file.name.lower()]
    if not documents:
        pytest.skip("there is no document of the API yet")
    text = "".join(file.read_text() for file in documents)
    config = load(None, data_dir=tmp_path, environ={})
    site = open_site(config)
    try:
        (registry,) = site.registries.values()
        routes: list[Route] = [*api.routes(site, registry, Limits(config)), *lookups.routes(site, registry)]
        missing = [route.path for route in routes if _as_documented(route.path) not in _as_documented(text)]
        assert missing == []
    finally:
        asyncio.run(close_site(site))


def _as_documented(path: str) -> str:
    """Leave out how parameters are called."""
    return re.sub(r"\{\w+\}", "{}", path)
