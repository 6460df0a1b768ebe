"""Results that come late or never, successes without any output, and limits of ours: by the clock, end to end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from reconciler.bootstrap import Parts
from reconciler.domain.model import Fail, Finish, Reschedule, Trigger
from reconciler.domain.observations import DeliveryFailed
from reconciler.simulator import LiteralAnswer, MediaSpec
from tests.worker.rig import Rig
from tests.worker.visit.answer_cases import PNG, SONG, STILL, track, tracks, urls
from tests.worker.visit.test_visit_answers import in_flight, shown
from tests.worker.visit.test_visit_callbacks import store_callback
from tests.worker.visit.test_visit_ends import REFUND_HOOK

DELIVERED_HOOK = "CREATE FUNCTION reconciler.on_delivered(uuid, text) RETURNS void LANGUAGE sql AS ''"
EMPTY, WHOLE = urls(), urls("file:0")
DAY = 24 * 60.0


@pytest.fixture
async def refunding(own_rig: Rig) -> Rig:
    """A rig whose database counts the calls of `on_failed`."""
    await own_rig.pool.execute(REFUND_HOOK)
    return own_rig


@pytest.fixture
async def working(refunding: Rig) -> AsyncIterator[Parts]:
    async with refunding.instance() as built:
        yield built


async def refunds(rig: Rig) -> int:
    count: int = await rig.pool.fetchval("SELECT count(*) FROM public.refunds")
    return count


async def work_of(rig: Rig, generation_id: str) -> Mapping[str, Any]:
    work = await rig.books.work(generation_id)
    assert work is not None
    return work


async def passes(rig: Rig, generation_id: str, seconds: float) -> None:
    """Let so many seconds pass at KIE and for the row."""
    rig.kie.skip(seconds)
    await rig.elapse(generation_id, seconds / 60)


async def asked_often(rig: Rig, parts: Parts, generation_id: str) -> float:
    """Six callbacks and six syncs in twenty seconds; the seconds that have passed."""
    task = str((await rig.books.generation(generation_id))["task_id"])
    for n in range(6):
        body = {"code": 200, "msg": "success", "data": {"taskId": task, "state": "success", "callback": n}}
        await store_callback(rig, task, body)
        await rig.visit(parts, generation_id, Trigger.CALLBACK)
        await rig.visit(parts, generation_id, Trigger.SYNC)
        await passes(rig, generation_id, 20 / 6)
    assert rig.kie.tasks[task].polls == 12
    return 20.0


async def visited_when_due(rig: Rig, parts: Parts, generation_id: str) -> float:
    """Visit the row when it is due, as if nobody asked; the seconds until then."""
    due = max((await work_of(rig, generation_id))["due_in"], 0.0)
    await passes(rig, generation_id, due)
    await rig.books.set(generation_id, "due_at = now()")
    await rig.visit(parts, generation_id, Trigger.POLL)
    return float(due)


async def test_a_success_without_output_that_is_asked_about_often_is_not_failed_within_forty_minutes(
    refunding: Rig, working: Parts
) -> None:
    rig = refunding
    generation_id = await rig.insert(rig.kie.add_task(answers=[EMPTY]))
    since = await asked_often(rig, working, generation_id)
    work = await work_of(rig, generation_id)
    assert (work["finding"], work["empties"]) == ("empty_success", 1)
    while True:
        assert (await in_flight(rig, generation_id), await refunds(rig)) == (True, 0), f"failed after {since:.0f} s"
        since += (await work_of(rig, generation_id))["due_in"]
        if since >= 40 * 60:
            break
        await visited_when_due(rig, working, generation_id)
    assert since < 51 * 60
    await visited_when_due(rig, working, generation_id)
    assert await rig.books.events(generation_id) == ["gave_up"]
    assert await refunds(rig) == 1


async def test_an_address_that_appears_after_a_minute_is_delivered_within_45_seconds_without_a_request(
    refunding: Rig, working: Parts
) -> None:
    rig = refunding
    task = rig.kie.add_task(answers=[LiteralAnswer(EMPTY.record, seconds=60), WHOLE], results=[PNG])
    generation_id = await rig.insert(task)
    since = await asked_often(rig, working, generation_id)
    while await in_flight(rig, generation_id):
        since += await visited_when_due(rig, working, generation_id)
        assert since <= 105, "it came at 60 s"
    assert since >= 60
    assert await shown(rig, generation_id) == [0]
    assert (await rig.books.events(generation_id), await refunds(rig)) == (["succeeded"], 0)


async def test_an_address_that_appears_after_a_minute_is_delivered_by_the_next_sync(
    refunding: Rig, working: Parts
) -> None:
    rig = refunding
    task = rig.kie.add_task(answers=[LiteralAnswer(EMPTY.record, seconds=60), WHOLE], results=[PNG])
    generation_id = await rig.insert(task)
    since = await asked_often(rig, working, generation_id)
    await passes(rig, generation_id, 60 - since)
    await rig.visit(working, generation_id, Trigger.SYNC)
    assert await shown(rig, generation_id) == [0]
    assert (await rig.books.events(generation_id), await refunds(rig)) == (["succeeded"], 0)


HALF = tracks(track("b2", ""), track("a1", "file:0"))
BOTH = tracks(track("b2", "file:1"), track("a1", "file:0"))


async def two_tracks(rig: Rig, *answers: LiteralAnswer) -> str:
    """A row whose task announces two tracks, the first of which has no address yet."""
    task = rig.kie.add_task(family="suno", results=[SONG, SONG], covers=(), answers=answers)
    return await rig.insert(task, model_key="V5", kind="audio")


async def test_two_tracks_are_delivered_together_when_the_second_address_comes(rig: Rig, parts: Parts) -> None:
    generation_id = await two_tracks(rig, LiteralAnswer(HALF.record, seconds=60), BOTH)
    since = 0.0
    await rig.visit(parts, generation_id)
    while since < 60:
        assert await in_flight(rig, generation_id)
        assert len(await rig.receipts(generation_id)) == 1, "what is there is stored meanwhile"
        since += await visited_when_due(rig, parts, generation_id)
    assert await shown(rig, generation_id) == [1, 0]
    payload = json.loads(await rig.pool.fetchval("SELECT payload FROM reconciler.events"))
    assert (await rig.books.events(generation_id), "missing" in payload) == (["succeeded"], False)


async def delivered_by_half(rig: Rig, parts: Parts) -> str:
    """A row of two tracks that is delivered without the one that never came."""
    generation_id = await two_tracks(rig, HALF)
    await rig.visit(parts, generation_id)
    since = 0.0
    while await in_flight(rig, generation_id):
        assert since <= 31 * 60
        since += await visited_when_due(rig, parts, generation_id)
    assert since >= 20 * 60, f"a part was delivered after {since:.0f} s"
    return generation_id


async def test_a_track_that_never_comes_is_missing_after_twenty_minutes_and_named(
    refunding: Rig, working: Parts
) -> None:
    generation_id = await delivered_by_half(refunding, working)
    work = await work_of(refunding, generation_id)
    assert (work["finding"], work["lease"], work["due_in"] > 0) == ("results_missing", None, True)
    assert await shown(refunding, generation_id) == [0]
    payload = json.loads(await refunding.pool.fetchval("SELECT payload FROM reconciler.events"))
    assert (await refunding.books.events(generation_id), payload["missing"]) == (["succeeded"], ["b2"])
    assert await refunds(refunding) == 0


async def test_a_track_that_comes_a_day_later_extends_the_row_in_kies_order(refunding: Rig, working: Parts) -> None:
    rig = refunding
    await rig.pool.execute(DELIVERED_HOOK)
    generation_id = await delivered_by_half(rig, working)
    before = await rig.books.generation(generation_id)
    await passes(rig, generation_id, DAY * 60)
    await visited_when_due(rig, working, generation_id)
    assert await rig.books.generation(generation_id) == before
    assert (await work_of(rig, generation_id))["finding"] == "results_missing"

    rig.kie.answer_with(before["task_id"], BOTH)
    await visited_when_due(rig, working, generation_id)

    after = await rig.books.generation(generation_id)
    assert (after["status"], after["asset_url"]) == ("success", before["asset_url"])
    first, second = json.loads(after["asset_urls"])
    assert second == before["asset_url"]
    task = rig.kie.tasks[after["task_id"]]
    assert json.loads(after["result_urls"]) == rig.kie.addresses(task)[::-1]
    stored = [rig.stored(address) for address in (first, second)]
    assert [len(content) for content in stored] == [SONG.size] * 2
    assert sorted(await rig.receipts(generation_id)) == sorted(rig.kie.sha256(task.id, n) for n in range(2))
    work = await work_of(rig, generation_id)
    assert (work["finding"], work["due_at"]) == (None, None)
    assert (await rig.books.events(generation_id), await refunds(rig)) == (["succeeded", "extended"], 0)
    calls = await rig.pool.fetchval("SELECT count(*) FROM reconciler.hook_calls WHERE hook = 'on_delivered'")
    assert calls == 1, "it is called for the success, and not for the track that came later"


async def over_limit(rig: Rig, parts: Parts, generation_id: str) -> str:
    """Visit the row once, which must wait behind a limit of ours; the reason that is shown."""
    visited = await rig.visit(parts, generation_id)
    assert isinstance(visited.decision, Reschedule)
    work = await work_of(rig, generation_id)
    assert (await in_flight(rig, generation_id), work["finding"], work["lease"]) == (True, "over_limit", None)
    assert await rig.books.events(generation_id) == []
    return str(work["why"])


@pytest.mark.parametrize(
    ("results", "before", "after", "named"),
    [
        ((STILL,) * 201, {}, {"RECONCILER_MAX_RESULTS": "300"}, "RECONCILER_MAX_RESULTS"),
        (
            (PNG, MediaSpec("file", "shape", 4_000, form="pcm")),
            {},
            {"RECONCILER_EXTRA_TYPES": "application/x-shape=shape"},
            "type_refused",
        ),
        ((PNG, MediaSpec(size=50_000)), {"RECONCILER_MAX_ASSET_BYTES": "20000"}, {}, "too_large"),
    ],
    ids=["201 results", "a type that is not stored", "a large file"],
)
async def test_what_is_over_a_limit_of_ours_waits_with_a_finding_until_the_limit_is_raised(
    rig: Rig, results: tuple[MediaSpec, ...], before: dict[str, str], after: dict[str, str], named: str
) -> None:
    generation_id = await rig.order(results=results)
    async with rig.instance(**before) as strict:
        assert named in await over_limit(rig, strict, generation_id)
        # However late and however often: a limit is no failure.
        await rig.age(generation_id, 2 * 86_400.0)
        for _ in range(6):
            await rig.elapse(generation_id, 10)
            await over_limit(rig, strict, generation_id)
    async with rig.instance(**after) as generous:
        assert isinstance((await rig.visit(generous, generation_id)).decision, Finish)
    assert await shown(rig, generation_id) == list(range(len(results)))
    assert (await work_of(rig, generation_id))["finding"] is None


async def test_dead_addresses_are_no_limit_and_are_given_up(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order(age=2 * 86_400.0)
    rig.kie.strike("file.404", times=100)
    for _ in range(20):
        visited = await rig.visit(parts, generation_id)
        await rig.elapse(generation_id, 10)
        if isinstance(visited.decision, Fail):
            break
        assert isinstance(visited.observation, DeliveryFailed)
    assert await rig.books.events(generation_id) == ["gave_up"]
