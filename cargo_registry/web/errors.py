"""Exceptions to responses, for the whole application: the one table."""

import logging
from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from cargo_registry.errors import (
    Conflict,
    Damaged,
    Forbidden,
    Invalid,
    NotFound,
    OutOfSpace,
    RegistryError,
    Timeout,
    TooLarge,
    TooMany,
    Unauthorized,
    Unavailable,
    UpstreamDown,
)

log = logging.getLogger(__name__)

STATUS: dict[type[RegistryError], HTTPStatus] = {
    Invalid: HTTPStatus.BAD_REQUEST,
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    Timeout: HTTPStatus.REQUEST_TIMEOUT,
    Conflict: HTTPStatus.CONFLICT,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    TooMany: HTTPStatus.TOO_MANY_REQUESTS,
    Damaged: HTTPStatus.INTERNAL_SERVER_ERROR,
    OutOfSpace: HTTPStatus.INSUFFICIENT_STORAGE,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}


def to_response(error: Exception) -> Response:
    """Answer an error the way cargo prints it (cargo: crates-io/lib.rs, `ApiErrorList`)."""
    match error:
        case RegistryError():
            status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), None)
            if status is not None:
                headers = {}
                if isinstance(error, TooMany | Unavailable):
                    headers["retry-after"] = str(error.retry_after_s)
                # That upstream is down is told once for all who ask, by the mirror.
                if status >= 500 and not isinstance(error, UpstreamDown):
                    # One line: a full disk fails thousands of requests.
                    log.error("%s (%s)", error, str(error.__cause__ or "").partition("\n")[0])
                return respond(str(error), status, headers)
        case HTTPException():
            return respond(error.detail, error.status_code, error.headers)
    log.error("a bug, or an outage we do not know", exc_info=error)
    return respond("the registry failed on this request; its log says why", HTTPStatus.INTERNAL_SERVER_ERROR)


def respond(detail: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with one error."""
    body = msgspec.json.encode({"errors": [{"detail": detail}]})
    return Response(body, status, {"cache-control": "no-store", **(headers or {})}, "application/json")
