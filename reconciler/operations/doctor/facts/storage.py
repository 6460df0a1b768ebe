"""How storage fares with one small object: stored, proven, read by anybody, removed again."""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

import httpx

from reconciler.domain.object_keys import TYPES
from reconciler.errors import Transient
from reconciler.media.spool import SpoolDirectory
from reconciler.operations.doctor import NotKnown
from reconciler.operations.doctor.facts import seen
from reconciler.operations.doctor.storage import BucketRules, StorageProbe
from reconciler.storage import PutRequest, Store, prove
from reconciler.storage.supabase import SupabaseStore

FOLDER: Final = "_doctor"

_TRIES: Final = 3
_PAUSE: Final = 0.2


def probe_of(mime: str) -> PutRequest:
    """A small object of this type, at a path that no generation has."""
    # With the type's ending: what has none is not shown by the daemon's own web server.
    return PutRequest(f"{FOLDER}/probe-{secrets.token_hex(8)}.{TYPES[mime][1]}", mime, lease="doctor")


def rules(store: Store) -> BucketRules:
    """What the bucket said that it takes when it was last asked."""
    if isinstance(store, SupabaseStore):
        types, size = store.accepted
        return BucketRules(types, size)
    return BucketRules()


async def probe(
    store: Store, room: SpoolDirectory, client: httpx.AsyncClient, what: PutRequest, *, within: float
) -> StorageProbe:
    """Store a probe, read it as a stranger, remove it; each step takes `within` seconds at most.

    It is removed whatever happened before, even where nobody said that it had been stored.
    """
    content = f"kie-reconciler doctor {what.path}".encode()
    stored: NotKnown | None = NotKnown("not tried")
    read: str | None = None
    try:
        stored = await seen(lambda: _stored(store, room, what, content), within=within)
        if stored is None:
            found = await seen(lambda: _read(client, store.address(what.path), content), within=within)
            read = found.why if isinstance(found, NotKnown) else found
    finally:
        removed = await seen(lambda: _removed(store, what.path), within=within)
    return StorageProbe(stored, read, removed)


async def _stored(store: Store, room: SpoolDirectory, what: PutRequest, content: bytes) -> None:
    async def begun(_: str) -> None:
        """A probe is too small to be resumed."""

    async with room.spool() as spool:
        await spool.write(content)
        await spool.seal()
        await store.put(what, spool, holds_lease=lambda: True, upload_started=begun)
        await prove(store, what.path, size=spool.size, sha256=spool.sha256, md5=spool.md5)


async def _read(client: httpx.AsyncClient, address: str, content: bytes) -> str:
    """What is wrong with what a stranger gets; empty where nothing is."""
    try:
        response = await client.get(address)
    except httpx.HTTPError as error:
        return f"the address cannot be reached ({type(error).__name__})"
    if response.status_code != 200:
        return f"the answer is {response.status_code}"
    return "" if response.content == content else "other bytes came"


async def _removed(store: Store, path: str) -> None:
    for left in reversed(range(_TRIES)):
        try:
            await store.remove([path])
            if await store.stat(path) is None:
                return
        except Transient:
            if not left:
                raise
        if left:
            await asyncio.sleep(_PAUSE)
    raise Transient("storage says that it is removed, and it is still there", code="still_there")
