"""The local backend: whole files or none, and nothing outside its folder."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from reconciler.errors import Config, LeaseLost, Permanent, Transient
from reconciler.media.spool import SpoolDirectory
from reconciler.storage import prove
from reconciler.storage.local import LocalStore
from tests.storage.storing import PATH, filled, lease_for, noise, put


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "objects", "http://127.0.0.1:9464/")


@pytest.fixture
def room(tmp_path: Path) -> SpoolDirectory:
    return SpoolDirectory(tmp_path / "spool", 1 << 30)


def files(tmp_path: Path) -> list[str]:
    root = tmp_path / "objects"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


async def test_the_file_is_at_its_path_and_no_other_file_is_left(
    tmp_path: Path, store: LocalStore, room: SpoolDirectory
) -> None:
    async with filled(room, noise(3 << 20)) as spool:
        await put(store, spool)
        assert (await prove(store, PATH, size=spool.size, sha256=spool.sha256, md5=spool.md5)).verified_by == (
            "read-back-sha256"
        )
    assert files(tmp_path) == [PATH]
    assert (tmp_path / "objects" / PATH).read_bytes() == noise(3 << 20)
    assert store.address(PATH) == f"http://127.0.0.1:9464/files/{PATH}"


async def test_a_put_that_is_cancelled_leaves_the_old_file_whole(
    tmp_path: Path, store: LocalStore, room: SpoolDirectory
) -> None:
    async with filled(room, b"old") as spool:
        await put(store, spool)
    begun = asyncio.Event()
    async with filled(room, noise(8 << 20)) as spool:
        task = asyncio.create_task(put(store, spool, progress=lambda done, total: begun.set()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (tmp_path / "objects" / PATH).read_bytes() == b"old"
    assert files(tmp_path) == [PATH]


async def test_a_lease_lost_at_the_last_moment_leaves_the_old_file(
    tmp_path: Path, store: LocalStore, room: SpoolDirectory
) -> None:
    async with filled(room, b"old") as spool:
        await put(store, spool)
    async with filled(room, b"new") as spool:
        with pytest.raises(Exception, match="lease"):
            await put(store, spool, holds_lease=lease_for(1))
    assert (tmp_path / "objects" / PATH).read_bytes() == b"old"
    assert files(tmp_path) == [PATH]


@pytest.mark.parametrize("step", ["fsync", "_make_folder"])
async def test_a_writer_that_sleeps_past_its_lease_before_the_rename_replaces_nothing(
    tmp_path: Path, store: LocalStore, room: SpoolDirectory, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """N9: the lease ends while the file is synced, which is the last step before the rename."""
    async with filled(room, b"of the successor") as spool:
        await put(store, spool)
    held, where = [True], "os." if step == "fsync" else ""

    def slept(*_: object) -> None:
        held[0] = False

    monkeypatch.setattr(f"reconciler.storage.local.{where}{step}", slept)
    async with filled(room, b"of the sleeper") as spool:
        with pytest.raises(LeaseLost):
            await put(store, spool, holds_lease=lambda: held[0])
    assert (tmp_path / "objects" / PATH).read_bytes() == b"of the successor"
    assert files(tmp_path) == [PATH]


async def test_a_lease_that_ends_at_the_rename_itself_is_told(
    tmp_path: Path, store: LocalStore, room: SpoolDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N9: nobody can take this rename back, so the worker must hear of it and have the row audited."""
    held, replace = [True], Path.replace

    def slept(part: Path, target: Path) -> Path:
        held[0] = False
        return replace(part, target)

    monkeypatch.setattr(Path, "replace", slept)
    async with filled(room, b"bytes") as spool:
        with pytest.raises(LeaseLost):
            await put(store, spool, holds_lease=lambda: held[0])


async def test_a_reader_of_the_old_file_reads_it_to_its_end(
    tmp_path: Path, store: LocalStore, room: SpoolDirectory
) -> None:
    async with filled(room, b"old") as spool:
        await put(store, spool)
    with (tmp_path / "objects" / PATH).open("rb") as reader:
        async with filled(room, b"new") as spool:
            await put(store, spool)
        assert reader.read() == b"old"


async def test_two_writers_on_one_path_leave_one_whole_file(
    tmp_path: Path, store: LocalStore, room: SpoolDirectory
) -> None:
    bodies = [noise(3 << 20, seed) for seed in (1, 2)]
    async with filled(room, bodies[0]) as one, filled(room, bodies[1]) as two:
        await asyncio.gather(put(store, one), put(store, two))
    assert (tmp_path / "objects" / PATH).read_bytes() in bodies
    assert files(tmp_path) == [PATH]


async def test_a_link_out_of_the_folder_is_not_followed(
    tmp_path: Path, store: LocalStore, room: SpoolDirectory
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(b"secret")
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "user-1").symlink_to(outside)
    async with filled(room, b"bytes") as spool:
        for call in (put(store, spool, path="user-1/secret.png"), store.stat("user-1/secret.png")):
            with pytest.raises(Permanent) as refused:
                await call
            assert refused.value.code == "bad_path"
        with pytest.raises(Permanent):
            await store.remove(["user-1/secret.png"])
    assert (outside / "secret.png").read_bytes() == b"secret"


async def test_a_folder_that_cannot_be_created_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Config) as wrong:
        await LocalStore(tmp_path / "file" / "objects", "http://127.0.0.1").check()
    assert "RECONCILER_STORAGE_LOCAL_DIR" in wrong.value.hint


async def test_unfinished_files_of_dead_processes_are_deleted_after_a_day(tmp_path: Path, store: LocalStore) -> None:
    await store.check()
    parts = tmp_path / "objects" / ".parts"
    (parts / "old").write_bytes(b"")
    os.utime(parts / "old", (0, 0))
    (parts / "young").write_bytes(b"")
    await store.check()
    assert [part.name for part in parts.iterdir()] == ["young"]


async def test_a_full_disk_is_a_transient_error_and_leaves_nothing(
    tmp_path: Path, store: LocalStore, room: SpoolDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reconciler.storage.local.os.fsync", full)
    async with filled(room, b"bytes") as spool:
        with pytest.raises(Transient) as waiting:
            await put(store, spool)
    assert waiting.value.code == "storage_full"
    assert files(tmp_path) == []


async def test_a_folder_in_the_place_of_a_file_is_a_transient_error(
    tmp_path: Path, store: LocalStore, room: SpoolDirectory
) -> None:
    (tmp_path / "objects" / PATH).mkdir(parents=True)
    async with filled(room, b"bytes") as spool:
        with pytest.raises(Transient) as refused:
            await put(store, spool)
    assert refused.value.code == "storage_disk"


async def test_a_file_in_the_place_of_a_folder_holds_no_objects(tmp_path: Path, store: LocalStore) -> None:
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "user-1").write_bytes(b"")
    assert await store.stat(PATH) is None
