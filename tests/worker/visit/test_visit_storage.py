"""Faults of the storage, seen from a visit: only proven results are delivered, and nothing is sent twice."""

from __future__ import annotations

import hashlib

from reconciler.domain.model import Finish, Reschedule
from reconciler.domain.observations import DeliveryFailed
from reconciler.simulator import MediaSpec
from testkit.standins.storage import Fault
from testkit.standins.storage.shelf import Thing
from tests.worker.rig import Rig

FILM = MediaSpec("video", "mp4", size=(13 << 20) + 7)


async def test_small_and_large_results_arrive_in_supabase_storage(supabase_rig: Rig) -> None:
    rig = supabase_rig
    generation_id = await rig.order(results=(MediaSpec(), FILM))
    async with rig.instance() as parts:
        assert isinstance((await rig.visit(parts, generation_id)).decision, Finish)
    generation = await rig.proves(generation_id)
    assert rig.storage is not None
    assert generation["asset_url"].startswith(f"{rig.storage.url}/storage/v1/object/public/generations/")
    assert [rig.storage.history[name][0].way for name in rig.names()] == ["raw", "tus"]


async def test_a_storage_that_is_away_keeps_the_row_waiting_without_another_download_of_what_is_stored(
    supabase_rig: Rig,
) -> None:
    rig = supabase_rig
    assert rig.storage is not None
    generation_id = await rig.order(results=(MediaSpec(), MediaSpec(ext="webp")))
    async with rig.instance() as parts:
        second = f"{await user_path(rig, generation_id)}_1.webp"
        rig.storage.faults.add("put", Fault("html", status=503), times=20, path=second)
        visited = await rig.visit(parts, generation_id)
        assert isinstance(visited.observation, DeliveryFailed)
        assert visited.observation.stage == "store"
        assert isinstance(visited.decision, Reschedule)
        assert len(await rig.receipts(generation_id)) == 1
        rig.storage.faults.clear()
        assert isinstance((await rig.visit(parts, generation_id)).decision, Finish)
    generation = await rig.proves(generation_id)
    assert rig.kie.tasks[generation["task_id"]].downloads == [1, 2]


async def test_a_bucket_that_refuses_the_type_is_a_finding_and_not_a_failure(supabase_rig: Rig) -> None:
    """L12: for example a bucket that takes audio/mp3 and not audio/mpeg."""
    rig = supabase_rig
    assert rig.storage is not None
    rig.storage.buckets["generations"].allowed_mime_types = ["image/png"]
    generation_id = await rig.order(results=(MediaSpec(), MediaSpec("audio", "mp3")))
    async with rig.instance() as parts:
        visited = await rig.visit(parts, generation_id)
        assert isinstance(visited.observation, DeliveryFailed)
        assert (visited.observation.reason, visited.observation.permanent) == ("bucket_refuses_type", True)
        work = await rig.books.work(generation_id)
        assert work is not None
        assert (work["finding"], work["due_at"] is not None) == ("storage_refuses", True)
        assert (await rig.books.generation(generation_id))["status"] == "queued"
        rig.storage.buckets["generations"].allowed_mime_types = None
        await rig.visit(parts, generation_id)
    await rig.proves(generation_id)


async def test_a_result_that_the_bucket_never_takes_is_never_given_up(supabase_rig: Rig) -> None:
    rig = supabase_rig
    assert rig.storage is not None
    rig.storage.buckets["generations"].file_size_limit = 1000
    generation_id = await rig.order(results=(MediaSpec(size=50_000),))
    day = "now() - interval '25 hours'"
    async with rig.instance() as parts:
        for _ in range(5):
            assert isinstance((await rig.visit(parts, generation_id)).decision, Reschedule)
        await rig.books.change(generation_id, f"created_at = {day}")
        await rig.books.set(generation_id, f"answered_at = {day}, acknowledged_at = {day}, completed_at = {day}")
        await rig.elapse(generation_id, 25 * 60)
        ends = [(await rig.visit(parts, generation_id)).decision for _ in range(3)]
        assert [type(end) for end in ends] == [Reschedule] * 3
        work = await rig.books.work(generation_id)
        assert work is not None
        assert work["finding"] == "storage_refuses"
        assert await rig.books.events(generation_id) == []

        rig.storage.buckets["generations"].file_size_limit = None
        assert isinstance((await rig.visit(parts, generation_id)).decision, Finish)
    await rig.proves(generation_id)


