"""The proof that an object in storage holds the bytes that were sent, by its ETag or by reading it back.

It works with every `Store`. Deliver, the audit and the doctor call it.
"""

import asyncio
import hashlib
import re
from contextlib import aclosing

from reconciler.errors import Permanent, Transient
from reconciler.storage.store import MISSING, PIECE, ObjectStat, Receipt, Store

UNPROVEN = "proof_failed"
"""The error code of a failed proof."""

READ_BACK = "read-back-sha256"
"""The `verified_by` of a receipt whose bytes were read back."""

_PLAIN_MD5 = re.compile(r"[0-9a-f]{32}", re.ASCII)


async def prove(store: Store, path: str, *, size: int, sha256: str, md5: str) -> Receipt:
    """Return the receipt of the object at `path`; raise Transient (proof_failed) if it is missing or holds other bytes.

    An ETag is a proof only if it is the MD5 of the whole object. Multipart and encrypting backends give another one;
    then the object is read back.
    """
    stat = await store.stat(path)
    if stat is None:
        raise _not_proven("the object is not there")
    if stat.size != size:
        raise _not_proven(f"storage holds {stat.size} bytes of {size}")
    if plain_md5(stat.etag) == md5:
        return Receipt(stat.version, "etag-md5")
    return await _prove_by_reading(store, path, stat, (size, sha256))


async def reread(store: Store, path: str, *, size: int, sha256: str) -> Receipt:
    """Return the receipt of the object at `path` after reading its bytes, without its ETag; errors as `prove`."""
    stat = await store.stat(path)
    if stat is None:
        raise _not_proven("the object is not there")
    return await _prove_by_reading(store, path, stat, (size, sha256))


async def _prove_by_reading(store: Store, path: str, stat: ObjectStat, expected: tuple[int, str]) -> Receipt:
    try:
        actual = await _read_back(store, path)
    except Permanent as error:
        if error.code != MISSING:
            raise
        raise _not_proven("the object disappeared") from error
    if actual != expected:
        raise _not_proven("storage holds other bytes")
    # The object may have been replaced while it was read: the receipt names the version that was read.
    after = await store.stat(path)
    if after is None or after.version != stat.version:
        raise _not_proven("the object changed while it was read")
    return Receipt(stat.version, READ_BACK)


def plain_md5(etag: str | None) -> str | None:
    """Return the MD5 in an ETag, None if the ETag is no MD5."""
    tag = (etag or "").removeprefix("W/").strip('"').lower()
    return tag if _PLAIN_MD5.fullmatch(tag) else None


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


def _not_proven(reason: str) -> Transient:
    return Transient(f"not proven: {reason}", code=UNPROVEN)
