"""Our storage: what every store can do, and the proof that an object is there.

`supabase.py` (bytes below 6 MiB in one request, `tus.py` above) and `local.py` are the two stores. What is
stored where, and when, is the engine's business; what storage is asked to keep lies in a spool.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from reconciler.errors import Permanent, Transient
from reconciler.media.spool import Spool

PIECE = 1 << 20
"""Bytes worth a hop to a thread: what a store reads, and what is hashed off the loop."""

MISSING = "object_missing"
"""The code of the refusal to read what is not there; not Gone, which speaks of a source."""

UNPROVEN = "proof_failed"

READ_BACK = "read-back-sha256"

_PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)+", re.ASCII)
_PLAIN_MD5 = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """What storage says of one object; `metadata` is what we once sent with it and proves nothing about the bytes."""

    size: int
    etag: str | None
    version: str | None
    mime: str | None
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Receipt:
    """The proof of one object; `verified_by` is "etag-md5" or READ_BACK."""

    version: str | None
    verified_by: str


@dataclass(frozen=True, slots=True)
class PutRequest:
    """What a spool becomes in storage.

    `upload` names a resumable upload begun earlier for the same bytes.
    """

    path: str
    mime: str
    lease: str
    upload: str | None = None


class Store(Protocol):
    """A place for objects that browsers can read.

    Every call raises Transient where waiting may help and Permanent where only a person can.
    """

    async def check(self) -> None:
        """Config when the place or the key is wrong, Transient when storage is merely away."""
        ...

    async def put(
        self,
        what: PutRequest,
        spool: Spool,
        *,
        ours: Callable[[], bool],
        begun: Callable[[str], Awaitable[None]],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Store a sealed spool, replacing what is at its path.

        `ours` is asked before every piece, False raises LeaseLost; `begun` learns the name of a resumable upload before
        its first byte is sent; `progress` gets (bytes stored, bytes in all).
        """
        ...

    async def stat(self, path: str) -> ObjectStat | None:
        """What is at this path, None where nothing is."""
        ...

    def read(self, path: str) -> AsyncGenerator[bytes, None]:
        """The object's bytes in pieces of about a MiB; Permanent (object_missing) where there is no object."""
        ...

    async def remove(self, paths: Sequence[str]) -> None:
        """Remove these objects; those that are not there are no error."""
        ...

    def address(self, path: str) -> str:
        """Where a browser finds this path."""
        ...

    async def close(self) -> None:
        """Let go of every connection."""
        ...


async def prove(store: Store, path: str, *, size: int, sha256: str, md5: str) -> Receipt:
    """The receipt of the object at `path`; Transient (proof_failed) when it is not there or not these bytes.

    An ETag proves only where it is the MD5 of the whole; multipart and encrypting backends give another one, and then
    the object is read back.
    """
    stat = await store.stat(path)
    if stat is None:
        raise _unproven("the object is not there")
    if stat.size != size:
        raise _unproven(f"storage holds {stat.size} bytes of {size}")
    if plain_md5(stat.etag) == md5:
        return Receipt(stat.version, "etag-md5")
    return await _reread(store, path, stat, (size, sha256))


async def reread(store: Store, path: str, *, size: int, sha256: str) -> Receipt:
    """The receipt of the object at `path` by its bytes, whatever its ETag says; Transient (proof_failed) as `prove`."""
    stat = await store.stat(path)
    if stat is None:
        raise _unproven("the object is not there")
    return await _reread(store, path, stat, (size, sha256))


async def _reread(store: Store, path: str, stat: ObjectStat, wanted: tuple[int, str]) -> Receipt:
    try:
        found = await _read_back(store, path)
    except Permanent as error:
        if error.code != MISSING:
            raise
        raise _unproven("the object went away") from error
    if found != wanted:
        raise _unproven("storage holds other bytes")
    # Somebody may have replaced the object while it was read: the receipt names the version that was proven.
    again = await store.stat(path)
    if again is None or again.version != stat.version:
        raise _unproven("the object changed while it was read")
    return Receipt(stat.version, READ_BACK)


def plain_md5(etag: str | None) -> str | None:
    """The MD5 that an ETag is, None where it is something else."""
    tag = (etag or "").removeprefix("W/").strip('"').lower()
    return tag if _PLAIN_MD5.fullmatch(tag) else None


def proper(path: str) -> str:
    """The path itself; Permanent (bad_path) unless every store takes it literally: ids, slashes, no dot in front."""
    if not _PATH.fullmatch(path) or len(path) > 900:
        raise Permanent(f"not a path for storage: {path[:100]!r}", code="bad_path")
    return path


async def _read_back(store: Store, path: str) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    async with aclosing(store.read(path)) as pieces:
        async for piece in pieces:
            size += len(piece)
            if len(piece) < PIECE:
                digest.update(piece)
            else:
                await asyncio.to_thread(digest.update, piece)
    return size, digest.hexdigest()


def _unproven(why: str) -> Transient:
    return Transient(f"not proven: {why}", code=UNPROVEN)
