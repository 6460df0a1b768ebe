"""From KIE's addresses into our storage: all results in order, each stored once, whatever fails on the way."""

from __future__ import annotations

import asyncio
import json
import math

import pytest

from reconciler.bootstrap import Parts
from reconciler.domain.model import Finish, Reschedule
from reconciler.domain.observations import DeliveryFailed
from reconciler.simulator import MediaSpec
from tests.wire import ok, origin
from tests.worker.rig import USER, Rig

PNG = MediaSpec()
MIXED = (
    MediaSpec(ext="webp", size=9_000),
    MediaSpec("video", "mp4", size=300_000),
    MediaSpec("audio", "mp3", size=70_000),
    PNG,
)


async def task_of(rig: Rig, generation_id: str) -> str:
    return str((await rig.books.generation(generation_id))["task_id"])


async def test_every_result_is_stored_in_its_order_under_its_own_type(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order(results=MIXED)
    await rig.visit(parts, generation_id)
    generation = await rig.proves(generation_id)
    paths = [address.rpartition(f"{generation['user_id']}/")[2] for address in json.loads(generation["asset_urls"])]
    kinds = [("image", "webp"), ("video", "mp4"), ("audio", "mp3"), ("image", "png")]
    assert paths == [f"{kind}/{generation_id}_{n}.{ext}" for n, (kind, ext) in enumerate(kinds)]
    task = rig.kie.tasks[generation["task_id"]]
    assert json.loads(generation["result_urls"]) == rig.kie.addresses(task)
    assert len(rig.names()) == 4


@pytest.mark.parametrize(
    ("family", "model"), [("veo", "veo3"), ("suno", "V5"), ("runway", "runway"), ("gpt4o", "gpt4o-image")]
)
async def test_tasks_of_other_dialects_are_found_and_delivered(rig: Rig, parts: Parts, family: str, model: str) -> None:
    task_id = rig.kie.add_task(family=family)
    generation_id = await rig.insert(task_id, model_key=model, kind=None)
    for _ in range(12):
        if isinstance((await rig.visit(parts, generation_id)).decision, Finish):
            break
    await rig.proves(generation_id)


async def test_a_stored_result_is_not_fetched_again_by_the_next_instance(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order(results=(PNG,) * 4)
    task = rig.kie.tasks[await task_of(rig, generation_id)]
    rig.kie.strike("file.500", task=task.id, n=2)
    visited = await rig.visit(parts, generation_id)
    assert isinstance(visited.observation, DeliveryFailed)
    assert task.downloads == [1, 1, 1, 0]
    assert len(await rig.receipts(generation_id)) == 2
    assert (await rig.books.generation(generation_id))["asset_url"] is None

    async with rig.instance() as successor:
        assert isinstance((await rig.visit(successor, generation_id)).decision, Finish)
    assert task.downloads == [1, 1, 2, 1]
    assert rig.kie.counts.records == 1
    await rig.proves(generation_id)


BROKEN = {
    "file.500": "http_5xx",
    "file.empty": "empty",
    "file.short": "short",
    "file.wrong_length": "short",
    "file.reset": "short",
    "file.html": "not_media",
}


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_file_that_does_not_come_whole_is_fetched_again_later(rig: Rig, parts: Parts, fault: str) -> None:
    generation_id = await rig.order()
    rig.kie.strike(fault)
    visited = await rig.visit(parts, generation_id)
    assert isinstance(visited.observation, DeliveryFailed)
    assert (visited.observation.stage, visited.observation.reason) == ("fetch", BROKEN[fault])
    assert isinstance(visited.decision, Reschedule)
    work = await rig.books.work(generation_id)
    assert work is not None
    assert work["why"].startswith(f"fetch: {visited.observation.reason}")
    assert (work["misses"], work["sources"] is not None) == (1, True)
    assert 4 < work["due_in"] <= 10
    assert parts.metrics.failures.labels("fetch", visited.observation.reason)._value.get() == 1
    assert rig.names() == []

    assert isinstance((await rig.visit(parts, generation_id)).decision, Finish)
    await rig.proves(generation_id)
    assert rig.kie.counts.records == 1


@pytest.mark.parametrize("fault", ["file.no_length", "file.wrong_type", "file.redirect"])
async def test_a_file_that_comes_oddly_is_delivered_all_the_same(rig: Rig, parts: Parts, fault: str) -> None:
    generation_id = await rig.order()
    rig.kie.strike(fault)
    assert isinstance((await rig.visit(parts, generation_id)).decision, Finish)
    await rig.proves(generation_id)


@pytest.mark.parametrize("fault", ["plain.404", "plain.403"])
async def test_a_dead_address_is_exchanged_for_a_fresh_one(rig: Rig, parts: Parts, fault: str) -> None:
    generation_id = await rig.order()
    rig.kie.strike(fault, times=math.inf)
    assert isinstance((await rig.visit(parts, generation_id)).decision, Finish)
    assert rig.kie.counts.links == 1
    generation = await rig.proves(generation_id)
    task = rig.kie.tasks[generation["task_id"]]
    assert json.loads(generation["result_urls"]) == rig.kie.addresses(task)


async def test_where_no_fresh_address_helps_the_task_is_asked_about_again(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order()
    rig.kie.strike("file.404", times=2)
    visited = await rig.visit(parts, generation_id)
    assert isinstance(visited.observation, DeliveryFailed)
    assert visited.observation.gone
    work = await rig.books.work(generation_id)
    assert work is not None
    assert work["stale"]
    assert isinstance((await rig.visit(parts, generation_id)).decision, Finish)
    assert rig.kie.counts.records == 2
    await rig.proves(generation_id)


@pytest.mark.parametrize("page", [False, True], ids=["no server", "a page"])
async def test_an_address_that_is_dead_without_saying_so_is_asked_for_again(rig: Rig, page: bool) -> None:
    """F20: the host has moved, and the old one is gone or shows a page for everything."""
    body = b"\x89PNG\r\n\x1a\n" + bytes(5000)

    async def answer(writer: asyncio.StreamWriter, head: str) -> None:
        path = head.split()[1]
        record = {"taskId": "t", "state": "success", "resultJson": json.dumps({"resultUrls": [source]})}
        if path.startswith("/api/"):
            writer.write(ok(json.dumps({"code": 200, "msg": "success", "data": record}).encode()))
        else:
            writer.write(ok(b"<html>moved</html>" if path.endswith("old.png") else body))

    async with origin(answer) as host, rig.instance(KIE_MARKET_BASE_URL=host.url) as parts:
        source = f"http://localhost:{host.port if page else 9}/r/old.png"
        generation_id = await rig.insert("t")
        visited = await rig.visit(parts, generation_id)
        assert isinstance(visited.observation, DeliveryFailed)
        assert not visited.observation.gone
        source = f"http://localhost:{host.port}/r/new.png"
        for _ in range(2):
            assert isinstance((await rig.visit(parts, generation_id)).decision, Reschedule)
        assert isinstance((await rig.visit(parts, generation_id)).decision, Finish)
    generation = await rig.books.generation(generation_id)
    assert json.loads(generation["result_urls"]) == [source]
    assert rig.stored(generation["asset_url"]) == body


async def test_where_kie_gives_no_fresh_address_the_first_reason_stays(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order()
    rig.kie.strike("file.404")
    rig.kie.strike("link.body_500")
    visited = await rig.visit(parts, generation_id)
    assert isinstance(visited.observation, DeliveryFailed)
    assert (visited.observation.stage, visited.observation.gone) == ("fetch", True)


async def test_results_on_a_host_that_is_not_listed_wait_for_an_operator(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order()
    async with rig.instance(RECONCILER_RESULT_HOSTS="aiquickdraw.com") as strict:
        visited = await rig.visit(strict, generation_id)
    assert isinstance(visited.observation, DeliveryFailed)
    assert (visited.observation.reason, visited.observation.permanent) == ("host_unlisted", True)
    assert (rig.kie.counts.links, rig.kie.counts.downloads) == (1, 0)
    work = await rig.books.work(generation_id)
    assert work is not None
    assert (work["finding"], work["due_at"] is not None) == ("host_unlisted", True)
    assert (await rig.books.generation(generation_id))["status"] == "queued"

    await rig.visit(parts, generation_id)
    await rig.proves(generation_id)
    work = await rig.books.work(generation_id)
    assert work is not None
    assert work["finding"] is None


async def test_private_addresses_are_not_fetched_from_unless_allowed(rig: Rig) -> None:
    generation_id = await rig.order()
    async with rig.instance(RECONCILER_ALLOW_PRIVATE_HOSTS="false") as strict:
        visited = await rig.visit(strict, generation_id)
    assert isinstance(visited.observation, DeliveryFailed)
    assert visited.observation.reason == "address_refused"
    assert rig.kie.counts.downloads == 0


async def test_a_result_that_is_too_large_waits_and_is_not_stored(rig: Rig) -> None:
    generation_id = await rig.order(results=(MediaSpec(size=50_000),))
    async with rig.instance(RECONCILER_MAX_ASSET_BYTES="20000") as small:
        visited = await rig.visit(small, generation_id)
    assert isinstance(visited.observation, DeliveryFailed)
    assert visited.observation.reason == "too_large"
    assert isinstance(visited.decision, Reschedule)
    assert rig.names() == []


async def test_rows_that_share_a_task_are_each_delivered(rig: Rig, parts: Parts) -> None:
    task_id = rig.kie.add_task(results=(PNG, PNG))
    twins = [await rig.insert(task_id) for _ in range(2)]
    for twin in twins:
        await rig.visit(parts, twin)
        await rig.proves(twin)
    assert len(rig.names()) == 4


async def test_a_result_that_changed_its_type_leaves_an_orphan_and_no_second_object_in_use(
    rig: Rig, parts: Parts
) -> None:
    generation_id = await rig.order()
    task_id = await task_of(rig, generation_id)
    blocked = rig.folder / "stored" / USER
    blocked.write_text("a file where a folder should be")
    visited = await rig.visit(parts, generation_id)
    assert isinstance(visited.observation, DeliveryFailed)
    assert visited.observation.stage == "store"
    blocked.unlink()

    rig.kie.end(task_id, results=(MediaSpec(ext="webp"),))
    await rig.books.set(generation_id, "stale = true")
    assert isinstance((await rig.visit(parts, generation_id)).decision, Finish)
    await rig.proves(generation_id)
    orphans = await rig.pool.fetch("SELECT path FROM reconciler.orphans")
    assert [row["path"].rpartition(".")[2] for row in orphans] == ["png"]


async def test_a_delivery_leaves_nothing_in_the_spool(rig: Rig, parts: Parts) -> None:
    big = MediaSpec("video", "mp4", size=3_000_000)
    generation_id = await rig.order(results=(big, big))
    rig.kie.strike("file.short", n=1)
    await rig.visit(parts, generation_id)
    await rig.visit(parts, generation_id)
    await rig.proves(generation_id)
    assert [path.name for path in (rig.folder / "spool").rglob("*") if path.is_file() and path.stat().st_size] == []
