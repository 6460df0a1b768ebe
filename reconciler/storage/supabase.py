"""The Supabase Storage backend: one bucket of one project.

Objects below 6 MiB are sent as one raw body with its length: a form costs more, and a chunked body bypasses the
bucket's size limit. Larger ones go through `tus.py`. `errors.py` translates refusals.
"""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import aiohttp
import httpx

# Not `supabase` itself: importing its other parts (auth, realtime, tables) takes a quarter of a second.
from storage3 import AsyncStorageClient

from reconciler.errors import Config, Permanent, ReconcilerError, Transient
from reconciler.media.spool import Chunk, Spool
from reconciler.net.failures import server_name
from reconciler.storage import tus
from reconciler.storage.errors import (
    KEY_HINT,
    read_refusal,
    read_text,
    to_error,
    translate_connection_errors,
    translate_errors,
)
from reconciler.storage.proof import UNPROVEN, plain_md5, prove
from reconciler.storage.store import MISSING, PIECE, ObjectStat, PutRequest, checked_path
from reconciler.storage.tus import Tus, TusUpload

_BATCH = 100


@dataclass(frozen=True, slots=True)
class BucketRules:
    """The Content-Types and the size in bytes that the bucket accepts; None means any."""

    types: tuple[str, ...] | None = None
    size: int | None = None

    def accepts(self, content_type: str) -> bool:
        """Return whether the bucket accepts a Content-Type, literally or by the wildcard of its family."""
        family = f"{content_type.partition('/')[0]}/*"
        return self.types is None or content_type in self.types or family in self.types

    def refuse(self, bucket: str, content_type: str, size: int) -> Permanent | None:
        """Return why the bucket would refuse this object, None if it would not."""
        if not self.accepts(content_type):
            return Permanent(
                f"bucket {bucket} does not accept {content_type}: it allows {', '.join(self.types or ()) or 'nothing'}",
                code="bucket_refuses_type",
                hint=f"add {content_type} to the bucket's allowed MIME types",
            )
        if self.size is not None and size > self.size:
            return Permanent(
                f"bucket {bucket} accepts at most {self.size} bytes, this object has {size}",
                code="bucket_refuses_size",
                hint="raise the bucket's file size limit",
            )
        return None


