"""The local backend: objects are files in one folder, for one machine, for `demo` and for tests.

An object appears whole or not at all: it is written to another file first and then renamed. The HTTP server serves the
folder under /files/.
"""

import asyncio
import errno
import os
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from reconciler.errors import Config, LeaseLost, Permanent, Transient
from reconciler.media.spool import Spool
from reconciler.storage.store import MISSING, PIECE, ObjectStat, PutRequest, checked_path

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_PARTS_FOLDER = ".parts"
_ABANDONED_SECONDS = 86_400.0


class LocalStore:
    """One folder; `public_url` is the address at which browsers reach the daemon."""

    def __init__(self, folder: Path, public_url: str) -> None:
        self._folder = folder.absolute()
        self._parts = self._folder / _PARTS_FOLDER
        self._public = f"{public_url.rstrip('/')}/files"
        self._parts_created = False

    async def check(self) -> None:
        """Raise Config if the folder cannot be written; delete unfinished files that are a day old."""
        try:
            await asyncio.to_thread(self._prepare)
        except OSError as error:
            raise Config(
                f"the storage folder {self._folder} cannot be written: {error.strerror}",
                code="storage_folder",
                hint="give RECONCILER_STORAGE_LOCAL_DIR a folder that the daemon may write",
            ) from None

    async def put(
        self,
        request: PutRequest,
        spool: Spool,
        *,
        holds_lease: Callable[[], bool],
        upload_started: Callable[[str], Awaitable[None]],  # noqa: ARG002
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Store a sealed spool; see Store. Nothing is resumable here, so `upload_started` is never called."""
        target = self._file_path(request.path)
        part = self._parts / secrets.token_hex(16)
        with _translate_disk_errors():
            file = await asyncio.to_thread(self._open, part)
        try:
            written = 0
            async for piece in spool.chunks(piece=PIECE):
                _check_lease(holds_lease)
                with _translate_disk_errors():
                    await asyncio.to_thread(file.write, piece)
                written += len(piece)
                if progress is not None:
                    progress(written, spool.size)
            with _translate_disk_errors():
                await asyncio.to_thread(self._commit, file, part, target, holds_lease)
        finally:
            # In a thread: after a cancellation the last write may still be using the file.
            await asyncio.to_thread(_close_and_delete, file, part)

    async def stat(self, path: str) -> ObjectStat | None:
        """Return what the file system knows; there is no ETag, so a proof reads the file."""
        target = self._file_path(path)
        with _translate_disk_errors():
            try:
                found = await asyncio.to_thread(target.stat)
            except (FileNotFoundError, NotADirectoryError):
                # If the disk is not mounted, the object is not lost.
                if await asyncio.to_thread(self._is_empty):
                    raise Transient("the storage folder is not there", code="storage_disk") from None
                return None
        version = f"{found.st_ino:x}-{found.st_mtime_ns:x}"
        return ObjectStat(size=found.st_size, etag=None, version=version, mime=None, metadata={})

    async def read(self, path: str) -> AsyncGenerator[bytes, None]:
        """Yield the file's bytes, a MiB at a time."""
        target = self._file_path(path)
        with _translate_disk_errors():
            try:
                file = await asyncio.to_thread(target.open, "rb")
            except (FileNotFoundError, NotADirectoryError) as error:
                raise Permanent("the object is not there", code=MISSING) from error
        try:
            while True:
                with _translate_disk_errors():
                    piece = await asyncio.to_thread(file.read, PIECE)
                if not piece:
                    return
                yield piece
        finally:
            await asyncio.to_thread(file.close)

    async def remove(self, paths: Sequence[str]) -> None:
        """Remove these files; their folders stay."""
        targets = [self._file_path(path) for path in paths]
        with _translate_disk_errors():
            for target in targets:
                await asyncio.to_thread(target.unlink, missing_ok=True)

    def address(self, path: str) -> str:
        """Return the address at the daemon's own web server."""
        return f"{self._public}/{checked_path(path)}"

    async def close(self) -> None:
        """Do nothing: no file is kept open."""

    def _file_path(self, path: str) -> Path:
        target = self._folder / checked_path(path)
        if not target.resolve().is_relative_to(self._folder.resolve()):
            raise Permanent(f"a link leads out of the storage folder: {path}", code="bad_path")
        return target

    def _is_empty(self) -> bool:
        return not self._folder.is_dir() or next(self._folder.iterdir(), None) is None

    def _make_parts(self) -> None:
        # Created once: if the folder is gone later, the disk is not mounted, and a new folder would hide that.
        if self._parts_created and not self._parts.is_dir():
            raise FileNotFoundError(errno.ENOENT, "it is not there any more; is its disk mounted?")
        self._parts.mkdir(parents=True, exist_ok=True)
        self._parts_created = True

    def _prepare(self) -> None:
        self._make_parts()
        probe = self._parts / secrets.token_hex(16)
        probe.write_bytes(b"")
        probe.unlink()
        oldest = time.time() - _ABANDONED_SECONDS
        for part in self._parts.iterdir():
            if part.stat().st_mtime < oldest:
                part.unlink(missing_ok=True)

    def _open(self, part: Path) -> BinaryIO:
        self._make_parts()
        return part.open("xb")

    def _commit(self, file: BinaryIO, part: Path, target: Path, holds_lease: Callable[[], bool]) -> None:
        """Rename the file to its place under the lease; raise LeaseLost where the lease is lost before or after that.

        Before: nothing is renamed. After: the worker has the row audited, because a successor's file may be replaced.
        """
        file.flush()
        os.fsync(file.fileno())
        _make_folder(target.parent)
        # Next to the rename: the process may have slept past its lease during the steps above.
        _check_lease(holds_lease)
        part.replace(target)
        _sync_folder(target.parent)
        _check_lease(holds_lease)


def _check_lease(holds_lease: Callable[[], bool]) -> None:
    if not holds_lease():
        raise LeaseLost


def _close_and_delete(file: BinaryIO, part: Path) -> None:
    file.close()
    part.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def _translate_disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise Transient("the storage disk is full", code="storage_full", hint="free disk space") from error
        raise Transient(f"the storage folder cannot be used: {error.strerror}", code="storage_disk") from error
