"""The spool: small bodies stay in memory, large ones go to disk, and no file is left behind."""

from __future__ import annotations

import asyncio
import hashlib
import mmap
import os
import stat
import sys
import tempfile
from concurrent.futures import Future
from io import FileIO
from pathlib import Path

import psutil
import pytest

from reconciler.errors import Config, Transient
from reconciler.media.spool import HEAD, PIECE, Spool, SpoolDirectory
from testkit.waiting import until

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def room(tmp_path: Path) -> SpoolDirectory:
    return SpoolDirectory(tmp_path / "spool", 64 * PIECE)


def pattern(size: int) -> bytes:
    """Return bytes without repeated parts."""
    return b"".join(i.to_bytes(4) for i in range(size // 4 + 1))[:size]


async def fill(spool: Spool, body: bytes, step: int = 100_000) -> None:
    for at in range(0, len(body), step):
        await spool.write(body[at : at + step])
    await spool.seal()


async def content(spool: Spool, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in spool.chunks(start, end)])


def names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


SIZES = [0, 1, HEAD - 1, HEAD, HEAD + 1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE + 7]


@pytest.mark.parametrize("size", SIZES)
async def test_written_bytes_are_read_back_and_hashed(room: SpoolDirectory, size: int) -> None:
    body = pattern(size)
    async with room.spool() as spool:
        await fill(spool, body)
        assert spool.size == size
        assert spool.head == body[:4096]
        assert spool.sha256 == hashlib.sha256(body).hexdigest()
        assert spool.md5 == hashlib.md5(body).hexdigest()
        assert await content(spool) == body
        assert await content(spool) == body, "it can be read again"


@pytest.mark.parametrize("size", [5 * HEAD, 2 * PIECE + 99])
async def test_any_range_is_read_in_pieces_of_at_most_the_given_size(room: SpoolDirectory, size: int) -> None:
    body = pattern(size)
    async with room.spool() as spool:
        await fill(spool, body, step=3000)
        for start, end in [(0, 1), (2999, 3001), (17, size - 5), (size - 1, size), (0, size + 50)]:
            assert await content(spool, start, end) == body[start:end]
        pieces = [chunk async for chunk in spool.chunks(5, 10_005, 1000)]
        assert b"".join(pieces) == body[5:10_005]
        assert max(map(len, pieces)) <= 1000
        assert [chunk async for chunk in spool.chunks(size, size)] == []


async def test_a_body_in_tiny_chunks_is_the_same_body(room: SpoolDirectory) -> None:
    body = pattern(40_000)
    async with room.spool() as spool:
        await fill(spool, body, step=7)
        assert await content(spool) == body


@pytest.mark.parametrize(("size", "files"), [(PIECE, 0), (PIECE + 1, 1)])
async def test_only_a_body_of_more_than_a_mebibyte_goes_to_disk(room: SpoolDirectory, size: int, files: int) -> None:
    process = psutil.Process()
    before = process.num_fds()
    async with room.spool() as spool:
        await fill(spool, pattern(size))
        assert process.num_fds() - before == files


async def test_small_bodies_never_use_a_thread(room: SpoolDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a thread was asked")

    monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", refuse)
    async with room.spool() as spool:
        await fill(spool, pattern(PIECE))
        assert len(await content(spool)) == PIECE


async def test_a_small_body_is_viewed_in_memory_without_a_copy(room: SpoolDirectory) -> None:
    body = pattern(70_000)
    async with room.spool() as spool:
        await fill(spool, body, step=3000)
        (shown,) = [chunk async for chunk in spool.chunks()]
    assert isinstance(shown, memoryview)
    assert isinstance(shown.obj, mmap.mmap), "on the heap it would leave a hole"
    assert shown == body, "a request that was cut may still send it"


async def test_a_large_body_goes_to_the_thread_in_pieces_of_a_mebibyte(
    room: SpoolDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[int] = []
    write_to_file = Spool._write_to_file

    def counted(self: Spool, piece: memoryview) -> None:
        handed.append(len(piece))
        write_to_file(self, piece)

    monkeypatch.setattr(Spool, "_write_to_file", counted)
    async with room.spool() as spool:
        await fill(spool, bytes(10 * PIECE), step=1 << 16)
    assert handed == [PIECE] * 10, "a hop costs more than hashing 64 KB does"


async def test_the_folder_is_private_and_its_files_have_no_names(room: SpoolDirectory) -> None:
    assert stat.S_IMODE(room.folder.stat().st_mode) == 0o700
    async with room.spool() as spool:
        await fill(spool, pattern(3 * PIECE))
        assert names(room.folder) == [], "nobody can open it, and no crash can leave it"


async def test_a_folder_that_was_removed_is_created_again(room: SpoolDirectory) -> None:
    room.folder.rmdir()
    async with room.spool() as spool:
        await fill(spool, pattern(2 * PIECE))
        assert await content(spool) == pattern(2 * PIECE)


async def test_a_killed_process_leaves_nothing_on_the_disk(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path; from reconciler.media.spool import SpoolDirectory\n"
        "async def main():\n"
        "    async with SpoolDirectory(Path(sys.argv[1]), 1 << 30).spool() as spool:\n"
        "        for _ in range(4): await spool.write(bytes(1 << 20))\n"
        "        print(spool.size, flush=True); sys.stdin.read()\n"
        "asyncio.run(main())"
    )
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, str(tmp_path)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
    )
    assert child.stdout is not None
    assert int(await child.stdout.readline()) == 4 * PIECE
    room = SpoolDirectory(tmp_path, 64 * PIECE)
    async with room.spool() as ours:
        await fill(ours, pattern(2 * PIECE))
        child.kill()
        await child.wait()
        SpoolDirectory(tmp_path, 64 * PIECE)
        assert await content(ours) == pattern(2 * PIECE), "a killed process does not affect another one"
        assert names(tmp_path) == []


async def test_all_spools_together_are_limited_and_release_their_bytes(tmp_path: Path) -> None:
    room = SpoolDirectory(tmp_path, 1000)
    async with room.spool() as first:
        await first.write(bytes(600))
        async with room.spool() as second:
            await second.write(bytes(400))
            with pytest.raises(Transient) as caught:
                await second.write(b"x")
            assert caught.value.code == "spool_full"
            assert second.size == 400
        await first.write(bytes(400))
    assert room.used == 0


async def test_a_full_disk_is_a_transient_error(room: SpoolDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every write to this device fails with ENOSPC.
    full = FileIO("/dev/full", "wb")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
    async with room.spool() as spool:
        with pytest.raises(Transient) as caught:
            await fill(spool, bytes(3 * PIECE))
    assert caught.value.code == "spool_full"
    assert room.used == 0


async def test_another_disk_error_has_another_code(room: SpoolDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    unwritable = FileIO("/dev/null", "rb")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: unwritable)
    async with room.spool() as spool:
        with pytest.raises(Transient) as caught:
            await fill(spool, bytes(2 * PIECE))
    assert caught.value.code == "spool_error"


async def test_bytes_missing_on_the_disk_are_noticed(room: SpoolDirectory) -> None:
    async with room.spool() as spool:
        await fill(spool, pattern(2 * PIECE))
        assert spool._file is not None
        os.ftruncate(spool._file.fileno(), PIECE)
        with pytest.raises(Transient) as caught:
            await content(spool)
    assert caught.value.code == "spool_error"


async def test_the_file_is_closed_only_after_the_writing_thread_ends(
    room: SpoolDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, loop = psutil.Process(), asyncio.get_running_loop()
    await asyncio.to_thread(lambda: None)
    before = process.num_fds()
    closed_under_writer: list[bool] = []
    entered = asyncio.Event()
    left: Future[None] = Future()
    write_to_file = Spool._write_to_file

    def slow(self: Spool, piece: memoryview) -> None:
        write_to_file(self, piece)
        loop.call_soon_threadsafe(entered.set)
        left.result(10)
        assert self._file is not None
        closed_under_writer.append(self._file.closed)

    monkeypatch.setattr(Spool, "_write_to_file", slow)

    async def visit() -> None:
        async with room.spool() as spool:
            await spool.write(bytes(PIECE + 1))
            await spool.seal()

    task = asyncio.create_task(visit())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    left.set_result(None)
    await loop.shutdown_default_executor()
    await until(lambda: process.num_fds() <= before, what="the file is closed")
    assert closed_under_writer == [False]
    assert room.used == 0


def test_a_folder_that_cannot_be_written_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(Config) as caught:
        SpoolDirectory(tmp_path / "file" / "spool", 1)
    assert "RECONCILER_SPOOL_DIR" in caught.value.hint
