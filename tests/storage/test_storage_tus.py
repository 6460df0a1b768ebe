"""Resumable uploads of large objects: interrupted, stalled, expired, and resumed by another instance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reconciler.errors import LeaseLost, Permanent, Transient
from testkit.standins.storage import Fault
from testkit.waiting import until
from tests.storage.storing import NAME, PATH, Kit, connected, kit, lease_for, noise, put

PIECE = 6 << 20
SIZE = 2 * PIECE + 12345
BODY = noise(SIZE)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Kit]:
    async with kit(tmp_path) as world:
        yield world


async def _interrupted(world: Kit, questions: int = 9) -> str:
    """Start an upload that loses its lease after the first piece; return its name."""
    spool = await world.spool(BODY)
    with pytest.raises(LeaseLost):
        await world.put(spool, holds_lease=lease_for(questions))
    assert NAME not in world.server.objects
    assert PIECE <= world.server.resumable.uploads[world.uploads[0]].parcel.size < SIZE
    return world.uploads[0]


async def test_a_large_object_is_sent_in_pieces_and_its_upload_is_saved_before_the_first(world: Kit) -> None:
    seen: list[int] = []
    spool = await world.spool(BODY)

    def holds_lease() -> bool:
        seen.append(len(world.uploads) * 10 + world.server.requests["patch"])
        return True

    await world.put(spool, holds_lease=holds_lease, mime="video/mp4")
    thing = world.server.objects[NAME]
    assert thing.read() == BODY
    assert (thing.mime, thing.cache_control) == ("video/mp4", "max-age=3600")
    assert thing.metadata == {"sha256": spool.sha256, "lease": "lease-1"}
    assert (world.server.requests["create"], world.server.requests["patch"]) == (1, 3)
    assert not any(moment in (1, 2, 3) for moment in seen), "a piece was sent before upload_started was called"
    assert world.server.requests["put"] == 0


@pytest.mark.parametrize(("size", "way"), [(PIECE - 1, "raw"), (PIECE, "tus"), (PIECE + 1, "tus")])
async def test_objects_from_six_mebibytes_on_are_sent_in_pieces(world: Kit, size: int, way: str) -> None:
    await world.put(await world.spool(noise(size)))
    assert [written.way for written in world.server.history[NAME]] == [way]


async def test_the_address_in_location_is_ignored(world: Kit) -> None:
    # The stand-in's Location has another scheme and path than ours, as of a server behind a gateway.
    await world.put(await world.spool(BODY))
    assert world.uploads[0] in world.server.resumable.uploads


@pytest.mark.parametrize(
    "fault",
    [
        Fault("cut", after=2_000_000),
        Fault("smaller", after=1_000_000),
        Fault("lost"),
        Fault("html", status=502),
        Fault("error"),
        Fault("garbage"),
    ],
    ids=lambda fault: fault.kind,
)
@pytest.mark.parametrize("keeps", [True, False], ids=["keeps", "forgets"])
async def test_after_a_broken_piece_the_upload_resumes_at_the_servers_offset(
    world: Kit, fault: Fault, keeps: bool
) -> None:
    world.server.resumable.keeps = keeps
    for _ in range(2):
        world.server.faults.add("patch", fault)
    spool = await world.spool(BODY)
    await world.put(spool)
    assert world.server.objects[NAME].read() == BODY
    assert len(world.uploads) == 1
    assert world.server.faults.left == 0


async def test_a_last_piece_that_was_kept_in_part_is_followed_by_another(world: Kit) -> None:
    world.server.faults.add("patch", Fault("smaller", after=1_000_000))
    await world.put(await world.spool(noise(PIECE)))
    assert world.server.objects[NAME].read() == noise(PIECE)
    assert (world.server.requests["patch"], world.server.requests["head"]) == (2, 0)


async def test_a_last_answer_lost_after_the_object_was_stored_needs_no_more_pieces(world: Kit) -> None:
    spool = await world.spool(noise(PIECE))
    world.server.faults.add("patch", Fault("lost"))
    await world.put(spool)
    assert (world.server.requests["patch"], len(world.server.history[NAME])) == (1, 1)


async def test_an_upload_with_all_bytes_but_no_object_is_completed_by_an_empty_piece(world: Kit) -> None:
    spool = await world.spool(noise(PIECE))
    world.server.faults.add("patch", Fault("unfinished"))
    await world.put(spool)
    assert world.server.objects[NAME].read() == noise(PIECE)
    assert world.server.requests["patch"] == 2


async def test_an_upload_with_all_bytes_over_an_older_object_is_completed_too(world: Kit) -> None:
    await world.put(await world.spool(noise(PIECE, seed=2)))
    world.server.faults.add("patch", Fault("unfinished"))
    await world.put(await world.spool(noise(PIECE, seed=3)))
    assert world.server.objects[NAME].read() == noise(PIECE, seed=3)


async def test_an_upload_without_progress_is_left_to_the_next_visit(world: Kit) -> None:
    world.server.faults.add("patch", Fault("smaller", after=0), times=10)
    with pytest.raises(Transient) as stuck:
        await world.put(await world.spool(BODY))
    assert stuck.value.code == "upload_stalled"
    assert world.server.requests["patch"] <= 5


async def test_a_server_that_loses_bytes_again_and_again_ends_the_upload(world: Kit) -> None:
    world.server.faults.add("patch", Fault("error"), times=100)
    with pytest.raises(Transient) as trouble:
        await world.put(await world.spool(BODY))
    assert trouble.value.code == "storage_5xx"


async def test_a_busy_server_is_not_retried_at_once(world: Kit) -> None:
    world.server.faults.add("patch", Fault("limited", seconds=9))
    with pytest.raises(Transient) as busy:
        await world.put(await world.spool(BODY))
    assert (busy.value.code, busy.value.retry_after) == ("storage_busy", 9.0)
    assert world.server.requests["head"] == 0


async def test_another_instance_resumes_where_the_first_one_stopped(world: Kit) -> None:
    upload = await _interrupted(world)
    kept, sent = world.server.resumable.uploads[upload].parcel.size, world.server.requests["patch"]
    successor, events = connected(world.server.url, world.server.key), []
    spool = await world.spool(BODY)
    await put(successor, spool, upload=upload, uploads=events, progress=lambda done, _: events.append(str(done)))
    await successor.close()
    assert world.server.objects[NAME].read() == BODY
    assert world.server.requests["create"] == 1
    assert world.server.requests["patch"] - sent == -(-(SIZE - kept) // PIECE)
    await world.prove(spool)


async def test_another_instance_sends_nothing_after_a_finished_upload(world: Kit) -> None:
    spool = await world.spool(BODY)
    await world.put(spool)
    sent = world.server.requests["patch"]
    await world.put(spool, upload=world.uploads[0])
    assert (world.server.requests["patch"], world.server.requests["create"]) == (sent, 1)


async def test_a_finished_upload_that_cannot_be_proven_is_started_again(world: Kit) -> None:
    """Resuming it would always end in the same wrong object."""
    spool = await world.spool(BODY)
    world.server.shelf.etag_of_parts = True
    await world.put(spool)
    world.server.objects[NAME].content = noise(SIZE, seed=8)
    await world.put(spool, upload=world.uploads[0])
    await world.prove(spool)
    assert len(world.uploads) == 2
    assert world.uploads[0] not in world.server.resumable.uploads


@pytest.mark.parametrize("status", [404, 410])
async def test_an_expired_upload_is_started_again(world: Kit, status: int) -> None:
    upload = await _interrupted(world)
    world.server.faults.add("head", Fault("gone", status=status))
    await world.put(await world.spool(BODY), upload=upload)
    assert world.server.objects[NAME].read() == BODY
    assert len(world.uploads) == 2
    assert world.uploads[1] != upload


async def test_an_upload_that_expires_while_sending_is_left_to_the_next_visit(world: Kit) -> None:
    world.server.faults.add("patch", Fault("gone", status=404), times=2)
    world.server.faults.add("head", Fault("gone", status=404), times=1)
    with pytest.raises(Transient) as lost:
        await world.put(await world.spool(BODY))
    assert lost.value.code == "upload_lost"


async def test_an_upload_that_the_server_forgets_on_completion_counts_as_finished(world: Kit) -> None:
    world.server.faults.add("patch", Fault("lost"))
    world.server.faults.add("head", Fault("gone", status=410))
    await world.put(await world.spool(noise(PIECE)))
    assert len(world.server.history[NAME]) == 1
    assert world.server.requests["create"] == 1


async def test_a_key_that_expires_between_two_pieces_is_named_although_head_has_no_body(world: Kit) -> None:
    def holds_lease() -> bool:
        if world.server.requests["patch"] == 1:
            world.store._tus._headers["Authorization"] = f"Bearer {world.server.token('service_role', exp=1)}"
        return True

    with pytest.raises(Permanent) as ended:
        await world.put(await world.spool(BODY), holds_lease=holds_lease)
    assert ended.value.code == "storage_key_rejected"
    assert world.server.requests["patch"] >= 1


@pytest.mark.parametrize("other", [noise(SIZE, seed=9), noise(SIZE + 1)], ids=["other bytes", "other length"])
async def test_an_upload_of_other_bytes_is_terminated_and_started_again(world: Kit, other: bytes) -> None:
    upload = await _interrupted(world)
    await world.put(await world.spool(other), upload=upload)
    assert upload not in world.server.resumable.uploads
    assert world.server.objects[NAME].read() == other
    assert world.server.twice() == {}


async def test_an_upload_for_another_path_is_terminated_and_started_again(world: Kit) -> None:
    upload = await _interrupted(world)
    await world.put(await world.spool(BODY), upload=upload, path=PATH.replace("image", "video"))
    assert upload not in world.server.resumable.uploads
    assert list(world.server.objects) == [NAME.replace("image", "video")]


async def test_without_metadata_from_the_server_the_saved_upload_is_resumed(world: Kit) -> None:
    upload = await _interrupted(world)
    world.server.resumable.tells_metadata = False
    await world.put(await world.spool(BODY), upload=upload)
    assert world.server.requests["create"] == 1
    assert world.server.objects[NAME].read() == BODY


async def test_a_stalled_writer_is_evicted_by_its_successor_and_one_content_is_stored(
    world: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled, lost, never = asyncio.Event(), asyncio.Event(), asyncio.Event()
    spool, again = await world.spool(BODY), await world.spool(BODY)
    read = spool.chunks

    async def slowly(*args: int) -> AsyncIterator[bytes]:
        async for chunk in read(*args):
            yield chunk
            if args[0]:
                stalled.set()
                await never.wait()

    monkeypatch.setattr(spool, "chunks", slowly)
    first = asyncio.create_task(world.put(spool, holds_lease=lambda: not lost.is_set()))
    await asyncio.wait_for(stalled.wait(), 10)
    await until(lambda: world.server.resumable.uploads[world.uploads[0]].parcel.size > PIECE, what="half a piece")
    lost.set()
    successor = connected(world.server.url, world.server.key)
    await put(successor, again, upload=world.uploads[0])
    with pytest.raises(LeaseLost):
        await first
    await successor.close()
    assert world.server.requests["create"] == 1
    assert world.server.objects[NAME].read() == BODY
    assert world.server.twice() == {}


async def test_a_missing_upsert_is_a_conflict_on_every_piece_so_it_is_always_sent(world: Kit) -> None:
    await world.put(await world.spool(noise(SIZE, seed=5)))
    await world.put(await world.spool(BODY))
    assert world.server.objects[NAME].read() == BODY
    del world.store._tus._headers["x-upsert"]
    with pytest.raises(Transient):
        await world.put(await world.spool(noise(SIZE, seed=6)))


async def test_the_offset_is_requested_from_a_server_that_closes_on_a_conflict(tmp_path: Path) -> None:
    async with kit(tmp_path, direct=True) as world:
        upload = await _interrupted(world)
        kept = world.server.resumable.uploads[upload]
        get_offset = world.store._tus._get_offset

        async def lags(name: str):  # type: ignore[no-untyped-def]
            offset, headers = await get_offset(name)
            world.store._tus._get_offset = get_offset  # type: ignore[method-assign]
            return offset - 1, headers

        world.store._tus._get_offset = lags  # type: ignore[method-assign]
        assert kept.parcel.size >= PIECE
        await world.put(await world.spool(BODY), upload=upload)
        assert world.server.objects[NAME].read() == BODY


async def test_a_key_that_expires_while_sending_is_named_and_the_upload_resumes_with_the_next(tmp_path: Path) -> None:
    async with kit(tmp_path) as world:
        upload = await _interrupted(world)
        good = dict(world.store._tus._headers)
        world.store._tus._headers["Authorization"] = f"Bearer {world.server.token('service_role', exp=1)}"
        with pytest.raises(Permanent) as ended:
            await world.put(await world.spool(BODY))
        assert ended.value.code == "storage_key_rejected"
        world.store._tus._headers = good
        await world.put(await world.spool(BODY), upload=upload)
        assert world.server.objects[NAME].read() == BODY


async def test_a_storage_that_restarts_while_sending_loses_nothing(world: Kit) -> None:
    spool = await world.spool(BODY)
    world.server.faults.add("patch", Fault("slow", seconds=0))
    world.server.faults.add("patch", Fault("deaf"))
    task = asyncio.create_task(world.put(spool))
    await until(lambda: world.server.requests["patch"] == 2, what="the second piece")
    await world.server.stop()
    with pytest.raises(Transient) as away:
        await task
    assert away.value.code == "network"
    await world.server.__aenter__()
    await world.put(spool, upload=world.uploads[0])
    assert world.server.objects[NAME].read() == BODY
    assert world.server.requests["create"] == 1
