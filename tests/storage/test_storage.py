"""Rules for every storage backend."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.errors import LeaseLost, Permanent, Transient
from reconciler.media.spool import SpoolDirectory
from reconciler.storage import Store, prove
from reconciler.storage.local import LocalStore
from tests.storage.storing import PATH, SIZES, filled, kit, lease_for, noise, put


@dataclass
class World:
    store: Store
    room: SpoolDirectory


@pytest.fixture(params=["supabase", "local"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "local":
        yield World(
            LocalStore(tmp_path / "objects", "http://127.0.0.1:9464"), SpoolDirectory(tmp_path / "spool", 1 << 30)
        )
    else:
        async with kit(tmp_path / "spool") as supabase:
            yield World(supabase.store, supabase.room)


async def content(store: Store, path: str = PATH) -> bytes:
    return b"".join([piece async for piece in store.read(path)])


async def test_the_check_of_a_usable_backend_passes(world: World) -> None:
    await world.store.check()


@pytest.mark.parametrize("size", [1, *SIZES.values()])
async def test_a_stored_object_can_be_proven_and_read_back(world: World, size: int) -> None:
    body = noise(size)
    async with filled(world.room, body) as spool:
        await put(world.store, spool)
        receipt = await prove(world.store, PATH, size=size, sha256=spool.sha256, md5=spool.md5)
    stat = await world.store.stat(PATH)
    assert stat is not None
    assert stat.size == size
    assert receipt.version == stat.version
    assert await content(world.store) == body


async def test_progress_ends_at_the_size(world: World) -> None:
    reported: list[tuple[int, int]] = []
    async with filled(world.room, noise(SIZES["tus"])) as spool:
        await put(world.store, spool, progress=lambda done, total: reported.append((done, total)))
    assert reported[-1] == (SIZES["tus"], SIZES["tus"])
    assert reported == sorted(reported)


async def test_a_second_put_replaces_the_first_and_changes_the_version(world: World) -> None:
    async with filled(world.room, b"first") as spool:
        await put(world.store, spool)
    before = await world.store.stat(PATH)
    async with filled(world.room, b"other") as spool:
        await put(world.store, spool)
    after = await world.store.stat(PATH)
    assert await content(world.store) == b"other"
    assert before is not None
    assert after is not None
    assert before.version != after.version


async def test_a_missing_object_has_no_stat_and_no_proof_and_cannot_be_read(world: World) -> None:
    # An empty folder is a disk that is not mounted.
    async with filled(world.room, b"another") as spool:
        await put(world.store, spool, path="user-1/image/another_0.png")
    assert await world.store.stat(PATH) is None
    with pytest.raises(Transient) as unproven:
        await prove(world.store, PATH, size=1, sha256="", md5="")
    assert unproven.value.code == "proof_failed"
    with pytest.raises(Permanent) as missing:
        await content(world.store)
    assert missing.value.code == "object_missing"


@pytest.mark.parametrize("wrong", [b"short", b"same length!"])
async def test_other_bytes_are_not_proof(world: World, wrong: bytes) -> None:
    right = b"right bytes "
    async with filled(world.room, wrong) as spool:
        await put(world.store, spool)
    with pytest.raises(Transient) as unproven:
        await prove(
            world.store,
            PATH,
            size=len(right),
            sha256=hashlib.sha256(right).hexdigest(),
            md5=hashlib.md5(right, usedforsecurity=False).hexdigest(),
        )
    assert unproven.value.code == "proof_failed"


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("questions", [0, 1])
async def test_a_lost_lease_stops_the_put_and_leaves_no_object(world: World, size: int, questions: int) -> None:
    async with filled(world.room, noise(size)) as spool:
        with pytest.raises(LeaseLost):
            await put(world.store, spool, holds_lease=lease_for(questions))
    assert await world.store.stat(PATH) is None


async def test_removing_deletes_objects_and_ignores_missing_ones(world: World) -> None:
    async with filled(world.room, b"bytes") as spool:
        await put(world.store, spool)
    await world.store.remove([PATH, "user-1/image/never-there.png"])
    assert await world.store.stat(PATH) is None
    await world.store.remove([])


@pytest.mark.parametrize(
    "path", ["../etc/passwd", "a/../b", "/a/b", "a//b", "a/b/", "plain", "a/.hidden", "a/ü.png", "a/b c", "a/b%2f", ""]
)
async def test_a_path_that_is_not_made_of_ids_is_refused(world: World, path: str) -> None:
    async with filled(world.room, b"bytes") as spool:
        with pytest.raises(Permanent) as refused:
            await put(world.store, spool, path=path)
    assert refused.value.code == "bad_path"
    with pytest.raises(Permanent):
        await world.store.stat(path)
    with pytest.raises(Permanent):
        await world.store.remove([path])
    with pytest.raises(Permanent):
        world.store.address(path)
