"""A folder as a store: for one machine, for `demo`, and for trying things out.

Objects appear whole or not at all: they are written beside and renamed. `doors` serves them under /files/.
"""

from __future__ import annotations

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
from reconciler.storage.store import MISSING, PIECE, ObjectStat, PutRequest, proper

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_PARTS = ".parts"
_ABANDONED = 86_400.0


class LocalStore:
    """One folder; `public_url` is where browsers reach the daemon."""

    def __init__(self, folder: Path, public_url: str) -> None:
        self._folder = folder.absolute()
        self._parts = self._folder / _PARTS
        self._public = f"{public_url.rstrip('/')}/files"
        self._made = False

    async def check(self) -> None:
        """Config when the folder cannot be written; unfinished files a day old are swept away."""
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
        what: PutRequest,
        spool: Spool,
        *,
        ours: Callable[[], bool],
        begun: Callable[[str], Awaitable[None]],  # noqa: ARG002
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Store a sealed spool; see Store. Nothing is resumable here, so `begun` is never told."""
        target = self._place(what.path)
        part = self._parts / secrets.token_hex(16)
        with _disk():
            file = await asyncio.to_thread(self._open, part)
        try:
            done = 0
            async for piece in spool.chunks(piece=PIECE):
                _hold(ours)
                with _disk():
                    await asyncio.to_thread(file.write, piece)
                done += len(piece)
                if progress is not None:
                    progress(done, spool.size)
            _hold(ours)
            with _disk():
                await asyncio.to_thread(self._commit, file, part, target)
        finally:
            # In a thread: after a cancellation the last write may still hold the file.
            await asyncio.to_thread(_discard, file, part)

    async def stat(self, path: str) -> ObjectStat | None:
        """What the file system says; without an ETag, so that proof means reading."""
        target = self._place(path)
        with _disk():
            try:
                found = await asyncio.to_thread(target.stat)
            except (FileNotFoundError, NotADirectoryError):
                # A disk that is not mounted has lost nothing.
                if await asyncio.to_thread(self._empty):
                    raise Transient("the storage folder is not there", code="storage_disk") from None
                return None
        version = f"{found.st_ino:x}-{found.st_mtime_ns:x}"
        return ObjectStat(size=found.st_size, etag=None, version=version, mime=None, metadata={})

    async def read(self, path: str) -> AsyncGenerator[bytes, None]:
        """The file's bytes, a MiB at a time."""
        target = self._place(path)
        with _disk():
            try:
                file = await asyncio.to_thread(target.open, "rb")
            except (FileNotFoundError, NotADirectoryError) as error:
                raise Permanent("the object is not there", code=MISSING) from error
        try:
            while True:
                with _disk():
                    piece = await asyncio.to_thread(file.read, PIECE)
                if not piece:
                    return
                yield piece
        finally:
            await asyncio.to_thread(file.close)

    async def remove(self, paths: Sequence[str]) -> None:
        """Remove these files; their folders stay."""
        targets = [self._place(path) for path in paths]
        with _disk():
            await asyncio.to_thread(_unlink, targets)

    def address(self, path: str) -> str:
        """Where the daemon's own web server shows it."""
        return f"{self._public}/{proper(path)}"

    async def close(self) -> None:
        """Nothing is held open."""

    def _place(self, path: str) -> Path:
        target = self._folder / proper(path)
        if not target.resolve().is_relative_to(self._folder.resolve()):
            raise Permanent(f"a link leads out of the storage folder: {path}", code="bad_path")
        return target

    def _empty(self) -> bool:
        return not self._folder.is_dir() or next(self._folder.iterdir(), None) is None

    def _make_parts(self) -> None:
        # Made once: where they are gone afterwards the disk is, and what is made in its place hides that.
        if self._made and not self._parts.is_dir():
            raise FileNotFoundError(errno.ENOENT, "it is not there any more; is its disk mounted?")
        self._parts.mkdir(parents=True, exist_ok=True)
        self._made = True

    def _prepare(self) -> None:
        self._make_parts()
        probe = self._parts / secrets.token_hex(16)
        probe.write_bytes(b"")
        probe.unlink()
        oldest = time.time() - _ABANDONED
        for part in self._parts.iterdir():
            if part.stat().st_mtime < oldest:
                part.unlink(missing_ok=True)

    def _open(self, part: Path) -> BinaryIO:
        self._make_parts()
        return part.open("xb")

    def _commit(self, file: BinaryIO, part: Path, target: Path) -> None:
        file.flush()
        os.fsync(file.fileno())
        _make(target.parent)
        part.replace(target)
        _sync_folder(target.parent)


def _hold(ours: Callable[[], bool]) -> None:
    if not ours():
        raise LeaseLost


def _discard(file: BinaryIO, part: Path) -> None:
    file.close()
    part.unlink(missing_ok=True)


def _unlink(targets: Sequence[Path]) -> None:
    for target in targets:
        target.unlink(missing_ok=True)


def _make(folder: Path) -> None:
    if folder.is_dir():
        return
    _make(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise Transient("the storage disk is full", code="storage_full", hint="free disk space") from error
        raise Transient(f"the storage folder cannot be used: {error.strerror}", code="storage_disk") from error