def _parse_stat(text: str) -> ObjectStat:
    try:
        found = json.loads(text)
        return ObjectStat(
            size=int(found["size"]),
            etag=found.get("etag"),
            version=found.get("version"),
            mime=found.get("content_type"),
            metadata={str(name): str(value) for name, value in (found.get("metadata") or {}).items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Transient("storage did not answer with JSON", code="not_json") from error


class SupabaseStore:
    """One bucket of one project; close() closes `session` and `client`.

    `rules` are what the bucket accepted when they were last loaded, None before.
    """

    def __init__(
        self, url: str, key: str, *, bucket: str, session: aiohttp.ClientSession, client: httpx.AsyncClient
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise Config("the address of storage is not an http or https address", hint="check SUPABASE_URL")
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise Config("the storage key is empty or contains characters that no key has", hint=KEY_HINT)
        base = f"{url.rstrip('/')}/storage/v1"
        self._headers = {"Authorization": f"Bearer {key}", "apikey": key}
        self._storage = AsyncStorageClient(f"{base}/", self._headers, http_client=client)
        self._bucket = bucket
        self._files = self._storage.from_(bucket)
        self._objects = f"{base}/object/{bucket}"
        self._info = f"{base}/object/info/{bucket}"
        self._public = f"{base}/object/public/{bucket}"
        self._place = server_name(url)
        self._session = session
        self._client = client
        self.rules: BucketRules | None = None
        self._tus = Tus(session, endpoint=f"{base}/upload/resumable", bucket=bucket, headers=self._headers)

    async def check(self) -> None:
        """Raise Config if the bucket is missing or private or the key rejected, Transient if storage is unreachable."""
        try:
            public = await self._load_rules()
        except Permanent as error:
            if error.code == MISSING:
                raise Config("the server answers, but not as Supabase Storage", hint="check SUPABASE_URL") from error
            raise Config(str(error), code=error.code, hint=error.hint) from error
        if not public:
            raise Config(
                f"bucket {self._bucket} is private, so browsers cannot open its objects",
                code="bucket_private",
                hint="make the bucket public",
            )

    async def put(
        self,
        request: PutRequest,
        spool: Spool,
        *,
        holds_lease: Callable[[], bool],
        upload_started: Callable[[str], Awaitable[None]],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Store a sealed spool; see Store. A type or size that the bucket refuses is refused before a byte is sent."""
        checked_path(request.path)
        await self._check_rules(request.content_type, spool.size)
        exists, proven = (partial(check, request.path, spool) for check in (self._exists, self._proven))
        upload = TusUpload(request, spool, holds_lease, upload_started, exists, proven, progress)
        try:
            if spool.size >= tus.PIECE:
                await self._tus.send(upload)
            else:
                await self._send_whole(upload)
        except Permanent as error:
            if error.code in ("bucket_refuses_type", "bucket_refuses_size"):
                self.rules = None
            raise

    async def takes(self, request: PutRequest, size: int) -> bool:
        """Return whether bucket and project accept an object of so many bytes; none of them is sent."""
        checked_path(request.path)
        return await self._tus.takes(request, size)

    async def stat(self, path: str) -> ObjectStat | None:
        """Return what storage knows about the object at this path, None if there is none."""
        # Called after every put, so not through the client, which takes three times the CPU for this request.
        url = f"{self._info}/{checked_path(path)}"
        try:
            async with self._get(url) as response:
                return _parse_stat(await read_text(response))
        except Permanent as error:
            if error.code != MISSING:
                raise
            return None

    async def read(self, path: str) -> AsyncGenerator[bytes, None]:
        """Yield the object's bytes from storage itself, not from a cache."""
        url, buffer = f"{self._objects}/{checked_path(path)}", bytearray()
        async with self._get(url) as response:
            async for chunk in response.content.iter_any():
                buffer += chunk
                if len(buffer) >= PIECE:
                    piece, buffer = bytes(buffer), bytearray()
                    yield piece
        if buffer:
            yield bytes(buffer)

    async def remove(self, paths: Sequence[str]) -> None:
        """Remove these objects, a hundred at a time."""
        for start in range(0, len(paths), _BATCH):
            with translate_errors(self._place):
                await self._files.remove([checked_path(path) for path in paths[start : start + _BATCH]])

    def address(self, path: str) -> str:
        """Return the public address; storage3 builds the same one, but only in a coroutine."""
        return f"{self._public}/{checked_path(path)}"

    async def close(self) -> None:
        """Close both clients."""
        await self._session.close()
        await self._client.aclose()

    @asynccontextmanager
    async def _get(self, url: str) -> AsyncIterator[aiohttp.ClientResponse]:
        request = self._session.get(url, headers=self._headers, allow_redirects=False)
        with translate_connection_errors(self._place):
            async with request as response:
                if response.status != 200:
                    raise to_error(await read_refusal(response, rest=True))
                yield response

    async def _load_rules(self) -> bool:
        """Load the bucket's rules; return whether it is public."""
        with translate_errors(self._place):
            bucket = await self._storage.get_bucket(self._bucket)
        types = None if bucket.allowed_mime_types is None else tuple(bucket.allowed_mime_types)
        self.rules = BucketRules(types, bucket.file_size_limit)
        return bucket.public

    async def _check_rules(self, content_type: str, size: int) -> None:
        if self.rules is not None and self.rules.refuse(self._bucket, content_type, size) is None:
            return
        # The rules may have changed: load them before refusing.
        await self._load_rules()
        refused = self.rules and self.rules.refuse(self._bucket, content_type, size)
        if refused:
            raise refused

    async def _exists(self, path: str, spool: Spool) -> bool:
        """Whether an object of this size and hash is stored; no proof, but a reason not to send it again."""
        stat = await self.stat(path)
        if stat is None or stat.size != spool.size:
            return False
        return plain_md5(stat.etag) == spool.md5 or stat.metadata.get("sha256") == spool.sha256

    async def _proven(self, path: str, spool: Spool) -> bool:
        try:
            await prove(self, path, size=spool.size, sha256=spool.sha256, md5=spool.md5)
        except Transient as error:
            if error.code != UNPROVEN:
                raise
            return False
        return True

    async def _send_whole(self, upload: TusUpload) -> None:
        """Send the bytes as one body, once more if a connection error leaves no object behind."""
        for is_last in (False, True):
            error = await self._post(upload)
            if error is None:
                break
            if not isinstance(error, Transient):
                raise error
            if error.code != "storage_busy" and await self._arrived(upload):
                break
            if is_last or error.code != "network":
                raise error
        upload.report(upload.spool.size)

    async def _post(self, upload: TusUpload) -> ReconcilerError | None:
        size, path = upload.spool.size, upload.request.path
        upload.check_lease()
        headers = {
            **self._headers,
            "Content-Type": upload.request.content_type,
            "Content-Length": str(size),
            # Another task of the row may replace the object at this path, so caches must revalidate it.
            "Cache-Control": f"max-age={tus.CACHE_SECONDS}",
            "x-upsert": "true",
            "x-metadata": base64.b64encode(upload.metadata.encode()).decode(),
        }
        body: Chunk | AsyncIterator[Chunk] = upload.body(0, size)
        if size <= PIECE:
            # In one piece, directly from the spool's memory: nothing is copied.
            (body,) = [piece async for piece in upload.body(0, size)]
        request = self._session.post(f"{self._objects}/{path}", data=body, headers=headers, allow_redirects=False)
        try:
            with translate_connection_errors(self._place):
                async with asyncio.timeout(tus.TIMEOUT), request as response:
                    if response.status != 200:
                        return to_error(await read_refusal(response, rest=True))
                    if f'"{self._bucket}/{path}"' in await read_text(response):
                        return None
                    return Transient("storage did not answer with the object's key", code="not_json")
        except Transient as error:
            upload.check_lease()
            return error

    async def _arrived(self, upload: TusUpload) -> bool:
        try:
            return await upload.exists()
        except Transient:
            return False
