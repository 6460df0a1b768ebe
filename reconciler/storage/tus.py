"""Resumable uploads of large objects in pieces of 6 MiB over TUS.

Any instance that has the same bytes can resume an upload. Only the server's Upload-Offset says how far an upload is: an
interrupted piece may be kept in part, and a stalled piece may be answered with less than was sent. `supabase.py` calls
this.
"""

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import aiohttp

from reconciler.errors import LeaseLost, Permanent, ReconcilerError, Transient
from reconciler.media.spool import Chunk, Spool
from reconciler.net.failures import server_name
from reconciler.storage.errors import read_refusal, to_error, translate_connection_errors
from reconciler.storage.store import MISSING, PutRequest

PIECE = 6 << 20
"""The hosted service requires pieces of exactly this size, except for the last."""

CACHE_SECONDS = 3600
TIMEOUT = 180.0
_MAX_FUTILE_PIECES = 3
_TOO_LARGE = 413


@dataclass(frozen=True, slots=True)
class TusUpload:
    """One put and its callbacks, as in `Store.put`.

    `exists` returns whether an object of this size and hash is stored, `proven` whether it holds these bytes.
    """

    request: PutRequest
    spool: Spool
    holds_lease: Callable[[], bool]
    started: Callable[[str], Awaitable[None]]
    exists: Callable[[], Awaitable[bool]]
    proven: Callable[[], Awaitable[bool]]
    progress: Callable[[int, int], None] | None = None

    def check_lease(self) -> None:
        """Raise LeaseLost if the lease is lost."""
        if not self.holds_lease():
            raise LeaseLost

    def report(self, stored: int) -> None:
        """Report how many bytes are stored."""
        if self.progress is not None:
            self.progress(stored, self.spool.size)

    @property
    def metadata(self) -> str:
        """The metadata of the object, as JSON: it says whose object it is, and is no proof."""
        return json.dumps({"sha256": self.spool.sha256, "lease": self.request.lease})

    async def body(self, start: int, end: int) -> AsyncIterator[Chunk]:
        """Yield the bytes from `start` to before `end`; raise LeaseLost if the lease is lost."""
        async for piece in self.spool.chunks(start, end):
            self.check_lease()
            yield piece


class _UploadGone(Exception):
    """The server no longer knows this upload, or it is an upload of other bytes."""


