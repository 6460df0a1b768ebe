"""Large objects in pieces of 6 MiB over TUS, resumable by any instance that has the same bytes.

The server's Upload-Offset is the only truth about how far an upload is: a piece that was cut counts in part, a stalled
one may be answered with less than was sent. Called by `supabase.py`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import aiohttp

from reconciler.errors import LeaseLost, Permanent, ReconcilerError, Transient
from reconciler.media.spool import Chunk, Spool
from reconciler.storage.errors import heard, refusal, unreachable
from reconciler.storage.store import MISSING, PutRequest

PIECE = 6 << 20
"""The hosted service takes pieces of exactly this size, but for the last."""

CACHE_SECONDS = 3600
PATIENCE = 180.0
_VAIN = 3

_Answering = AbstractAsyncContextManager[aiohttp.ClientResponse]


@dataclass(frozen=True, slots=True)
class TusUpload:
    """One put: the bytes, whom to ask before each piece, whom to tell, and how to see what became of it.

    `there` says whether an object that looks like these bytes is in place, `proven` whether it is these bytes.
    """

    what: PutRequest
    spool: Spool
    ours: Callable[[], bool]
    begun: Callable[[str], Awaitable[None]]
    there: Callable[[], Awaitable[bool]]
    proven: Callable[[], Awaitable[bool]]
    progress: Callable[[int, int], None] | None = None

    def hold(self) -> None:
        """LeaseLost unless the generation is still ours."""
        if not self.ours():
            raise LeaseLost

    def tell(self, stored: int) -> None:
        """Report how far it is."""
        if self.progress is not None:
            self.progress(stored, self.spool.size)

    @property
    def marks(self) -> str:
        """What is written beside the object, as JSON: whose it is, never a proof."""
        return json.dumps({"sha256": self.spool.sha256, "lease": self.what.lease})

    async def body(self, start: int, end: int) -> AsyncIterator[Chunk]:
        """The bytes from `start` to before `end`, as long as the generation is ours."""
        async for piece in self.spool.chunks(start, end):
            self.hold()
            yield piece


class _Vanished(Exception):
    """The server does not know this upload any more, or it is not one of these bytes."""


class Tus:
    """The resumable uploads into one bucket; `endpoint` is ours, whatever Location says."""

    def __init__(
        self, session: aiohttp.ClientSession, *, endpoint: str, bucket: str, headers: Mapping[str, str]
    ) -> None:
        self._session = session
        self._endpoint = endpoint
        self._bucket = bucket
        self._headers = {**headers, "Tus-Resumable": "1.0.0", "x-upsert": "true"}

    async def send(self, sending: TusUpload) -> None:
        """Store the bytes, going on where an earlier upload of them stopped."""
        if sending.what.upload is not None and await self._resumed(sending.what.upload, sending):
            return
        upload = await self._begin(sending)
        try:
            await self._push(upload, 0, sending)
        except _Vanished:
            if not await sending.there():
                raise Transient("storage lost the upload", code="upload_lost") from None

    async def _resumed(self, upload: str, sending: TusUpload) -> bool:
        """Go on with an earlier upload; False where there is nothing to go on with."""
        # An earlier attempt may have come further than it knew.
        if await sending.there():
            if await sending.proven():
                return True
            # What it finished are not these bytes, and finishing it again would not change them.
            await self._terminate(upload)
            return False
        try:
            await self._push(upload, await self._found(upload, sending), sending)
        except _Vanished:
            return False
        return True

    async def _found(self, upload: str, sending: TusUpload) -> int:
        """How far an earlier upload is; terminated and _Vanished unless it is one of these bytes."""
        offset, headers = await self._ask(upload)
        if headers.get("Upload-Length") == str(sending.spool.size) and _same(headers, sending):
            return offset
        await self._terminate(upload)
        raise _Vanished

    async def _begin(self, sending: TusUpload) -> str:
        sending.hold()
        headers = {
            **self._headers,
            "Upload-Length": str(sending.spool.size),
            "Upload-Metadata": self._metadata(sending),
        }
        try:
            async with (
                asyncio.timeout(PATIENCE),
                self._session.post(self._endpoint, headers=headers, allow_redirects=False) as response,
            ):
                if response.status != 201:
                    raise refusal(await heard(response))
                upload = response.headers.get("Location", "").rstrip("/").rpartition("/")[2]
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise unreachable(error) from error
        if not upload:
            raise Transient("storage began an upload without a name", code="not_json")
        await sending.begun(upload)
        return upload

    async def _push(self, upload: str, offset: int, sending: TusUpload) -> None:
        size, best, vain, settled = sending.spool.size, offset, 0, False
        while not settled:
            sending.hold()
            if offset >= size and await sending.there():
                return
            # At the end this is an empty piece: it makes the server finish what it has not finished.
            offset, settled, refused = await self._piece(upload, offset, sending)
            sending.tell(offset)
            settled = settled and offset == size
            vain = 0 if offset > best else vain + 1
            best = max(best, offset)
            if vain > _VAIN:
                raise refused or Transient("the upload does not move", code="upload_stalled")

    async def _piece(self, upload: str, offset: int, sending: TusUpload) -> tuple[int, bool, ReconcilerError | None]:
        """Send one piece; where the server is then, whether it said so itself, and why if it did not."""
        end = min(offset + PIECE, sending.spool.size)
        try:
            async with asyncio.timeout(PATIENCE), self._patch(upload, offset, end, sending) as response:
                told = response.headers.get("Upload-Offset", "")
                if response.status == 204 and told.isdigit():
                    return int(told), True, None
                refused = refusal(await heard(response))
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            sending.hold()
            refused = unreachable(error)
        if refused.code == "storage_busy" or (isinstance(refused, Permanent) and refused.code != MISSING):
            raise refused
        # Whatever was said of the piece, it may have been kept in part: only the server knows.
        after, _ = await self._ask(upload)
        return after, False, refused

    def _patch(
        self, upload: str, offset: int, end: int, sending: TusUpload
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        headers = {
            **self._headers,
            "Upload-Offset": str(offset),
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(end - offset),
        }
        body = sending.body(offset, end) if end > offset else None
        return self._session.patch(self._one(upload), data=body, headers=headers, allow_redirects=False)

    async def _ask(self, upload: str) -> tuple[int, Mapping[str, str]]:
        try:
            async with (
                asyncio.timeout(PATIENCE),
                self._session.head(self._one(upload), headers=self._headers, allow_redirects=False) as response,
            ):
                if response.status in (404, 410):
                    raise _Vanished
                told = response.headers.get("Upload-Offset", "")
                if response.status != 200 or not told.isdigit():
                    raise refusal(await heard(response))
                return int(told), response.headers
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise unreachable(error) from error

    async def _terminate(self, upload: str) -> None:
        try:
            async with (
                asyncio.timeout(PATIENCE),
                self._session.delete(self._one(upload), headers=self._headers, allow_redirects=False),
            ):
                return
        except (TimeoutError, aiohttp.ClientError, OSError):
            # It expires by itself; nothing waits for this.
            return

    def _one(self, upload: str) -> str:
        return f"{self._endpoint}/{upload}"

    def _metadata(self, sending: TusUpload) -> str:
        said = {
            "bucketName": self._bucket,
            "objectName": sending.what.path,
            "contentType": sending.what.mime,
            "cacheControl": str(CACHE_SECONDS),
            "metadata": sending.marks,
        }
        return ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in said.items())


def _same(headers: Mapping[str, str], sending: TusUpload) -> bool:
    """Whether an upload was begun for this path and these bytes, as far as the server tells."""
    try:
        said = {
            name: base64.b64decode(value, validate=True).decode()
            for name, _, value in (pair.strip().partition(" ") for pair in headers["Upload-Metadata"].split(","))
        }
        marks = json.loads(said.get("metadata", "{}"))
    except (KeyError, ValueError, binascii.Error):
        return True
    same_path = said.get("objectName", sending.what.path) == sending.what.path
    return same_path and marks.get("sha256", sending.spool.sha256) == sending.spool.sha256
