"""The routes for objects: write (raw or as a form), describe, read, list, remove."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from aiohttp import BodyPartReader, web

from testkit.standins.storage import answers
from testkit.standins.storage.answers import Refused
from testkit.standins.storage.serving import described, listed, served
from testkit.standins.storage.shelf import Bucket, Parcel, Thing
from testkit.standins.storage.wire import pieces

if TYPE_CHECKING:
    from testkit.standins.storage.server import SupabaseStorage

Route = Callable[[web.Request], Awaitable[web.StreamResponse]]

KEY = re.compile(r"^[A-Za-z0-9_/!.*'() &$=@;:+,?-]+$", re.ASCII)


class Objects:
    """Everything under /object."""

    def __init__(self, server: SupabaseStorage) -> None:
        self._server = server

    def add(self, application: web.Application, base: str) -> None:
        def add(method: str, path: str, operation: str, route: Route) -> None:
            application.router.add_route(method, base + path, self._server.route(operation, route))

        add("GET", "/info/{bucket}/{key:.+}", "info", self._info)
        add("GET", "/public/{bucket}/{key:.+}", "public", self._public)
        add("HEAD", "/public/{bucket}/{key:.+}", "public", self._public)
        add("POST", "/list/{bucket}", "list", self._list)
        add("DELETE", "/{bucket}", "remove", self._remove)
        add("GET", "/{bucket}/{key:.+}", "read", self._read)
        add("POST", "/{bucket}/{key:.+}", "put", self._put)
        add("PUT", "/{bucket}/{key:.+}", "put", self._put)

    async def _put(self, request: web.Request) -> web.StreamResponse:
        role, key = self._server.role(request), request.match_info["key"]
        bucket, name = self._server.bucket(request), _name(request)
        if not KEY.match(key):
            raise answers.bad_key(key)
        if role != "service_role":
            raise answers.row_security()
        upsert = request.method == "PUT" or request.headers.get("x-upsert") == "true"
        if name in self._server.objects and not upsert:
            raise answers.duplicate()
        parcel = self._server.shelf.parcel()
        try:
            thing = await self._stored(request, bucket, parcel)
        except (Refused, ConnectionError, web.RequestPayloadError):
            parcel.drop()
            raise
        return web.json_response({"Key": name, "Id": thing.id})

    async def _stored(self, request: web.Request, bucket: Bucket, parcel: Parcel) -> Thing:
        if request.content_type.startswith("multipart/"):
            mime, cache, metadata = await _form(request, parcel)
            way = "form"
        else:
            mime = request.headers.get("Content-Type", "application/octet-stream")
            cache = request.headers.get("Cache-Control", "no-cache")
            metadata = _metadata(request.headers.get("x-metadata"))
            # A body without a length slips past the bucket's limit, as it does on the real server.
            way = "raw" if request.content_length is not None else "chunked"
            limit = bucket.file_size_limit
            if limit is not None and (request.content_length or 0) > limit:
                raise answers.too_large()
            if not bucket.takes(mime):
                raise answers.wrong_type(mime)
            async for piece in pieces(request):
                parcel.write(piece)
        if not bucket.takes(mime):
            raise answers.wrong_type(mime)
        limit = bucket.file_size_limit
        if way == "form" and limit is not None and parcel.size > limit:
            raise answers.too_large()
        return self._server.shelf.put(_name(request), parcel, mime=mime, cache=cache, metadata=metadata, way=way)

    def _found(self, request: web.Request) -> Thing:
        role = self._server.role(request)
        bucket = self._server.bucket(request)
        thing = self._server.objects.get(_name(request))
        if thing is None or (role != "service_role" and not bucket.public):
            raise answers.no_object()
        return thing

    async def _info(self, request: web.Request) -> web.StreamResponse:
        if self._server.role(request) != "service_role":
            raise answers.no_object()
        thing, match = self._found(request), request.match_info
        return web.json_response(described(thing, bucket=match["bucket"], name=match["key"]))

    async def _read(self, request: web.Request) -> web.StreamResponse:
        return await served(request, self._found(request))

    async def _public(self, request: web.Request) -> web.StreamResponse:
        if not self._server.bucket(request).public:
            raise answers.no_bucket()
        thing = self._server.objects.get(_name(request))
        if thing is None:
            raise answers.no_object()
        return await served(request, thing)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        role, body = self._server.role(request), await request.json()
        known = request.match_info["bucket"] in self._server.buckets and role == "service_role"
        prefix = f"{request.match_info['bucket']}/"
        inside = {
            name.removeprefix(prefix): thing for name, thing in self._server.objects.items() if name.startswith(prefix)
        }
        return web.json_response(listed(inside, body) if known else [])

    async def _remove(self, request: web.Request) -> web.StreamResponse:
        role, body = self._server.role(request), await request.json()
        self._server.bucket(request)
        if not body.get("prefixes"):
            raise Refused("400", "Error", "InvalidRequest", "body/prefixes must NOT have fewer")
        removed = []
        for path in body["prefixes"] if role == "service_role" else ():
            name = f"{request.match_info['bucket']}/{path}"
            if thing := self._server.shelf.remove(name):
                removed.append(described(thing, bucket=request.match_info["bucket"], name=path))
        return web.json_response(removed)


def _name(request: web.Request) -> str:
    return f"{request.match_info['bucket']}/{request.match_info['key']}"


def _metadata(header: str | None) -> Mapping[str, object]:
    try:
        return dict(json.loads(base64.b64decode(header or "e30=")))
    except (ValueError, TypeError, binascii.Error):
        return {}


async def _form(request: web.Request, parcel: Parcel) -> tuple[str, str, Mapping[str, object]]:
    """What storage3 sends: fields cacheControl and metadata, then the file."""
    mime, cache, metadata = "application/octet-stream", "no-cache", "{}"
    async for part in await request.multipart():
        assert isinstance(part, BodyPartReader)
        if part.name == "cacheControl":
            cache = f"max-age={await part.text()}"
        elif part.name == "metadata":
            metadata = await part.text()
        else:
            mime = part.headers.get("Content-Type", mime).split(";")[0].lower()
            while piece := await part.read_chunk(1 << 16):
                parcel.write(piece)
    return mime, cache, json.loads(metadata)
