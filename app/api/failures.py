"""Domain error -> RFC 9457 problem. HTTP status codes live in this table and nowhere else.

Guarantees: every error answer of the API is `application/problem+json` with a stable `code`; a client's mistake is a
4xx; a dependency that is down is a 503 with Retry-After; a full disk is a 507; only a fault of ours is a 500, and it
shows no internals.
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.routing import Match

from app.domain import errors

log = logging.getLogger(__name__)

PROBLEM = "application/problem+json"
RETRY_AFTER_SECONDS = 5
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
NOT_JSON = "The body cannot be read as JSON: send one JSON object in UTF-8, nested no deeper than it needs."

# The nearest class along the error's line of ancestors decides.
STATUS: Mapping[type[errors.LetheError], int] = {
    errors.CallerError: 400,
    errors.BadSamples: 422,
    errors.TooFewSamples: 422,
    errors.BadRecipe: 422,
    errors.BadPolicy: 422,
    errors.ModelRefused: 422,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Gone: 410,
    errors.Conflict: 409,
    errors.KeyReused: 422,
    errors.Locked: 423,
    errors.BodyInterrupted: 408,
    errors.ChecksumMismatch: 460,
    errors.TooLarge: 413,
    errors.TooMany: 429,
    errors.UnsupportedMedia: 415,
    errors.PreconditionFailed: 412,
    errors.NotAcceptable: 406,
    errors.BadRange: 416,
    errors.OperatorError: 503,
    errors.StorageFull: 507,
    errors.OurError: 500,
}


class Problem(JSONResponse):
    """In ASCII, so that whatever a caller sent (a lone surrogate, too) can be said back to them."""

    media_type = PROBLEM

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def _tree(kind: type[errors.LetheError]) -> Iterator[type[errors.LetheError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


# Those of the error tree, and the framework's own refusals.
CODES = sorted({kind.code for kind in _tree(errors.LetheError)} | {"invalid-request", "method-not-allowed"})
# Any error, as the OpenAPI document tells it.
DESCRIBED: dict[str, Any] = {
    "description": "A problem (RFC 9457): `detail` says what to do, `code` is stable for programs.",
    "content": {
        PROBLEM: {
            "schema": {
                "type": "object",
                "required": ["type", "title", "status", "detail", "code"],
                "properties": {
                    "type": {"type": "string", "pattern": "^urn:lethe:problem:[a-z-]+$"},
                    "title": {"type": "string"},
                    "status": {"type": "integer", "minimum": 400, "maximum": 599},
                    "detail": {"type": "string"},
                    "code": {"enum": CODES},
                },
            }
        }
    },
}

TITLES = {460: "Checksum Mismatch"}


def status_of(error: errors.LetheError) -> int:
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(
    status: int,
    code: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, Any] | None = None,
) -> JSONResponse:
    """An RFC 9457 answer; `members` are extensions beside the standard members, and never take their place."""
    title = TITLES.get(status) or HTTPStatus(status).phrase
    body = {
        "type": f"urn:lethe:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
    }
    # Who is too slow has not sent all that was announced: nothing more can be read from that connection.
    ending = {"Connection": "close"} if status == 408 else {}
    return Problem(dict(members or {}) | body, status, dict(headers or {}) | ending)


async def _lethe_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.LetheError)
    status = status_of(error)
    if isinstance(error, errors.OurError):
        log.error("internal error", exc_info=error)
    headers = {}
    if status in (429, 503):
        headers["Retry-After"] = str(error.details.get("retry_after", RETRY_AFTER_SECONDS))
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="lethe"'
    if status == 403 and "scopes" in error.details:  # RFC 6750, section 3.1
        scopes = " ".join(error.details["scopes"])
        headers["WWW-Authenticate"] = f'Bearer realm="lethe", error="insufficient_scope", scope="{scopes}"'
    if status == 416:
        headers["Content-Range"] = f"bytes */{error.details['size']}"
    return problem(status, error.code, error.message, headers, error.details)


async def _http_error(request: Request, error: Exception) -> Response:
    """The framework's own refusals: unknown route, method not allowed, a body that is no text."""
    assert isinstance(error, HTTPException)
    status, detail, headers = error.status_code, str(error.detail), dict(error.headers or {})
    if status == 404:
        detail = "There is nothing at this address, which counts every '/': /openapi.json lists all that there is."
    elif status == 405:
        headers["Allow"] = ", ".join(_methods(request))
        detail = f"{request.method} is not served at this address: use {headers['Allow']}."
    elif status == 400:
        detail = NOT_JSON
    return problem(status, HTTPStatus(status).phrase.lower().replace(" ", "-"), detail, headers)


def _methods(request: Request) -> list[str]:
    """What the address serves. The framework names the methods of the first route that has it, and no others."""
    routes = request.app.router.routes
    scopes = {method: {**request.scope, "method": method} for method in METHODS}
    return [name for name, scope in scopes.items() if any(each.matches(scope)[0] is Match.FULL for each in routes)]


async def _validation_error(request: Request, error: Exception) -> Response:
    """FastAPI's reading of parameters and JSON bodies: each fault with its place."""
    assert isinstance(error, RequestValidationError)
    kinds = {fault["loc"]: fault["type"] for fault in error.errors()}
    if "json_invalid" in kinds.values():
        return problem(400, errors.BadRequest.code, NOT_JSON)
    if kinds.get(("body",), "missing") != "missing" and not _says_json(request):
        refusal = errors.UnsupportedMedia("Send the body as Content-Type: application/json.")
        return await _lethe_error(request, refusal)
    faults = [
        {"where": ".".join(str(part) for part in fault["loc"]), "message": fault["msg"]} for fault in error.errors()
    ]
    first = f"{faults[0]['where']}: {faults[0]['message']}" if faults else "The request does not fit."
    return problem(422, "invalid-request", first, members={"faults": faults})


def _says_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


async def _database_down(_request: Request, error: Exception) -> Response:
    log.warning("the database does not answer: %s", type(error).__name__)
    detail = "The database does not answer at the moment. Nothing was lost: send the request again."
    return problem(
        503,
        errors.DependencyDown.code,
        detail,
        {"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


async def _os_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, OSError)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        full = errors.StorageFull("The storage is full. Try again once the operator has made room.")
        return await _lethe_error(request, full)
    return await _unexpected(request, error)


async def _unexpected(_request: Request, error: Exception) -> Response:
    log.error("unexpected error", exc_info=error)
    return problem(
        500,
        errors.OurError.code,
        "Lethe failed at this request. The fault is ours; the log has it.",
    )


HANDLERS: Mapping[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    errors.LetheError: _lethe_error,
    HTTPException: _http_error,
    RequestValidationError: _validation_error,
    OperationalError: _database_down,
    InterfaceError: _database_down,
    PoolTimeout: _database_down,
    OSError: _os_error,
    Exception: _unexpected,
}


async def answer(request: Request, error: Exception) -> Response:
    """For a layer around the routes: what `install` would have answered."""
    handler = next(HANDLERS[kind] for kind in type(error).__mro__ if kind in HANDLERS)
    return await handler(request, error)


def install(app: FastAPI) -> None:
    """Make `app` answer every error as a problem."""
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
