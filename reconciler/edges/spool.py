"""Where a result lies between its source and our storage: in memory while small, else on disk.

Hashes are taken while the bytes pass. What the bytes are is not asked here (`sniff.py`). Fetch
writes a spool, storage reads it.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from reconciler.errors import Config, Transient

PIECE = 1 << 20
HEAD = 4096

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Room:
    """The folder where spools lie, and how many bytes all of them together may take.

    Files have no name there, so the kernel takes back what a dead process held.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise Config(
                f"the spool folder {folder} cannot be written: {error.strerror}",
                hint="give RECONCILER_SPOOL_DIR a folder of the daemon's own",
            ) from None
        self.folder = folder
        self.max_bytes = max_bytes
        self.used = 0

    def spool(self) -> Spool:
        """An empty spool; its bytes are given back when its `async with` ends."""
        return Spool(self)

    def take(self, size: int) -> None:
        """Count `size` more bytes; Transient (spool_full) when there is no room for them."""
        if self.used + size > self.max_bytes:
            raise Transient(
                "the spool is full",
                code="spool_full",
                hint="raise RECONCILER_SPOOL_MAX_BYTES or lower RECONCILER_CONCURRENCY",
            )
        self.used += size

    def give_back(self, size: int) -> None:
        """Count `size` bytes less."""
        self.used -= size


class Spool:
    """One body: `size` and `head` (its first 4096 bytes) at any time, its hashes once sealed."""

    def __init__(self, room: Room) -> None:
        self.size = 0
        self.sha256 = ""
        self.md5 = ""
        self._room = room
        self._pending = bytearray()
        self._head = b""
        self._file: FileIO | None = None
        self._writing: asyncio.Future[None] | None = None
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._room.give_back(self.size)
        if self._writing is None:
            return
        # A thread may still write after a cancellation: its file must not be closed under it,
        # the number could by then be another file's.
        self._writing.add_done_callback(self._close)

    @property
    def head(self) -> bytes:
        """The first 4096 bytes, or as many as there are."""
        return self._head or bytes(memoryview(self._pending)[:HEAD])

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes; Transient (spool_full) when there is no room for them."""
        self._room.take(len(chunk))
        self.size += len(chunk)
        self._pending += chunk
        if len(self._pending) > PIECE:
            await self._hand_over()

    async def seal(self) -> None:
        """Bring everything to its place and fix the hashes; nothing is written afterwards."""
        if self._writing is None:
            self._hash(self._pending)
        else:
            if self._pending:
                await self._hand_over()
            await self._written()
        self.sha256 = self._sha256.hexdigest()
        self.md5 = self._md5.hexdigest()

    async def chunks(self, start: int = 0, end: int | None = None, piece: int = PIECE) -> AsyncIterator[bytes]:
        """The bytes from `start` to before `end`, at most `piece` at a time."""
        end = self.size if end is None else min(end, self.size)
        while start < end:
            stop = min(start + piece, end)
            yield await self._read(start, stop)
            start = stop

    async def _hand_over(self) -> None:
        # One piece at a time is with the thread, while the next one comes in.
        await self._written()
        self._head = self.head
        piece, self._pending = self._pending, bytearray()
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(None, self._absorb, piece)

    async def _written(self) -> None:
        if self._writing is None:
            return
        await asyncio.wait({self._writing})
        if isinstance(error := self._writing.exception(), OSError):
            raise _disk_error(error) from None
        self._writing.result()

    def _absorb(self, piece: bytearray) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0, dir=self._room.folder)  # noqa: SIM115
        rest = memoryview(piece)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._hash(piece)

    def _hash(self, piece: bytearray) -> None:
        self._sha256.update(piece)
        self._md5.update(piece)

    async def _read(self, start: int, stop: int) -> bytes:
        if self._file is None:
            return bytes(memoryview(self._pending)[start:stop])
        try:
            found = await asyncio.to_thread(os.pread, self._file.fileno(), stop - start, start)
        except OSError as error:
            raise _disk_error(error) from None
        if len(found) != stop - start:
            raise Transient("the spool lost bytes", code="spool_error")
        return found

    def _close(self, writing: asyncio.Future[None]) -> None:
        if not writing.cancelled():
            writing.exception()
        if self._file is not None:
            self._file.close()


def _disk_error(error: OSError) -> Transient:
    if error.errno in _FULL:
        return Transient("the spool's disk is full", code="spool_full", hint="free disk space")
    return Transient(f"the spool cannot be used: {error.strerror}", code="spool_error")
