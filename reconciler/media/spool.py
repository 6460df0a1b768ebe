"""Holds a result between its host and our storage: in memory while small, else in a file.

The hashes are computed while the bytes pass. Fetch writes a spool, a storage backend reads it; `sniff.py` recognises
the type.
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
"""A part of a body: read from disk, or a view of memory."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class SpoolDirectory:
    """The folder of all spools, and the limit of their bytes together.

    The files have no names, so the kernel frees those of a dead process.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise Config(
                f"the spool folder {folder} cannot be written: {error.strerror or error}",
                hint="set RECONCILER_SPOOL_DIR to a folder that only the daemon uses",
            ) from None
        self.folder = folder
        self.max_bytes = max_bytes
        self.used = 0

    def spool(self) -> Spool:
        """Return an empty spool; its bytes are released when its `async with` ends."""
        return Spool(self)

    def reserve(self, size: int) -> None:
        """Reserve `size` bytes; raise Transient (spool_full) if the limit would be exceeded."""
        if self.used + size > self.max_bytes:
            raise Transient(
                "the spool is full",
                code="spool_full",
                hint="raise RECONCILER_SPOOL_MAX_BYTES or lower RECONCILER_CONCURRENCY",
            )
        self.used += size

    def release(self, size: int) -> None:
        """Release `size` bytes."""
        self.used -= size


class Spool:
    """One body: `size` and `head` (the first 4096 bytes) at any time, the hashes after sealing."""

    def __init__(self, directory: SpoolDirectory) -> None:
        self.size = 0
        self.head = b""
        self.sha256 = ""
        self.md5 = ""
        self._directory = directory
        # An anonymous mmap, which returns its memory to the kernel: on the heap, bodies would leave holes.
        self._piece: mmap.mmap | None = None
        self._piece_size = 0
        self._file: FileIO | None = None
        self._writing: asyncio.Future[None] | None = None
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._directory.release(self.size)
        # Not closed: the socket of an aborted request may still refer to this memory.
        self._piece = None
        if self._writing is not None:
            # After a cancellation a thread may still be writing. If the file were closed now, its descriptor could
            # already belong to another file.
            self._writing.add_done_callback(self._close)

    async def write(self, chunk: bytes) -> None:
        """Append bytes; raise Transient (spool_full) if the limit would be exceeded."""
        self._directory.reserve(len(chunk))
        self.size += len(chunk)
        if len(self.head) < HEAD:
            self.head += chunk[: HEAD - len(self.head)]
        remaining = memoryview(chunk)
        while remaining:
            if self._piece_size == PIECE:
                await self._write_piece()
            if self._piece is None:
                self._piece = mmap.mmap(-1, PIECE)
            part = remaining[: PIECE - self._piece_size]
            self._piece[self._piece_size : self._piece_size + len(part)] = part
            self._piece_size += len(part)
            remaining = remaining[len(part) :]

    async def seal(self) -> None:
        """Write everything that is pending and set the hashes; call no `write` after this."""
        if self._writing is None:
            self._hash(self._in_memory())
        else:
            await self._write_piece()
            await self._wait_for_write()
        self.sha256 = self._sha256.hexdigest()
        self.md5 = self._md5.hexdigest()

    async def chunks(self, start: int = 0, end: int | None = None, piece: int = PIECE) -> AsyncIterator[Chunk]:
        """Yield the bytes from `start` to before `end`, at most `piece` at a time; memory is viewed, not copied."""
        end = self.size if end is None else min(end, self.size)
        while start < end:
            stop = min(start + piece, end)
            if self._file is None:
                yield self._in_memory()[start:stop]
            else:
                yield await self._read(self._file.fileno(), start, stop)
            start = stop

    def _in_memory(self) -> memoryview:
        return memoryview(self._piece or b"")[: self._piece_size]

    async def _write_piece(self) -> None:
        # A thread writes one piece while the next one is received, never two.
        await self._wait_for_write()
        piece, self._piece, self._piece_size = self._in_memory(), None, 0
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(None, self._write_to_file, piece)

    async def _wait_for_write(self) -> None:
        if self._writing is None:
            return
        await asyncio.wait({self._writing})
        try:
            self._writing.result()
        except OSError as error:
            raise _disk_error(error) from None

    def _write_to_file(self, piece: memoryview) -> None:
        if self._file is None:
            # A cleaner of temporary files may have removed the folder, because it looks empty.
            self._directory.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(buffering=0, dir=self._directory.folder)  # noqa: SIM115
        remaining = piece
        while remaining:
            remaining = remaining[self._file.write(remaining) :]
        self._hash(piece)

    def _hash(self, piece: memoryview) -> None:
        self._sha256.update(piece)
        self._md5.update(piece)

    async def _read(self, file: int, start: int, stop: int) -> bytes:
        try:
            data = await asyncio.to_thread(os.pread, file, stop - start, start)
        except OSError as error:
            raise _disk_error(error) from None
        if len(data) != stop - start:
            raise Transient("the spool lost bytes", code="spool_error")
        return data

    def _close(self, writing: asyncio.Future[None]) -> None:
        if not writing.cancelled():
            writing.exception()
        if self._file is not None:
            self._file.close()


def _disk_error(error: OSError) -> Transient:
    if error.errno in _FULL:
        return Transient("the spool's disk is full", code="spool_full", hint="free disk space")
    return Transient(f"the spool cannot be used: {error.strerror}", code="spool_error")
