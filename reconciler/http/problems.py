"""Error answers as `application/problem+json` (RFC 9457), with a stable word in `error`.

A route raises `Problem` or lets our own errors through; the handlers here turn both into answers. `app.py` installs
them.
"""

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from reconciler.errors import Config, Permanent, ReconcilerError, Transient

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
"""The methods that a route may have; the log names no other method."""

_WORDS = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed"}

MAX_DETAIL = 1000
"""The most characters of a problem's detail, whoever wrote it."""

_NAMED = 5
_LONGEST_NAME = 80
_LONGEST_REASON = 200

RETRY = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer", "minimum": 1}}}
"""The OpenAPI description of the header that `wait` returns."""


class Problem(Exception):
    """An error answer; `more` are further members of the body, which must hold no secret."""

    def __init__(
        self, status: int, error: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: object
    ) -> None:
        self.detail = detail if len(detail) <= MAX_DETAIL else f"{detail[:MAX_DETAIL]}…"
        super().__init__(self.detail)
        self.status = status
        self.error = error
        self.headers = dict(headers or {})
        self.more = more

    def answer(self) -> JSONResponse:
        """Return the response."""
        body = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "error": self.error,
            # It may repeat a value from the request, and such a value may hold characters that UTF-8 cannot encode.
            "detail": self.detail.encode("utf-8", "replace").decode(),
            **self.more,
        }
        if request_id := structlog.contextvars.get_contextvars().get("request_id"):
            body["requestId"] = request_id
        return JSONResponse(body, self.status, headers=self.headers, media_type="application/problem+json")


def unavailable(reason: str, *, seconds: float = 2.0) -> Problem:
    """Return a 503 for a state that ends by itself; `seconds` says when to ask again."""
    return Problem(503, "unavailable", reason, headers=wait(seconds))


def from_transient(error: Transient) -> Problem:
    """Return the 503 for this error."""
    return unavailable(shown(error), seconds=error.retry_after or 2.0)


def shown(error: ReconcilerError) -> str:
    """Return what a caller may read: of an error of the database only our own words, no host and no user's name."""
    return our_words(str(error)) if error.code.startswith("database") else str(error)


def our_words(reason: str) -> str:
    """Return the part of a reason before the words of another server."""
    return reason.partition(": ")[0]


def wait(seconds: float) -> dict[str, str]:
    """Return the Retry-After header, in whole seconds and at least one."""
    return {"Retry-After": str(max(math.ceil(seconds), 1))}


def install(app: FastAPI) -> None:
    """Make this application answer every error as a Problem."""
    app.exception_handler(Problem)(_problem)
    app.exception_handler(RequestValidationError)(_invalid_request)
    app.exception_handler(HTTPException)(_http_error)
    for kind in (Transient, Permanent, Config):
        app.exception_handler(kind)(_our_error)


async def _problem(_: Request, error: Problem) -> JSONResponse:
    return error.answer()


async def _invalid_request(_: Request, error: RequestValidationError) -> JSONResponse:
    # The place and the reason, never the value: it may be a secret in the wrong place.
    found = error.errors()
    named = [f"{_place(one['loc'])}: {str(one['msg'])[:_LONGEST_REASON]}" for one in found[:_NAMED]]
    more = [f"and {len(found) - _NAMED} more"] if len(found) > _NAMED else []
    return Problem(400, "invalid_request", "; ".join([*named, *more])).answer()


def _place(steps: Sequence[object]) -> str:
    """Return the place of an error; a step may be a name that the client chose."""
    return ".".join(str(step)[:_LONGEST_NAME] for step in steps)


async def _http_error(request: Request, error: HTTPException) -> JSONResponse:
    word = _WORDS.get(error.status_code, "refused")
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(method for method in METHODS if _has_route(request, method))
    return Problem(error.status_code, word, str(error.detail), headers=headers).answer()


def _has_route(request: Request, method: str) -> bool:
    # The router's own Allow header names only the methods of the first route at this address.
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)


async def _our_error(_: Request, error: Transient | Permanent | Config) -> JSONResponse:
    if isinstance(error, Transient):
        return from_transient(error).answer()
    if isinstance(error, Config):
        return Problem(500, error.code, our_words(str(error))).answer()
    return Problem(500, error.code, str(error)).answer()
