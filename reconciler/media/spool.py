"""Where a result lies between its source and our storage: in memory while small, else on disk.

Hashes are taken while the bytes pass. What the bytes are is not asked here (`sniff.py`). Fetch
writes a spool, storage reads it.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import mmap
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

Chunk = bytes | memoryview
"""Some bytes of a body: read from disk, or where they lie in memory."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class SpoolDirectory:
    """The folder where spools lie, and how many bytes all of them together may take.

    Files have no name there, so the kernel takes back what a dead process held.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise Config(
                f"the spool folder {folder} cannot be written: {error.strerror or error}",
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

    def __init__(self, room: SpoolDirectory) -> None:
        self.size = 0
        self.head = b""
        self.sha256 = ""
        self.md5 = ""
        self._room = room
        # Memory of its own, given back whole: on the heap, bodies leave holes between what lives longer.
        self._piece: mmap.mmap | None = None
        self._held = 0
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
        # Not closed: a request that was cut may still show its bytes to the kernel.
        self._piece = None
        if self._writing is not None:
            # After a cancellation a thread may still write: its file must not be closed under
            # it, the number could by then be another file's.
            self._writing.add_done_callback(self._close)

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes; Transient (spool_full) when there is no room for them."""
        self._room.take(len(chunk))
        self.size += len(chunk)
        if len(self.head) < HEAD:
            self.head += chunk[: HEAD - len(self.head)]
        rest = memoryview(chunk)
        while rest:
            if self._held == PIECE:
                await self._hand_over()
            if self._piece is None:
                self._piece = mmap.mmap(-1, PIECE)
            more = rest[: PIECE - self._held]
            self._piece[self._held : self._held + len(more)] = more
            self._held += len(more)
            rest = rest[len(more) :]

    async def seal(self) -> None:
        """Bring everything to its place and fix the hashes; nothing is written afterwards."""
        if self._writing is None:
            self._hash(self._in_memory())
        else:
            await self._hand_over()
            await self._written()
        self.sha256 = self._sha256.hexdigest()
        self.md5 = self._md5.hexdigest()

    async def chunks(self, start: int = 0, end: int | None = None, piece: int = PIECE) -> AsyncIterator[Chunk]:
        """The bytes from `start` to before `end`, at most `piece` at a time; what is in memory is shown, not copied."""
        end = self.size if end is None else min(end, self.size)
        while start < end:
            stop = min(start + piece, end)
            if self._file is None:
                yield self._in_memory()[start:stop]
            else:
                yield await self._read(self._file.fileno(), start, stop)
            start = stop

    def _in_memory(self) -> memoryview:
        return memoryview(self._piece or b"")[: self._held]

    async def _hand_over(self) -> None:
        # One piece is with the thread while the next comes in, never two.
        await self._written()
        whole, self._piece, self._held = self._in_memory(), None, 0
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(None, self._absorb, whole)

    async def _written(self) -> None:
        if self._writing is None:
            return
        await asyncio.wait({self._writing})
        try:
            self._writing.result()
        except OSError as error:
            raise _disk_error(error) from None

    def _absorb(self, piece: memoryview) -> None:
        if self._file is None:
            # Whoever tidies a folder for temporary files sees nothing in ours, and takes it away.
            self._room.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(buffering=0, dir=self._room.folder)  # noqa: SIM115
        rest = piece
        while rest:
            rest = rest[self._file.write(rest) :]
        self._hash(piece)

    def _hash(self, piece: memoryview) -> None:
        self._sha256.update(piece)
        self._md5.update(piece)

    async def _read(self, file: int, start: int, stop: int) -> bytes:
        try:
            found = await asyncio.to_thread(os.pread, file, stop - start, start)
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