class Tus:
    """Resumable uploads into one bucket, always at `endpoint`: the host in the Location header is ignored."""

    def __init__(
        self, session: aiohttp.ClientSession, *, endpoint: str, bucket: str, headers: Mapping[str, str]
    ) -> None:
        self._session = session
        self._endpoint = endpoint
        self._bucket = bucket
        self._headers = {**headers, "Tus-Resumable": "1.0.0", "x-upsert": "true"}

    async def send(self, job: TusUpload) -> None:
        """Store the bytes, resuming an earlier upload of them if there is one."""
        if job.request.upload is not None and await self._resume(job.request.upload, job):
            return
        upload = await self._create(job)
        try:
            await self._send_pieces(upload, 0, job)
        except _UploadGone:
            if not await job.exists():
                raise Transient("storage lost the upload", code="upload_lost") from None

    async def takes(self, request: PutRequest, size: int) -> bool:
        """Return whether storage begins an upload of so many bytes. None of them is sent, and the upload is ended.

        Only so is a limit of the whole project seen, which stands in no bucket.
        """
        headers = {
            **self._headers,
            "Upload-Length": str(size),
            "Upload-Metadata": self._metadata_header(request, "{}"),
        }
        async with self._request("POST", self._endpoint, headers) as response:
            if response.status == _TOO_LARGE:
                return False
            if response.status != 201:
                raise to_error(await read_refusal(response))
            upload = response.headers.get("Location", "").rstrip("/").rpartition("/")[2]
        if upload:
            await self._terminate(upload)
        return True

    async def _resume(self, upload: str, job: TusUpload) -> bool:
        """Resume an earlier upload; return False if there is nothing to resume."""
        # The earlier attempt may have finished without getting the answer.
        if await job.exists():
            if await job.proven():
                return True
            # It stored other bytes, and finishing it again would not change them.
            await self._terminate(upload)
            return False
        try:
            await self._send_pieces(upload, await self._resume_offset(upload, job), job)
        except _UploadGone:
            return False
        return True

    async def _resume_offset(self, upload: str, job: TusUpload) -> int:
        """Return the offset of an earlier upload; if it is of other bytes, terminate it and raise _UploadGone."""
        offset, headers = await self._get_offset(upload)
        if headers.get("Upload-Length") == str(job.spool.size) and _is_same_upload(headers, job):
            return offset
        await self._terminate(upload)
        raise _UploadGone

    async def _create(self, job: TusUpload) -> str:
        job.check_lease()
        headers = {
            **self._headers,
            "Upload-Length": str(job.spool.size),
            "Upload-Metadata": self._metadata_header(job.request, job.metadata),
        }
        async with self._request("POST", self._endpoint, headers) as response:
            if response.status != 201:
                raise to_error(await read_refusal(response))
            upload = response.headers.get("Location", "").rstrip("/").rpartition("/")[2]
        if not upload:
            raise Transient("storage started an upload without a name", code="not_json")
        await job.started(upload)
        return upload

    async def _send_pieces(self, upload: str, offset: int, job: TusUpload) -> None:
        size, furthest, futile, finished = job.spool.size, offset, 0, False
        while not finished:
            job.check_lease()
            if offset >= size and await job.exists():
                return
            # At the end this piece is empty: it makes the server complete the upload.
            offset, finished, error = await self._send_piece(upload, offset, job)
            job.report(offset)
            finished = finished and offset == size
            futile = 0 if offset > furthest else futile + 1
            furthest = max(furthest, offset)
            if futile > _MAX_FUTILE_PIECES:
                raise error or Transient("the upload makes no progress", code="upload_stalled")

    async def _send_piece(self, upload: str, offset: int, job: TusUpload) -> tuple[int, bool, ReconcilerError | None]:
        """Send one piece; return the new offset, whether the answer named it, and else the error."""
        end = min(offset + PIECE, job.spool.size)
        headers = {
            **self._headers,
            "Upload-Offset": str(offset),
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(end - offset),
        }
        body = job.body(offset, end) if end > offset else None
        try:
            async with self._request("PATCH", self._url(upload), headers, body) as response:
                new_offset = response.headers.get("Upload-Offset", "")
                if response.status == 204 and new_offset.isdigit():
                    return int(new_offset), True, None
                error = to_error(await read_refusal(response))
        except Transient as unreachable:
            job.check_lease()
            error = unreachable
        if error.code == "storage_busy" or (isinstance(error, Permanent) and error.code != MISSING):
            raise error
        # The server may have kept a part of the piece.
        after, _ = await self._get_offset(upload)
        return after, False, error

    async def _get_offset(self, upload: str) -> tuple[int, Mapping[str, str]]:
        async with self._request("HEAD", self._url(upload), self._headers) as response:
            if response.status in (404, 410):
                raise _UploadGone
            offset = response.headers.get("Upload-Offset", "")
            if response.status != 200 or not offset.isdigit():
                raise to_error(await read_refusal(response))
            return int(offset), response.headers

    async def _terminate(self, upload: str) -> None:
        # An upload that stays expires by itself.
        with suppress(Transient):
            async with self._request("DELETE", self._url(upload), self._headers):
                return

    @asynccontextmanager
    async def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: AsyncIterator[Chunk] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        request = self._session.request(method, url, data=body, headers=headers, allow_redirects=False)
        with translate_connection_errors(server_name(url)):
            async with asyncio.timeout(TIMEOUT), request as response:
                yield response

    def _url(self, upload: str) -> str:
        return f"{self._endpoint}/{upload}"

    def _metadata_header(self, request: PutRequest, metadata: str) -> str:
        fields = {
            "bucketName": self._bucket,
            "objectName": request.path,
            "contentType": request.content_type,
            "cacheControl": str(CACHE_SECONDS),
            "metadata": metadata,
        }
        return ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in fields.items())


def _is_same_upload(headers: Mapping[str, str], job: TusUpload) -> bool:
    """Whether an upload was created for this path and these bytes, as far as the server's answer shows."""
    try:
        fields = {
            name: base64.b64decode(value, validate=True).decode()
            for name, _, value in (pair.strip().partition(" ") for pair in headers["Upload-Metadata"].split(","))
        }
        metadata = json.loads(fields.get("metadata", "{}"))
    except (KeyError, ValueError, binascii.Error):
        return True
    same_path = fields.get("objectName", job.request.path) == job.request.path
    return same_path and metadata.get("sha256", job.spool.sha256) == job.spool.sha256
