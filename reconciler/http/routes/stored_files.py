"""`GET /files/{key}`: the objects of the local storage backend, without a token, with Range support.

Pictures, films and sounds are shown in place; browsers save all other files and run none. Used only where storage is a
local folder; other backends serve their objects themselves.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from reconciler.domain.object_keys import TYPES, MediaType
from reconciler.http.problems import Problem

_BYTES = {"schema": {"type": "string", "format": "binary"}}
_CONTENT = dict.fromkeys((found.served_as for found in TYPES.values()), _BYTES)
# Also where somebody opens the file in a tab: it then has an origin of its own, and no script.
_SANDBOX = {"Content-Security-Policy": "sandbox; default-src 'none'; frame-ancestors 'none'"}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole file.", "content": _CONTENT},
    206: {"description": "The ranges that Range asks for.", "content": {**_CONTENT, "multipart/byteranges": _BYTES}},
    400: {"description": "Range cannot be understood."},
    404: {"description": "There is no such file."},
    416: {"description": "Range asks for bytes beyond the file; Content-Range states its size."},
}


def routes(folder: Path, types: Mapping[str, MediaType]) -> APIRouter:
    """Return the routes that serve the files of this folder that are of these types."""
    root = folder.resolve()
    by_ext = {found.ext: found for found in types.values()}
    router = APIRouter(tags=["files"])

    @router.head("/files/{key:path}", include_in_schema=False)
    @router.get("/files/{key:path}", summary="A stored result", response_class=Response, responses=_RESPONSES)
    def stored_file(key: str) -> Response:
        path = _file(root, key)
        found = None if path is None else by_ext.get(path.suffix.removeprefix("."))
        if path is None or found is None:
            raise Problem(404, "not_found", "there is no such file")
        if not found.attachment:
            return _StoredFileResponse(path, media_type=found.served_as)
        return _StoredFileResponse(path, media_type=found.served_as, filename=path.name, headers=_SANDBOX)

    return router


class _StoredFileResponse(FileResponse):
    """A stored file; an invalid Range is answered as a Problem, like every other error."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_unless_error(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                raise _range_problem(message["status"], Headers(raw=message["headers"]))
            await send(message)

        await super().__call__(scope, receive, send_unless_error)


def _range_problem(status: int, headers: Headers) -> Problem:
    if status != 416:
        return Problem(status, "invalid_request", "Range cannot be understood")
    content_range = {"Content-Range": headers["content-range"]}
    return Problem(416, "range_not_satisfiable", "Range asks for bytes beyond the file", headers=content_range)


def _file(root: Path, key: str) -> Path | None:
    try:
        path = (root / key).resolve()
        # No object key has a segment that begins with a dot; unfinished files lie below such a folder.
        hidden = not path.is_relative_to(root) or any(part.startswith(".") for part in path.relative_to(root).parts)
        return path if not hidden and path.is_file() else None
    except (OSError, ValueError):
        # No file can have this name.
        return None
