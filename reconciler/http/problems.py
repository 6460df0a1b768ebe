"""What goes wrong at the door, as `application/problem+json` (RFC 9457) with a stable word in `error`.

Every route raises `Problem` or lets our own errors through; nothing else becomes an answer. `install` is called once by
the web door.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from reconciler.errors import Config, Permanent, Transient

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
"""Those that a route may have, and those that a line of the log repeats."""

_WORDS = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed"}


RETRY = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer", "minimum": 1}}}
"""The header that `wait` writes, for the description of the API."""


class Problem(Exception):
    """An answer that is an error; `more` are further members of the body, which must hold no secret."""

    def __init__(
        self, status: int, error: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: object
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.error = error
        self.detail = detail
        self.headers = dict(headers or {})
        self.more = more

    def answer(self) -> JSONResponse:
        """Return the response."""
        body = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "error": self.error,
            # What was sent may come back in it, and not everything that JSON can carry can be written.
            "detail": self.detail.encode("utf-8", "replace").decode(),
            **self.more,
        }
        if request_id := structlog.contextvars.get_contextvars().get("request_id"):
            body["requestId"] = request_id
        return JSONResponse(body, self.status, headers=self.headers, media_type="application/problem+json")


def unavailable(reason: str, *, seconds: float = 2.0) -> Problem:
    """Return the answer for what passes by itself; `seconds` says when to ask again."""
    return Problem(503, "unavailable", reason, headers=wait(seconds))


def wait(seconds: float) -> dict[str, str]:
    """Return the header that says when to ask again: in whole seconds, one at least."""
    return {"Retry-After": str(max(math.ceil(seconds), 1))}


def install(app: FastAPI) -> None:
    """Make every error of this application a problem."""
    app.add_exception_handler(Problem, _told)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _refused)
    for kind in (Transient, Permanent, Config):
        app.add_exception_handler(kind, _ours)


async def _told(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return error.answer()


async def _malformed(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # Where and why, never the value: it may be a secret in the wrong place.
    told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
    return Problem(400, "invalid_request", told).answer()


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    word = _WORDS.get(error.status_code, "refused")
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(method for method in METHODS if _served(request, method))
    return Problem(error.status_code, word, str(error.detail), headers=headers).answer()


def _served(request: Request, method: str) -> bool:
    # The router names the methods of the first route of this address only, and an address may have several.
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)


async def _ours(_: Request, error: Exception) -> JSONResponse:
    if isinstance(error, Transient):
        return unavailable(str(error), seconds=error.retry_after or 2.0).answer()
    assert isinstance(error, Permanent | Config)
    return Problem(500, error.code, str(error)).answer()
