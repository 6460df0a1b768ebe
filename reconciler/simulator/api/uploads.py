"""The upload API, `/api/file-…-upload`: as JSON with base64, as a form, or fetched from an address.

KIE has it on a host of its own; here it shares the port. Uploaded files are kept in memory for 24 simulated hours, at
most `MOST_BYTES` of them together, and served by `file_host.py`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import mimetypes
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import aiohttp
from aiohttp import web

from reconciler.simulator.api.responses import Responses
from reconciler.simulator.world import UploadedFile, World

LARGEST = 100 << 20
MOST_BYTES = 256 << 20
LASTS = 86400.0
FETCH_SECONDS = 30.0

_PIECE = 64 << 10
_DATA_ADDRESS = re.compile(r"data:([\w.+/-]*)(?:;[\w=.+-]+)*;base64,", re.ASCII)


class UploadRefused(ValueError):
    """The upload cannot be taken; the text says why."""


@dataclass(frozen=True, slots=True)
class Upload:
    """What a request uploads: the bytes, the type that the client names, and the fields of the request."""

    content: bytes
    mime: str
    name: str
    fields: Mapping[str, object]


class Uploads:
    """Takes uploads."""

    def __init__(self, world: World, responses: Responses) -> None:
        self._world = world
        self._responses = responses

    async def from_base64(self, request: web.BaseRequest, key: str) -> web.StreamResponse:
        """Take `base64Data`, with or without the head of a data address."""
        return await self._answer(request, key, _decode)

    async def from_form(self, request: web.BaseRequest, key: str) -> web.StreamResponse:
        """Take the part `file` of a form."""
        return await self._answer(request, key, _read_form)

    async def from_address(self, request: web.BaseRequest, key: str) -> web.StreamResponse:
        """Fetch `fileUrl`, within 30 s."""
        return await self._answer(request, key, _fetch)

    async def _answer(
        self, request: web.BaseRequest, key: str, receive: Callable[[web.BaseRequest], Awaitable[Upload]]
    ) -> web.StreamResponse:
        if (fault := self._world.fault("upload")) is not None:
            return await self._responses.spoil(request, fault)
        try:
            upload = await receive(request)
        except UploadRefused as error:
            refused = {"success": False, "code": 400, "msg": str(error), "data": None}
            return self._responses.reply(request, json.dumps(refused).encode())
        kept = self._keep(upload, key)
        answer = {"success": True, "code": 200, "msg": "File uploaded successfully", "data": kept}
        return self._responses.reply(request, json.dumps(answer, separators=(",", ":")).encode())

    def _keep(self, upload: Upload, key: str) -> dict[str, object]:
        """Keep the file, forget the oldest ones beyond the limit, and return what KIE says about it."""
        uploads, now = self._world.uploads, self._world.clock.now()
        account = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % 900_000 + 100_000
        name = _safe(_text(upload.fields, "fileName") or upload.name) or f"upload-{len(uploads)}"
        folders = filter(None, map(_safe, _text(upload.fields, "uploadPath").split("/")))
        path = "/".join(("kieai", str(account), *folders, name))
        mime = upload.mime or mimetypes.guess_type(name)[0] or "application/octet-stream"
        uploads.pop(f"/{path}", None)
        uploads[f"/{path}"] = UploadedFile(upload.content, mime, now + LASTS)
        while sum(len(file.content) for file in uploads.values()) > MOST_BYTES and len(uploads) > 1:
            del uploads[next(iter(uploads))]
        self._world.counts.uploads += 1
        return {
            "success": True,
            "fileName": name,
            "filePath": path,
            "downloadUrl": f"{self._world.origin}/{path}",
            "fileSize": len(upload.content),
            "mimeType": mime,
            "uploadedAt": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }


async def _decode(request: web.BaseRequest) -> Upload:
    fields = _object(await _limited(request.content, LARGEST * 4 // 3 + 4096))
    text = _text(fields, "base64Data")
    if not text:
        raise UploadRefused("base64Data is required")
    head = _DATA_ADDRESS.match(text)
    mime = head[1] if head else ""
    try:
        content = base64.b64decode(text[head.end() :] if head else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UploadRefused("base64Data is not base64") from error
    _require_path(fields)
    return Upload(content, mime, f"file{mimetypes.guess_extension(mime) or ''}" if mime else "file", fields)


async def _read_form(request: web.BaseRequest) -> Upload:
    if not request.content_type.startswith("multipart/"):
        raise UploadRefused("the body is no form")
    fields: dict[str, object] = {}
    file: tuple[bytes, str, str] | None = None
    try:
        reader = aiohttp.MultipartReader(request.headers, request.content)
        while isinstance(part := await reader.next(), aiohttp.BodyPartReader):
            content = await _part(part)
            if part.name == "file":
                file = (content, part.headers.get("Content-Type", ""), part.filename or "file")
            elif part.name:
                fields[part.name] = content.decode("utf-8", "replace")
    except UploadRefused:
        raise
    except (ValueError, aiohttp.ClientError) as error:
        raise UploadRefused("the body is no form") from error
    if file is None:
        raise UploadRefused("file is required")
    _require_path(fields)
    return Upload(*file, fields)


async def _part(part: aiohttp.BodyPartReader) -> bytes:
    content = bytearray()
    while piece := await part.read_chunk():
        content += piece
        if len(content) > LARGEST:
            raise UploadRefused("the file is too large")
    return part.decode(bytes(content))


async def _fetch(request: web.BaseRequest) -> Upload:
    fields = _object(await _limited(request.content, 1 << 20))
    address = _text(fields, "fileUrl")
    if urlsplit(address).scheme not in {"http", "https"}:
        raise UploadRefused("fileUrl is required")
    _require_path(fields)
    timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(address) as answer:
            content, mime = await _fetched(answer), answer.content_type
    except UploadRefused:
        raise
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise UploadRefused("the file cannot be fetched") from error
    return Upload(content, mime, PurePosixPath(unquote(urlsplit(address).path)).name, fields)


async def _fetched(answer: aiohttp.ClientResponse) -> bytes:
    if answer.status != 200:
        raise UploadRefused(f"the file cannot be fetched: HTTP {answer.status}")
    return await _limited(answer.content, LARGEST)


async def _limited(stream: aiohttp.StreamReader | asyncio.StreamReader, most: int) -> bytes:
    """Return the whole body; raise UploadRefused where it is longer than `most` bytes."""
    content = bytearray()
    while piece := await stream.read(_PIECE):
        content += piece
        if len(content) > most:
            raise UploadRefused("the file is too large")
    return bytes(content)


def _object(content: bytes) -> dict[str, object]:
    try:
        found = json.loads(content)
    except ValueError as error:
        raise UploadRefused("the body is not JSON") from error
    if not isinstance(found, dict):
        raise UploadRefused("the body is no JSON object")
    return found


def _require_path(fields: Mapping[str, object]) -> None:
    if not _text(fields, "uploadPath"):
        raise UploadRefused("uploadPath is required")


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _safe(name: str) -> str:
    """Return a part of a path without anything that leads out of it."""
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII).strip(".")[:100]
