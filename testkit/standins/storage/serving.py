"""How objects are served: description, listing of a folder, bytes with ranges."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from aiohttp import web

from testkit.standins.storage.faults import FAULT
from testkit.standins.storage.shelf import Thing


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def described(thing: Thing, *, bucket: str, name: str) -> dict[str, object]:
    return {
        "id": thing.id,
        "name": name,
        "version": thing.version,
        "bucket_id": bucket,
        "size": thing.size,
        "content_type": thing.mime,
        "cache_control": thing.cache_control,
        "etag": thing.etag,
        "metadata": thing.metadata,
        "last_modified": _iso(thing.updated_at),
        "created_at": _iso(thing.created_at),
    }


def listed(inside: Mapping[str, Thing], body: Mapping[str, Any]) -> list[dict[str, object]]:
    """The immediate children of a prefix; folders have no id."""
    prefix = str(body.get("prefix") or "")
    prefix = f"{prefix.rstrip('/')}/" if prefix else ""
    children: dict[str, dict[str, object]] = {}
    for name in sorted(inside):
        if not name.startswith(prefix):
            continue
        child, _, deeper = name.removeprefix(prefix).partition("/")
        thing = inside[name]
        children[child] = (
            {"name": child, "id": None, "metadata": None}
            if deeper
            else {
                "name": child,
                "id": thing.id,
                "metadata": {"size": thing.size, "mimetype": thing.mime, "eTag": thing.etag},
            }
        )
    start = int(body.get("offset") or 0)
    return list(children.values())[start : start + int(body.get("limit") or 100)]


async def served(request: web.Request, thing: Thing) -> web.StreamResponse:
    """The bytes, whole or one range of them."""
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": thing.etag,
        "Last-Modified": format_datetime(thing.updated_at.astimezone(UTC), usegmt=True),
        "Cache-Control": thing.cache_control,
        "Content-Type": "text/plain" if thing.mime.startswith("text/html") else thing.mime,
        "X-Robots-Tag": "none",
    }
    if request.headers.get("If-None-Match") == thing.etag:
        return web.Response(status=304, headers=headers)
    try:
        start, end, status = _range(request, thing.size)
    except ValueError:
        return web.Response(status=416, headers={"Content-Range": f"bytes */{thing.size}"})
    if status == 206:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{thing.size}"
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = end - start
    await response.prepare(request)
    fault = request[FAULT]
    if fault is not None and fault.kind == "cut":
        end = start + fault.after
    if request.method != "HEAD":
        for piece in thing.pieces(start, end):
            await response.write(piece)
    if fault is not None and fault.kind == "cut" and request.transport is not None:
        request.transport.abort()
        return response
    await response.write_eof()
    return response


def _range(request: web.Request, size: int) -> tuple[int, int, int]:
    asked = request.http_range
    if asked.start is None and asked.stop is None:
        return 0, size, 200
    start, stop, _ = asked.indices(size)
    if start >= stop:
        raise ValueError("nothing in that range")
    return start, stop, 206