async def test_an_answer_lost_after_the_bytes_arrived_costs_no_second_upload(supabase_rig: Rig) -> None:
    rig = supabase_rig
    assert rig.storage is not None
    generation_id = await rig.order()
    rig.storage.faults.add("put", Fault("lost"))
    async with rig.instance() as parts:
        assert isinstance((await rig.visit(parts, generation_id)).decision, Finish)
    await rig.proves(generation_id)
    assert rig.storage.requests["put"] == 1


async def test_an_object_that_is_not_what_we_sent_is_no_success(supabase_rig: Rig) -> None:
    """Law 2: size and hash are proof; metadata of ours that storage echoes is not."""
    rig = supabase_rig
    assert rig.storage is not None
    generation_id = await rig.order()
    async with rig.instance() as parts:
        put = parts.store.put

        async def put_and_spoil(*args: object, **more: object) -> None:
            await put(*args, **more)  # type: ignore[arg-type]
            for thing in rig.storage.objects.values():  # type: ignore[union-attr]
                spoil(thing)

        parts.store.put = put_and_spoil  # type: ignore[method-assign]
        visited = await rig.visit(parts, generation_id)
        assert isinstance(visited.observation, DeliveryFailed)
        assert (visited.observation.stage, visited.observation.reason) == ("prove", "proof_failed")
        assert (await rig.books.generation(generation_id))["status"] == "queued"
        assert await rig.receipts(generation_id) == []
        parts.store.put = put  # type: ignore[method-assign]
        assert isinstance((await rig.visit(parts, generation_id)).decision, Finish)
    await rig.proves(generation_id)


async def test_an_interrupted_upload_is_resumed_by_another_instance(supabase_rig: Rig) -> None:
    rig = supabase_rig
    assert rig.storage is not None
    generation_id = await rig.order(results=(FILM,))
    async with rig.instance() as parts:
        rig.storage.faults.add("patch", Fault("cut", after=1000), times=1)
        rig.storage.faults.add("patch", Fault("html", status=503), times=50)
        visited = await rig.visit(parts, generation_id)
        assert isinstance(visited.observation, DeliveryFailed)
    upload = await rig.pool.fetchval("SELECT upload FROM reconciler.assets")
    assert upload is not None
    rig.storage.faults.clear()
    async with rig.instance() as successor:
        assert isinstance((await rig.visit(successor, generation_id)).decision, Finish)
    await rig.proves(generation_id)
    assert rig.storage.requests["create"] == 1


async def test_two_instances_on_one_generation_write_one_content(supabase_rig: Rig) -> None:
    """F22: two writers on one key."""
    rig = supabase_rig
    assert rig.storage is not None
    generation_id = await rig.order()
    async with rig.instance() as first, rig.instance() as second:
        await rig.visit(first, generation_id)
        await rig.books.change(generation_id, "status = 'success', asset_url = NULL")
        await rig.visit(second, generation_id)
    await rig.proves(generation_id)
    assert rig.storage.twice() == {}
    assert len(rig.names()) == 1


def spoil(thing: Thing) -> None:
    """Replace the object's bytes by others of the same size and keep its metadata."""
    thing.content = bytes(reversed(thing.read()))
    thing.md5 = hashlib.md5(thing.content).hexdigest()
    thing.etag = f'"{thing.md5}"'


async def user_path(rig: Rig, generation_id: str) -> str:
    """The paths of a generation's results, up to their number."""
    return f"{(await rig.books.generation(generation_id))['user_id']}/image/{generation_id}"
