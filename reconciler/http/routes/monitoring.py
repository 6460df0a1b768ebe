"""What supervisors, balancers, scrapers and browsers ask of the port without a token: health, figures, stored files.

The routes of the API are not here. The web door adds these to its application.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from reconciler.domain.object_keys import TYPES
from reconciler.health import Health
from reconciler.http.problems import Problem
from reconciler.metrics import Metrics

_MIMES = {ext: mime for mime, (_, ext) in TYPES.items()}
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_TEXT = {"schema": {"type": "string"}}


class Readiness(BaseModel):
    """Whether this replica takes requests."""

    ready: bool
    reason: str | None = Field(description="why not; null when it is ready", examples=["starting", "draining"])


def routes(health: Health, metrics: Metrics) -> APIRouter:
    """Return what is always served."""
    router = APIRouter(tags=["operation"])

    @router.head("/metrics", include_in_schema=False)
    @router.get("/metrics", summary="Figures for Prometheus", response_class=Response, responses=_figures())
    def figures(request: Request) -> Response:
        body, content_type = metrics.exposition(request.headers.get("accept", ""))
        return Response(body, media_type=content_type)

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz", summary="Whether the process lives", response_class=PlainTextResponse, responses=_alive())
    def alive() -> Response:
        if health.beats():
            return PlainTextResponse("ok\n")
        return PlainTextResponse("the loop does not turn\n", status_code=503)

    @router.head("/readyz", include_in_schema=False)
    @router.get(
        "/readyz",
        summary="Whether it takes requests",
        response_model=Readiness,
        responses={503: {"model": Readiness, "description": "Not ready, and why."}},
    )
    def ready() -> Response:
        reason = health.unready()
        return JSONResponse({"ready": reason is None, "reason": reason}, status_code=200 if reason is None else 503)

    return router


def stored_files(folder: Path) -> APIRouter:
    """Return what serves the local backend's folder."""
    root = folder.resolve()
    router = APIRouter(tags=["files"])

    @router.head("/files/{key:path}", include_in_schema=False)
    @router.get("/files/{key:path}", summary="A stored result", response_class=Response, responses=_file())
    def stored(key: str) -> Response:
        path = _found(root, key)
        if path is None:
            raise Problem(404, "not_found", "there is no such file")
        return _Stored(path, media_type=_MIMES[path.suffix.removeprefix(".")])

    return router


class _Stored(FileResponse):
    """A stored file; what is wrong with a Range is told as a problem, as everywhere else."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def unless_refused(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                raise _refusal(message["status"], Headers(raw=message["headers"]))
            await send(message)

        await super().__call__(scope, receive, unless_refused)


def _refusal(status: int, headers: Headers) -> Problem:
    if status != 416:
        return Problem(status, "invalid_request", "Range cannot be understood")
    length = {"Content-Range": headers["content-range"]}
    return Problem(416, "range_not_satisfiable", "Range asks for what is not there", headers=length)


def _found(root: Path, key: str) -> Path | None:
    try:
        path = (root / key).resolve()
        # No object's path has a segment that begins with a dot; what is still being written lies below one.
        hidden = not path.is_relative_to(root) or any(part.startswith(".") for part in path.relative_to(root).parts)
        return path if not hidden and path.suffix.removeprefix(".") in _MIMES and path.is_file() else None
    except (OSError, ValueError):
        # A name that no file can have.
        return None


def _figures() -> dict[int | str, dict[str, Any]]:
    kinds = {"text/plain": _TEXT, "application/openmetrics-text": _TEXT}
    return {200: {"description": "The figures, in the form that Accept asks for.", "content": kinds}}


def _alive() -> dict[int | str, dict[str, Any]]:
    return {
        200: {"description": "It lives.", "content": {"text/plain": _TEXT}},
        503: {"description": "Its loop has not turned for three sweeps: restart it.", "content": {"text/plain": _TEXT}},
    }


def _file() -> dict[int | str, dict[str, Any]]:
    media = dict.fromkeys(TYPES, _BYTES)
    return {
        200: {"description": "The whole file.", "content": media},
        206: {"description": "The parts that Range asks for.", "content": {**media, "multipart/byteranges": _BYTES}},
        400: {"description": "Range cannot be understood."},
        404: {"description": "There is no such file."},
        416: {"description": "Range asks for what is not there; Content-Range tells how much there is."},
    }
