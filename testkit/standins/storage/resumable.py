"""The TUS routes: create, HEAD, PATCH, terminate, with the behaviour that surprises clients."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import StreamReader, web

from testkit.standins.storage.answers import Refused, TusRefused
from testkit.standins.storage.faults import FAULT
from testkit.standins.storage.shelf import Parcel
from testkit.standins.storage.wire import cut, pieces

if TYPE_CHECKING:
    from testkit.standins.storage.server import SupabaseStorage

PIECE = 6 << 20
VERSION = {"Tus-Resumable": "1.0.0"}


class Evicted(Exception):
    """A HEAD has taken the lock from the PATCH that was being read."""


@dataclass
class Upload:
    """One unfinished (or finished and not yet forgotten) upload."""

    bucket: str
    key: str
    length: int
    mime: str
    cache: str
    metadata: Mapping[str, object]
    declared: str
    parcel: Parcel
    done: bool = False
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    stream: StreamReader | None = None

    @property
    def name(self) -> str:
        return f"{self.bucket}/{self.key}"


class Resumable:
    """`strict` demands pieces of exactly 6 MiB but for the last; `keeps` says whether a broken piece's bytes count."""

    def __init__(self, server: SupabaseStorage) -> None:
        self._server = server
        self.uploads: dict[str, Upload] = {}
        self.strict = True
        self.keeps = True
        self.tells_metadata = True

    def add(self, application: web.Application, base: str) -> None:
        route, one = self._server.route, f"{base}/{{upload}}"
        application.router.add_route("POST", base, route("create", self._create))
        application.router.add_route("HEAD", one, route("head", self._head))
        application.router.add_route("PATCH", one, route("patch", self._patch))
        application.router.add_route("DELETE", one, route("terminate", self._terminate))

    def expire(self, upload: str | None = None) -> None:
        """Forgets one upload, or all of them."""
        for name in [upload] if upload else list(self.uploads):
            self.uploads.pop(name).parcel.drop()

    def _allowed(self, request: web.Request) -> None:
        if request.headers.get("Tus-Resumable") != "1.0.0":
            raise TusRefused(412, "Tus-Resumable Required")
        if self._server.role(request) != "service_role":
            raise TusRefused(403, "new row violates row-level security policy")

    def _upload(self, request: web.Request) -> Upload:
        self._allowed(request)
        fault, name = request[FAULT], request.match_info["upload"]
        if fault is not None and fault.kind == "gone":
            raise TusRefused(fault.status, "The file for this url was not found")
        if name not in self.uploads:
            raise TusRefused(404, "The file for this url was not found")
        return self.uploads[name]

    async def _create(self, request: web.Request) -> web.StreamResponse:
        self._allowed(request)
        declared = request.headers.get("Upload-Metadata", "")
        said = _declared(declared)
        if not said.get("bucketName") or not said.get("objectName"):
            raise TusRefused(400, "bucketName and objectName are required")
        bucket = self._server.buckets.get(said["bucketName"])
        if bucket is None:
            raise TusRefused(404, "Bucket not found")
        length, mime = int(request.headers.get("Upload-Length", "0")), said.get("contentType", "")
        limits = [limit for limit in (bucket.file_size_limit, self._server.project_limit) if limit is not None]
        if limits and length > min(limits):
            raise TusRefused(413, "Maximum size exceeded")
        if mime and not bucket.takes(mime):
            raise TusRefused(415, f"mime type {mime} is not supported")
        age = said.get("cacheControl", "")
        upload = Upload(
            bucket=said["bucketName"],
            key=said["objectName"],
            length=length,
            mime=mime or "application/octet-stream",
            cache=f"max-age={age}" if age.isdigit() else "no-cache",
            metadata=_json(said.get("metadata", "{}")),
            declared=declared,
            parcel=self._server.shelf.parcel(),
        )
        if upload.name in self._server.objects and request.headers.get("x-upsert") != "true":
            raise TusRefused(409, "The resource already exists")
        where = f"{upload.name}/{uuid.uuid4()}".encode()
        name = base64.urlsafe_b64encode(where).decode().rstrip("=")
        self.uploads[name] = upload
        if length == 0:
            self._finish(upload)
        # In production the real server writes https and its own idea of the address, not the one that the client used.
        location = f"https://{request.host}/upload/resumable/{name}"
        return web.Response(status=201, headers={**VERSION, "Location": location})

    async def _head(self, request: web.Request) -> web.StreamResponse:
        upload = self._upload(request)
        if upload.stream is not None:
            upload.stream.set_exception(Evicted())
        async with upload.busy:
            headers = {
                **VERSION,
                "Upload-Offset": str(upload.parcel.size),
                "Upload-Length": str(upload.length),
                "Cache-Control": "no-store",
            }
            if self.tells_metadata:
                headers["Upload-Metadata"] = upload.declared
            return web.Response(status=200, headers=headers)

    async def _patch(self, request: web.Request) -> web.StreamResponse:
        upload = self._upload(request)
        if request.content_type != "application/offset+octet-stream":
            raise TusRefused(400, "Content-Type header required")
        async with upload.busy:
            self._check(request, upload)
            whole = await self._receive(request, upload)
            complete, fault = upload.parcel.size == upload.length, request[FAULT]
            if complete and fault is not None and fault.kind == "unfinished":
                raise ConnectionResetError
            if complete:
                self._finish(upload)
        headers = {**VERSION, "Upload-Offset": str(upload.parcel.size)}
        if complete:
            headers["Tus-Complete"] = "1"
        response = web.Response(status=204, headers=headers)
        if not whole:
            await response.prepare(request)
            await response.write_eof()
            request.protocol.force_close()
        return response

    def _check(self, request: web.Request, upload: Upload) -> None:
        offset, size = int(request.headers.get("Upload-Offset", "-1")), request.content_length or 0
        if upload.name in self._server.objects and request.headers.get("x-upsert") != "true":
            self._refuse(request, TusRefused(409, "The resource already exists"))
        if offset != upload.parcel.size:
            self._refuse(request, TusRefused(409, "Upload-Offset conflict"))
        if offset + size > upload.length:
            self._refuse(request, TusRefused(413, "Maximum size exceeded"))
        if self.strict and size != PIECE and offset + size != upload.length:
            self._refuse(request, TusRefused(400, "All but the last piece must be 6 MiB"))

    def _refuse(self, request: web.Request, refused: Refused) -> None:
        if self._server.direct:
            cut(request)
        raise refused

    async def _receive(self, request: web.Request, upload: Upload) -> bool:
        """Keeps the body; False where a HEAD took the lock away in the middle of it."""
        fault, kept = request[FAULT], 0
        limit = fault.after if fault is not None and fault.kind == "smaller" else upload.length
        whole: list[bytes] = []
        upload.stream = request.content
        try:
            async for piece in pieces(request):
                part = piece[: max(0, limit - kept)]
                kept += len(part)
                if self.keeps:
                    upload.parcel.write(part)
                else:
                    whole.append(part)
        except Evicted:
            return False
        finally:
            upload.stream = None
        for piece in whole:
            upload.parcel.write(piece)
        return True

    async def _terminate(self, request: web.Request) -> web.StreamResponse:
        upload = self._upload(request)
        self.uploads.pop(request.match_info["upload"])
        if not upload.done:
            upload.parcel.drop()
        return web.Response(status=204, headers=VERSION)

    def _finish(self, upload: Upload) -> None:
        if upload.done and upload.name in self._server.objects:
            return
        upload.done = True
        self._server.shelf.put(
            upload.name,
            upload.parcel,
            mime=upload.mime,
            cache=upload.cache,
            metadata=upload.metadata,
            way="tus",
        )


def _declared(header: str) -> dict[str, str]:
    said = {}
    for pair in filter(None, (part.strip() for part in header.split(","))):
        name, _, value = pair.partition(" ")
        try:
            said[name] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise TusRefused(400, "Upload-Metadata is invalid") from error
    return said


def _json(text: str) -> Mapping[str, object]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        return {}
