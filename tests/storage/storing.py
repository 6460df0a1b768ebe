"""Shared by the storage tests: a store over the stand-in server, spools of known bytes, and a put with defaults."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from reconciler.media.spool import Spool, SpoolDirectory
from reconciler.net.http_clients import json_client, storage_session
from reconciler.storage import PutRequest, Store, prove
from reconciler.storage.store import Receipt
from reconciler.storage.supabase import SupabaseStore
from testkit.standins.storage import Bucket, SupabaseStorage

PATH = "user-1/image/generation-1_0.png"
NAME = f"generations/{PATH}"
MIB = 1 << 20
SIZES = {"memory": 350_000, "generator": 3 * MIB, "tus": 13 * MIB}


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@dataclass
class Kit:
    """A stand-in and a store that speaks to it."""

    server: SupabaseStorage
    store: SupabaseStore
    room: SpoolDirectory
    stack: AsyncExitStack
    uploads: list[str] = field(default_factory=list)

    async def spool(self, content: bytes) -> Spool:
        return await self.stack.enter_async_context(filled(self.room, content))

    async def put(self, spool: Spool, **changes: object) -> None:
        await put(self.store, spool, uploads=self.uploads, **changes)  # type: ignore[arg-type]

    async def prove(self, spool: Spool, path: str = PATH) -> Receipt:
        return await prove(self.store, path, size=spool.size, sha256=spool.sha256, md5=spool.md5)


@asynccontextmanager
async def kit(
    folder: Path,
    *,
    direct: bool = False,
    bucket: Bucket | None = None,
    name: str = "generations",
    key: str | None = None,
    quiet: float = 10.0,
) -> AsyncIterator[Kit]:
    """Yield a stand-in and a store; `quiet` is the seconds after which a silent server is a timeout."""
    async with SupabaseStorage({"generations": bucket or Bucket()}, direct=direct) as server, AsyncExitStack() as stack:
        store = connected(server.url, key or server.key, bucket=name, quiet=quiet)
        stack.push_async_callback(store.close)
        yield Kit(server, store, SpoolDirectory(folder, 1 << 30), stack)


def connected(url: str, key: str, *, bucket: str = "generations", quiet: float = 10.0) -> SupabaseStore:
    session = storage_session(slots=4)
    session._timeout = aiohttp.ClientTimeout(total=None, sock_connect=quiet, sock_read=quiet)
    return SupabaseStore(url, key, bucket=bucket, session=session, client=json_client(timeout=quiet))


@asynccontextmanager
async def filled(directory: SpoolDirectory, content: bytes) -> AsyncIterator[Spool]:
    async with directory.spool() as spool:
        for start in range(0, len(content), MIB):
            await spool.write(content[start : start + MIB])
        await spool.seal()
        assert spool.sha256 == hashlib.sha256(content).hexdigest()
        yield spool


async def put(
    store: Store,
    spool: Spool,
    *,
    path: str = PATH,
    mime: str = "image/png",
    upload: str | None = None,
    uploads: list[str] | None = None,
    holds_lease: Callable[[], bool] = lambda: True,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    async def upload_started(upload: str) -> None:
        if uploads is not None:
            uploads.append(upload)

    request = PutRequest(path, mime, lease="lease-1", upload=upload)
    await store.put(request, spool, holds_lease=holds_lease, upload_started=upload_started, progress=progress)


def lease_for(calls: int) -> Callable[[], bool]:
    """Return a `holds_lease` that is true for this many calls, then false."""
    answers = iter([True] * calls)
    return lambda: next(answers, False)
