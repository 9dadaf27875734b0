"""One path and the methods it has."""

from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cargo_registry.registry import Registry, Site

Handler = Callable[[Site, Registry, Request], Awaitable[Response]]


def route(site: Site, registry: Registry, path: str, **handlers: Handler) -> Route:
    """Return the route of a path, its handlers by method.

    Starlette's own answer to a wrong method is not JSON, and knows only the first of several routes.
    """
    return Route(path, _Endpoint(site, registry, handlers))


def answer(value: Any) -> Response:
    """Answer 200 with JSON. What the API says is true only now."""
    return Response(msgspec.json.encode(value), 200, {"cache-control": "no-store"}, "application/json")


def refuse_method(method: str, allowed: Iterable[str]) -> HTTPException:
    """Return the 405 for a method that a path does not have."""
    allowed = sorted(allowed)
    return HTTPException(
        HTTPStatus.METHOD_NOT_ALLOWED,
        f"the method {method[:20]} is not possible at this address, only {' or '.join(allowed)}",
        {"allow": ", ".join(allowed)},
    )


class _Endpoint:
    """Calls the handler of the method; HEAD is a GET whose body is not sent."""

    def __init__(self, site: Site, registry: Registry, handlers: dict[str, Handler]) -> None:
        self._site = site
        self._registry = registry
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        method = scope["method"]
        handler = self._handlers.get("GET" if method == "HEAD" else method)
        if handler is None:
            raise refuse_method(
                method, self._handlers.keys() | ({"HEAD"} if "GET" in self._handlers else set())
            )
        response = await handler(self._site, self._registry, Request(scope, receive))
        if method == "HEAD":
            response.body = b""
        await response(scope, receive, send)
