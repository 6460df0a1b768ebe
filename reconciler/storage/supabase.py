"""Supabase Storage as a store: questions through the supabase client's storage part, bytes over aiohttp.

Bytes below 6 MiB go as one raw body with its length (a form costs more, a chunked body bypasses the bucket's limit),
larger ones through `tus.py`. What a refusal means is said in `refusals.py`.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import aiohttp
import httpx

# Not through `supabase` itself: its other parts (auth, realtime, tables) took a quarter of a second of every start.
from storage3 import AsyncStorageClient

from reconciler.errors import Config, Permanent, ReconcilerError, Transient
from reconciler.media.spool import Chunk, Spool
from reconciler.storage import tus
from reconciler.storage.errors import KEY_HINT, heard, refusal, translated, unreachable, words
from reconciler.storage.store import MISSING, PIECE, UNPROVEN, ObjectStat, PutRequest, plain_md5, proper, prove
from reconciler.storage.tus import Tus, TusUpload

_BATCH = 100


@dataclass(frozen=True, slots=True)
class _Rules:
    """What the bucket takes; None means anything."""

    types: tuple[str, ...] | None
    size: int | None

    def refuse(self, bucket: str, mime: str, size: int) -> Permanent | None:
        """Why the bucket would refuse this, None where it would not."""
        if self.types is not None and mime not in self.types and f"{mime.partition('/')[0]}/*" not in self.types:
            return Permanent(
                f"bucket {bucket} does not take {mime}: it allows {', '.join(self.types) or 'nothing'}",
                code="bucket_refuses_type",
                hint=f"add {mime} to the bucket's allowed MIME types",
            )
        if self.size is not None and size > self.size:
            return Permanent(
                f"bucket {bucket} takes at most {self.size} bytes, this is {size}",
                code="bucket_refuses_size",
                hint="raise the bucket's file size limit",
            )
        return None


def _stat(said: str) -> ObjectStat:
    try:
        found = json.loads(said)
        return ObjectStat(
            size=int(found["size"]),
            etag=found.get("etag"),
            version=found.get("version"),
            mime=found.get("content_type"),
            metadata={str(name): str(value) for name, value in (found.get("metadata") or {}).items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Transient("storage answered something else than JSON", code="not_json") from error


class SupabaseStore:
    """One bucket of one project; `session` carries bytes, `client` questions, and close() closes both."""

    def __init__(
        self, url: str, key: str, *, bucket: str, session: aiohttp.ClientSession, client: httpx.AsyncClient
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise Config("the address of storage is none of the web", hint="check SUPABASE_URL")
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise Config("the storage key is empty or holds characters that no key has", hint=KEY_HINT)
        base = f"{url.rstrip('/')}/storage/v1"
        self._headers = {"Authorization": f"Bearer {key}", "apikey": key}
        self._storage = AsyncStorageClient(f"{base}/", self._headers, http_client=client)
        self._bucket = bucket
        self._files = self._storage.from_(bucket)
        self._objects = f"{base}/object/{bucket}"
        self._info = f"{base}/object/info/{bucket}"
        self._public = f"{base}/object/public/{bucket}"
        self._session = session
        self._client = client
        self._rules: _Rules | None = None
        self._tus = Tus(session, endpoint=f"{base}/upload/resumable", bucket=bucket, headers=self._headers)

    async def check(self) -> None:
        """Config when the bucket is missing or private or the key rejected, Transient when storage is away."""
        try:
            public = await self._learn()
        except Permanent as error:
            if error.code == MISSING:
                raise Config("storage answers, but not as Supabase does", hint="check SUPABASE_URL") from error
            raise Config(str(error), code=error.code, hint=error.hint) from error
        if not public:
            raise Config(
                f"bucket {self._bucket} is private, so nobody could open what is stored in it",
                code="bucket_private",
                hint="make the bucket public",
            )

    @property
    def taken(self) -> tuple[tuple[str, ...] | None, int | None]:
        """The types and the largest size that the bucket takes, as it said when it was last asked; None: any."""
        return (None, None) if self._rules is None else (self._rules.types, self._rules.size)

    async def put(
        self,
        what: PutRequest,
        spool: Spool,
        *,
        ours: Callable[[], bool],
        begun: Callable[[str], Awaitable[None]],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Store a sealed spool; see Store. A type or size the bucket refuses is refused before a byte is sent."""
        proper(what.path)
        await self._admit(what.mime, spool.size)

        async def there() -> bool:
            return await self._there(what.path, spool)

        async def proven() -> bool:
            return await self._proven(what.path, spool)

        sending = TusUpload(what, spool, ours=ours, begun=begun, there=there, proven=proven, progress=progress)
        try:
            if spool.size >= tus.PIECE:
                await self._tus.send(sending)
            else:
                await self._whole(sending)
        except Permanent as error:
            if error.code in ("bucket_refuses_type", "bucket_refuses_size"):
                self._rules = None
            raise

    async def stat(self, path: str) -> ObjectStat | None:
        """What storage says of this path, None where nothing is."""
        # Asked after every put, and so not through the client, which takes three times the CPU for this question.
        url = f"{self._info}/{proper(path)}"
        try:
            async with self._session.get(url, headers=self._headers, allow_redirects=False) as response:
                if response.status != 200:
                    raise refusal(await heard(response, rest=True))
                return _stat(await words(response))
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise unreachable(error) from error
        except Permanent as error:
            if error.code != MISSING:
                raise
            return None

    async def read(self, path: str) -> AsyncGenerator[bytes, None]:
        """The object's bytes from storage itself, past every cache."""
        url, gathered = f"{self._objects}/{proper(path)}", bytearray()
        try:
            async with self._session.get(url, headers=self._headers, allow_redirects=False) as response:
                if response.status != 200:
                    raise refusal(await heard(response, rest=True))
                async for chunk in response.content.iter_any():
                    gathered += chunk
                    if len(gathered) >= PIECE:
                        piece, gathered = bytes(gathered), bytearray()
                        yield piece
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise unreachable(error) from error
        if gathered:
            yield bytes(gathered)

    async def remove(self, paths: Sequence[str]) -> None:
        """Remove these objects, a hundred at a time."""
        for start in range(0, len(paths), _BATCH):
            with translated():
                await self._files.remove([proper(path) for path in paths[start : start + _BATCH]])

    def address(self, path: str) -> str:
        """The public address: storage3 builds the same one, but only for those who can wait."""
        return f"{self._public}/{proper(path)}"

    async def close(self) -> None:
        """Close both clients."""
        await self._session.close()
        await self._client.aclose()

    async def _learn(self) -> bool:
        """Read the bucket's rules; whether it is public."""
        with translated():
            bucket = await self._storage.get_bucket(self._bucket)
        types = None if bucket.allowed_mime_types is None else tuple(bucket.allowed_mime_types)
        self._rules = _Rules(types, bucket.file_size_limit)
        return bucket.public

    async def _admit(self, mime: str, size: int) -> None:
        if self._rules is not None and self._rules.refuse(self._bucket, mime, size) is None:
            return
        # Nothing is refused by yesterday's rules.
        await self._learn()
        refused = self._rules and self._rules.refuse(self._bucket, mime, size)
        if refused:
            raise refused

    async def _there(self, path: str, spool: Spool) -> bool:
        """Whether the object is there and looks like these bytes; not a proof, only a reason not to send them again."""
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

    async def _whole(self, sending: TusUpload) -> None:
        """Send the bytes as one body, and look before sending them a second time."""
        for last in (False, True):
            refused = await self._post(sending)
            if refused is None:
                break
            if not isinstance(refused, Transient):
                raise refused
            if refused.code != "storage_busy" and await self._arrived(sending):
                break
            if last or refused.code != "network":
                raise refused
        sending.tell(sending.spool.size)

    async def _post(self, sending: TusUpload) -> ReconcilerError | None:
        size, path = sending.spool.size, sending.what.path
        sending.hold()
        headers = {
            **self._headers,
            "Content-Type": sending.what.mime,
            "Content-Length": str(size),
            # A row may be given another task, whose result has the same path: browsers must ask again some day.
            "Cache-Control": f"max-age={tus.CACHE_SECONDS}",
            "x-upsert": "true",
            "x-metadata": base64.b64encode(sending.marks.encode()).decode(),
        }
        sent: Chunk | AsyncIterator[Chunk] = sending.body(0, size)
        if size <= PIECE:
            # In one piece, and from where it lies: nothing is copied.
            (sent,) = [piece async for piece in sending.body(0, size)]
        try:
            async with (
                asyncio.timeout(tus.PATIENCE),
                self._session.post(
                    f"{self._objects}/{path}", data=sent, headers=headers, allow_redirects=False
                ) as response,
            ):
                if response.status != 200:
                    return refusal(await heard(response, rest=True))
                if f'"{self._bucket}/{path}"' in await words(response):
                    return None
                return Transient("storage answered something else than the key", code="not_json")
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            sending.hold()
            return unreachable(error)

    async def _arrived(self, sending: TusUpload) -> bool:
        try:
            return await sending.there()
        except Transient:
            return False
