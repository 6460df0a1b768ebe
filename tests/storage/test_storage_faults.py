"""Faults of storage and its gateway while a small object is stored."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from reconciler.errors import LeaseLost, Permanent, ReconcilerError, Transient
from reconciler.storage.errors import StorageAnswer, to_error
from testkit.standins.storage import Bucket, Fault
from testkit.waiting import until
from tests.storage.storing import NAME, PATH, SIZES, Kit, connected, kit, lease_for, noise, put

SMALL = pytest.mark.parametrize("size", [SIZES["memory"], SIZES["generator"]], ids=["memory", "generator"])


@SMALL
async def test_the_object_is_stored_with_its_type_an_hour_of_cache_and_its_lease(tmp_path: Path, size: int) -> None:
    async with kit(tmp_path) as world:
        spool = await world.spool(noise(size))
        await world.put(spool, mime="image/webp")
        thing = world.server.objects[NAME]
        assert thing.read() == noise(size)
        assert thing.mime == "image/webp"
        assert [written.way for written in world.server.history[NAME]] == ["raw"]
        assert thing.cache_control == "max-age=3600"
        assert thing.metadata == {"sha256": spool.sha256, "lease": "lease-1"}
        assert (await world.prove(spool)).verified_by == "etag-md5"
        assert (world.server.requests["put"], world.server.requests["info"]) == (1, 1)


@SMALL
async def test_bytes_are_not_sent_again_after_only_the_answer_was_lost(tmp_path: Path, size: int) -> None:
    async with kit(tmp_path) as world:
        spool = await world.spool(noise(size))
        world.server.faults.add("put", Fault("lost"))
        await world.put(spool)
        assert world.server.requests["put"] == 1
        await world.prove(spool)


@SMALL
async def test_a_connection_cut_in_the_body_leaves_nothing_and_the_body_is_sent_once_more(
    tmp_path: Path, size: int
) -> None:
    async with kit(tmp_path) as world:
        spool = await world.spool(noise(size))
        world.server.faults.add("put", Fault("cut", after=200_000))
        await world.put(spool)
        assert world.server.requests["put"] == 2
        assert len(world.server.history[NAME]) == 1
        await world.prove(spool)


async def test_after_a_connection_is_cut_twice_the_put_is_left_to_the_next_visit(tmp_path: Path) -> None:
    async with kit(tmp_path) as world:
        spool = await world.spool(noise(SIZES["memory"]))
        world.server.faults.add("put", Fault("cut", after=1000), times=2)
        with pytest.raises(Transient) as broken:
            await world.put(spool)
        assert broken.value.code == "network"
        assert world.server.requests["put"] == 2
        assert NAME not in world.server.objects


@pytest.mark.parametrize("size", [SIZES["memory"], 6 * (1 << 20) - 1], ids=["small", "more than the kernel takes in"])
@pytest.mark.parametrize("kind", ["stall", "deaf"])
async def test_silence_is_a_timeout_and_the_object_is_checked_first(
    tmp_path: Path, size: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.storage.tus.TIMEOUT", 1.2)
    async with kit(tmp_path, quiet=1.0, direct=True) as world:
        spool = await world.spool(noise(size))
        world.server.faults.add("put", Fault(kind))  # type: ignore[arg-type]
        with pytest.raises(Transient) as silent:
            await world.put(spool)
        assert silent.value.code == "timeout"
        assert (world.server.requests["put"], world.server.requests["info"]) == (1, 1)


TROUBLE = [
    (Fault("html", status=502), "storage_5xx", None),
    (Fault("html", status=503), "storage_5xx", None),
    (Fault("html", status=504), "storage_5xx", None),
    (Fault("error"), "storage_5xx", None),
    (Fault("html", status=403), "not_json", None),
    (Fault("html", status=404), "not_json", None),
    (Fault("limited", seconds=7), "storage_busy", 7.0),
    (Fault("garbage"), "not_json", None),
]


@pytest.mark.parametrize(
    ("operation", "fault", "code", "retry_after"),
    [
        (operation, *trouble)
        for operation in ("put", "info", "bucket", "read", "remove")
        for trouble in TROUBLE
        # Only its hash tells a page with status 200 from an object.
        if (operation, trouble[0].kind) != ("read", "garbage")
    ],
)
async def test_a_failing_gateway_or_server_is_a_transient_error(
    tmp_path: Path, operation: str, fault: Fault, code: str, retry_after: float | None
) -> None:
    async with kit(tmp_path) as world:
        spool = await world.spool(noise(1000))
        await world.store.check()
        if operation == "read":
            await world.put(await world.spool(b"some bytes"))
        world.server.faults.add(operation, fault)
        with pytest.raises(Transient) as trouble:
            await _do(operation, world)
        assert trouble.value.code == code
        assert trouble.value.retry_after == retry_after
        # And then it goes on.
        await _do(operation, world)
        await world.put(spool)


async def _do(operation: str, world: Kit) -> None:
    if operation == "put":
        await world.put(await world.spool(b"some bytes"))
    elif operation == "info":
        await world.store.stat(PATH)
    elif operation == "bucket":
        await world.store.check()
    elif operation == "remove":
        await world.store.remove([PATH])
    else:
        assert [piece async for piece in world.store.read(PATH)] == [b"some bytes"]


async def test_a_gateway_page_after_the_bytes_were_stored_counts_as_stored(tmp_path: Path) -> None:
    async with kit(tmp_path) as world:
        spool = await world.spool(noise(1000))
        await world.put(spool)
        world.server.faults.add("put", Fault("html", status=504))
        await world.put(spool)
        assert len(world.server.history[NAME]) == 1


async def test_other_bytes_at_the_same_path_are_not_taken_for_ours(tmp_path: Path) -> None:
    async with kit(tmp_path) as world:
        await world.put(await world.spool(noise(1000, seed=2)))
        world.server.faults.add("put", Fault("html", status=502))
        with pytest.raises(Transient):
            await world.put(await world.spool(noise(1000, seed=3)))


async def test_half_an_object_at_our_path_is_not_taken_for_ours(tmp_path: Path) -> None:
    async with kit(tmp_path) as world:
        world.server.shelf.etag_of_parts = True
        spool = await world.spool(noise(1000))
        await world.put(spool)
        world.server.objects[NAME].size = 500
        world.server.faults.add("put", Fault("html", status=502))
        with pytest.raises(Transient):
            await world.put(spool)


async def test_a_slow_answer_is_accepted(tmp_path: Path) -> None:
    async with kit(tmp_path) as world:
        world.server.faults.add("put", Fault("slow", seconds=0.2))
        await world.put(await world.spool(b"bytes"))
        assert NAME in world.server.objects


@pytest.mark.parametrize("size", [5 * (1 << 20), 40 * (1 << 20)], ids=["raw", "tus"])
@pytest.mark.parametrize(
    ("why", "code"),
    [("anon", "storage_denied"), ("exp", "storage_key_rejected"), ("junk", "storage_key_rejected")],
)
async def test_an_early_refusal_is_seen_although_the_server_reads_no_further(
    tmp_path: Path, size: int, why: str, code: str
) -> None:
    """Such a server neither reads on nor closes: a client that sends everything first sees only a write timeout."""
    async with kit(tmp_path, direct=True) as world:
        spool = await world.spool(noise(size))
        await world.store.check()
        _lock(world, why)
        async with asyncio.timeout(5):
            with pytest.raises(Permanent) as refused:
                await world.put(spool)
        assert refused.value.code == code
        assert refused.value.hint


def _lock(world: Kit, why: str) -> None:
    """The key has expired, or never allowed writing."""
    server = world.server
    key = {"anon": server.token("anon"), "exp": server.token("service_role", exp=1), "junk": "sb_secret_abc"}[why]
    world.store._headers["Authorization"] = f"Bearer {key}"
    world.store._tus._headers["Authorization"] = f"Bearer {key}"


@pytest.mark.parametrize("mime", ["image/png", "image/gif"])
async def test_a_type_that_the_bucket_refuses_is_refused_before_a_byte_is_sent(tmp_path: Path, mime: str) -> None:
    bucket = Bucket(allowed_mime_types=["audio/mp3", "video/*"])
    async with kit(tmp_path, bucket=bucket) as world:
        with pytest.raises(Permanent) as refused:
            await world.put(await world.spool(b"bytes"), mime=mime)
        assert refused.value.code == "bucket_refuses_type"
        assert "audio/mp3, video/*" in str(refused.value)
        assert mime in refused.value.hint
        assert world.server.requests["put"] == 0
        await world.put(await world.spool(b"bytes"), mime="video/webm")


async def test_a_size_that_the_bucket_refuses_is_refused_before_a_byte_is_sent(tmp_path: Path) -> None:
    async with kit(tmp_path, bucket=Bucket(file_size_limit=1000)) as world:
        await world.put(await world.spool(noise(1000)))
        with pytest.raises(Permanent) as refused:
            await world.put(await world.spool(noise(1001)))
        assert refused.value.code == "bucket_refuses_size"
        assert world.server.requests["put"] == 1


async def test_a_bucket_rule_removed_since_the_start_refuses_nothing(tmp_path: Path) -> None:
    async with kit(tmp_path, bucket=Bucket(allowed_mime_types=["video/mp4"])) as world:
        await world.store.check()
        world.server.buckets["generations"] = Bucket()
        await world.put(await world.spool(b"bytes"))


@pytest.mark.parametrize(
    ("bucket", "code"),
    [
        (Bucket(allowed_mime_types=["video/mp4"]), "bucket_refuses_type"),
        (Bucket(file_size_limit=10), "bucket_refuses_size"),
    ],
)
@pytest.mark.parametrize("size", [1000, 7 * (1 << 20)], ids=["raw", "tus"])
async def test_a_bucket_rule_added_since_the_start_is_learned_from_the_first_refusal(
    tmp_path: Path, bucket: Bucket, code: str, size: int
) -> None:
    async with kit(tmp_path) as world:
        await world.store.check()
        world.server.buckets["generations"] = bucket
        spool = await world.spool(noise(size))
        for _ in range(2):
            with pytest.raises(Permanent) as refused:
                await world.put(spool)
            assert refused.value.code == code
        assert world.server.requests["put"] + world.server.requests["create"] == 1


@pytest.mark.parametrize("size", [1000, 7 * (1 << 20)], ids=["raw", "tus"])
async def test_a_bucket_that_disappears_at_run_time_is_named(tmp_path: Path, size: int) -> None:
    async with kit(tmp_path) as world:
        await world.store.check()
        world.server.buckets.clear()
        with pytest.raises(Permanent) as refused:
            await world.put(await world.spool(noise(size)))
        assert refused.value.code == "bucket_missing"
        with pytest.raises(Permanent) as refused:
            await world.store.stat(PATH)
        assert refused.value.code == "bucket_missing"


async def test_a_storage_that_is_down_is_a_transient_error_and_works_again_later(tmp_path: Path) -> None:
    async with kit(tmp_path) as world:
        spool = await world.spool(noise(1000))
        await world.put(spool)
        await world.server.stop()
        for call in (world.put(spool), world.store.stat(PATH), world.store.check(), world.store.remove([PATH])):
            with pytest.raises(Transient) as away:
                await call
            assert away.value.code == "network"
        await world.server.__aenter__()
        await world.prove(spool)


async def test_two_writers_on_one_path_leave_one_whole_object(tmp_path: Path) -> None:
    async with kit(tmp_path) as world:
        other = connected(world.server.url, world.server.key)
        spool = await world.spool(noise(3 << 20))
        mine = asyncio.create_task(world.put(spool))
        await asyncio.gather(mine, put(other, spool))
        await other.close()
        await world.prove(spool)
        assert world.server.twice() == {}
        assert len(world.server.history[NAME]) == 2


async def test_a_lease_lost_in_the_body_ends_the_put_without_another_request(tmp_path: Path) -> None:
    async with kit(tmp_path) as world:
        await world.store.check()
        with pytest.raises(LeaseLost):
            await world.put(await world.spool(noise(SIZES["generator"])), holds_lease=lease_for(2))
        assert world.server.requests["put"] <= 1
        assert world.server.requests["info"] == 0


async def test_a_cancelled_put_leaves_nothing(tmp_path: Path) -> None:
    async with kit(tmp_path) as world:
        world.server.faults.add("put", Fault("deaf"))
        task = asyncio.create_task(world.put(await world.spool(noise(3 << 20))))
        await until(lambda: world.server.requests["put"], what="the request")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert NAME not in world.server.objects


async def test_no_error_shows_the_key(tmp_path: Path) -> None:
    secret = "sb_secret_do_not_show"
    async with kit(tmp_path, key=secret) as world:
        errors: list[ReconcilerError] = []
        for call in (world.store.check(), world.store.stat(PATH), world.put(await world.spool(b"bytes"))):
            with pytest.raises(ReconcilerError) as caught:
                await call
            errors.append(caught.value)
        assert not any(secret in f"{error} {error!r} {error.hint} {error.__cause__!r}" for error in errors)


@pytest.mark.parametrize("before", range(160, 201, 10))
def test_no_part_of_a_key_is_left_where_a_message_is_cut(before: int) -> None:
    for secret in ("sb_secret_do_not_show", "eyJhbGciOi.eyJyb2xlIjoic2VydmljZV9yb2xl.c2lnbmF0dXJl"):
        error = to_error(StorageAnswer("415", "x" * before + f" {secret} " + "y " * 9000))
        assert not any(part in str(error) for part in ("sb_", "eyJ"))
        assert len(str(error)) < 250
