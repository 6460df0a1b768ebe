"""The other ends of a row besides success: given up, parked, recovered, healed, handed over, refunded."""

from __future__ import annotations

import pytest

from reconciler.bootstrap import Parts
from reconciler.domain.model import Done, Fail, Finish, Reschedule, Trigger
from reconciler.domain.observations import Failed, Unreachable
from reconciler.simulator import never
from testkit.waiting import until
from tests.worker.rig import PUBLIC, Rig

HOUR = 3600.0
DAY = 24 * HOUR
REFUND_HOOK = """
CREATE TABLE public.refunds (generation_id uuid);
CREATE FUNCTION reconciler.on_failed(generation uuid, reason text) RETURNS void LANGUAGE sql AS
$$ INSERT INTO public.refunds VALUES (generation) $$;
"""
BROKEN_HOOK = """
CREATE FUNCTION reconciler.on_failed(generation uuid, reason text) RETURNS void LANGUAGE plpgsql AS
$$ BEGIN RAISE 'no wallet'; END $$;
"""


async def test_a_task_that_kie_still_works_on_after_its_time_is_given_up_and_looked_at_again(
    rig: Rig, parts: Parts
) -> None:
    generation_id = await rig.order(life=never(), age=DAY + 60)
    visited = await rig.visit(parts, generation_id)
    assert isinstance(visited.decision, Fail)
    generation = await rig.books.generation(generation_id)
    assert (generation["status"], generation["error"]) == ("failed", "gave up after 24 h; last: KIE says waiting")
    assert await rig.books.events(generation_id) == ["gave_up"]
    assert parts.metrics.deliveries.labels("gave_up", "sync")._value.get() == 1
    work = await rig.books.work(generation_id)
    assert work is not None
    assert work["gave_up"]
    assert HOUR / 2 - 60 < work["due_in"] <= 6 * HOUR


@pytest.mark.parametrize("ends", ["refused", "given up"])
async def test_a_visit_that_fails_keeps_what_it_learned(rig: Rig, parts: Parts, ends: str) -> None:
    refused = await rig.order(fate="fail")
    late = await rig.order(life=never(), age=DAY + 60)
    generation_id = refused if ends == "refused" else late
    await rig.visit(parts, generation_id)
    work = await rig.books.work(generation_id)
    assert work is not None
    assert (work["looks"], work["family"], work["key_hash"]) == (1, "market", parts.keys[0].key_hash)
    assert work["acknowledged_at"] is not None
    assert work["acknowledged_at"] == work["answered_at"] == work["looked_at"]


async def test_a_result_that_comes_after_a_give_up_is_delivered(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order(life=never(), age=DAY + 60)
    await rig.visit(parts, generation_id)
    assert isinstance((await rig.visit(parts, generation_id)).decision, Reschedule)
    rig.kie.end((await rig.books.generation(generation_id))["task_id"])
    await rig.books.set(generation_id, "due_at = now()")
    async with rig.working(parts):
        await rig.delivered(generation_id)
    generation = await rig.proves(generation_id)
    assert generation["error"] is None
    assert await rig.books.events(generation_id) == ["gave_up", "recovered"]


async def test_a_failure_at_kie_after_a_give_up_is_the_end(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order(life=never(), age=DAY + 60)
    await rig.visit(parts, generation_id)
    rig.kie.end((await rig.books.generation(generation_id))["task_id"], "fail")
    assert isinstance((await rig.visit(parts, generation_id)).decision, Done)
    assert await rig.books.events(generation_id) == ["gave_up"]
    work = await rig.books.work(generation_id)
    assert work is not None
    assert work["due_at"] is None


async def test_a_task_that_kie_never_knew_is_parked_and_not_failed(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.insert("f" * 32, age=DAY + 60)
    visited = await rig.visit(parts, generation_id)
    assert isinstance(visited.decision, Reschedule)
    assert (await rig.books.generation(generation_id))["status"] == "queued"
    work = await rig.books.work(generation_id)
    assert work is not None
    assert (work["finding"], work["due_in"] > HOUR / 2 - 60) == ("parked", True)
    assert await rig.books.events(generation_id) == []


@pytest.mark.parametrize(("ago", "ends"), [(2 * HOUR, Reschedule), (HOUR / 2, Fail)])
async def test_an_unanswered_task_is_given_up_only_if_kie_knew_it_within_the_last_hour(
    rig: Rig, parts: Parts, ago: float, ends: type
) -> None:
    generation_id = await rig.order(life=never())
    await rig.visit(parts, generation_id)
    await rig.age(generation_id, DAY + 60)
    await rig.books.set(generation_id, f"answered_at = now() - {ago} * interval '1 second'")
    rig.kie.strike("record.http_500")
    visited = await rig.visit(parts, generation_id)
    assert isinstance(visited.observation, Unreachable)
    assert isinstance(visited.decision, ends)
    work = await rig.books.work(generation_id)
    assert work is not None
    assert work["finding"] == ("parked" if ends is Reschedule else None)


async def test_a_finished_task_that_cannot_be_fetched_is_not_given_up_before_its_fifth_try(
    rig: Rig, parts: Parts
) -> None:
    generation_id = await rig.order(age=DAY + 60)
    rig.kie.strike("file.500", times=5)
    ends = [(await rig.visit(parts, generation_id)).decision for _ in range(4)]
    await rig.elapse(generation_id, 10)
    ends.append((await rig.visit(parts, generation_id)).decision)
    assert [type(end) for end in ends] == [Reschedule] * 4 + [Fail]
    assert isinstance((await rig.visit(parts, generation_id)).decision, Finish)
    await rig.proves(generation_id)
    assert await rig.books.events(generation_id) == ["gave_up", "recovered"]


async def test_a_task_that_is_dead_for_longer_than_its_media_lives_is_left(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.insert("f" * 32, age=15 * DAY)
    assert isinstance((await rig.visit(parts, generation_id)).decision, Done)
    work = await rig.books.work(generation_id)
    assert work is not None
    assert (work["due_at"], (await rig.books.generation(generation_id))["status"]) == (None, "queued")


async def test_a_success_without_its_asset_is_healed_without_a_notification(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order(status="success")
    assert await parts.claims.discover() == 1
    async with rig.working(parts):
        await asset_of(rig, generation_id)
    await rig.proves(generation_id)
    assert await rig.books.events(generation_id) == ["healed"]


async def test_a_success_that_shows_kies_address_is_healed(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order(status="success")
    task = (await rig.books.generation(generation_id))["task_id"]
    await rig.books.change(generation_id, f"asset_url = '{rig.kie.addresses(rig.kie.tasks[task])[0]}'")
    visited = await rig.visit(parts, generation_id, Trigger.BACKFILL)
    assert visited.event == "healed"
    await rig.proves(generation_id)
    assert await parts.worker.once(generation_id, Trigger.BACKFILL) is None


async def test_a_success_that_kie_calls_failed_stays_as_it_is(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order(status="success", fate="fail")
    before = await rig.books.generation(generation_id)
    visited = await rig.visit(parts, generation_id)
    assert isinstance(visited.observation, Failed)
    assert isinstance(visited.decision, Done)
    assert await rig.books.generation(generation_id) == before


@pytest.mark.parametrize("status", ["cancelled", "failed"])
async def test_a_row_that_ended_before_its_visit_is_left_and_kie_is_not_asked(
    rig: Rig, parts: Parts, status: str
) -> None:
    generation_id = await rig.order(life=never())
    await rig.visit(parts, generation_id)
    await rig.books.change(generation_id, f"status = '{status}'")
    before = await rig.books.generation(generation_id)
    await rig.books.set(generation_id, "due_at = now()")
    async with rig.working(parts):
        await wait_until_left(rig, generation_id)
    assert await rig.books.generation(generation_id) == before
    assert rig.kie.counts.records == 1


async def test_a_reopened_failure_is_delivered_where_kie_reports_success_now(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order(fate="fail")
    await rig.visit(parts, generation_id)
    await rig.books.set(generation_id, "reopened = true")
    assert isinstance((await rig.visit(parts, generation_id)).decision, Done)
    assert (await rig.books.generation(generation_id))["status"] == "failed"
    rig.kie.end((await rig.books.generation(generation_id))["task_id"])
    assert (await rig.visit(parts, generation_id)).event == "recovered"
    await rig.proves(generation_id)


async def test_a_task_of_another_key_is_found_by_trying_the_ring(rig: Rig) -> None:
    generation_id = await rig.order(key="key-for-films")
    async with rig.instance(KIE_API_KEY_VIDEO="key-for-films") as parts:
        first, second = [await rig.visit(parts, generation_id) for _ in range(2)]
    assert isinstance(first.decision, Reschedule)
    assert isinstance(second.decision, Finish)
    work = await rig.books.work(generation_id)
    assert work is not None
    assert work["key_hash"] == parts.keys[1].key_hash


async def test_a_refusal_refunds_once(own_rig: Rig) -> None:
    await own_rig.pool.execute(REFUND_HOOK)
    generation_id = await own_rig.order(fate="fail")
    async with own_rig.instance() as parts:
        await own_rig.visit(parts, generation_id)
        assert await parts.worker.once(generation_id, Trigger.SYNC) is None
    assert await own_rig.pool.fetchval("SELECT count(*) FROM public.refunds") == 1


async def test_a_refund_hook_that_fails_keeps_the_row_waiting_until_it_is_fixed(own_rig: Rig) -> None:
    await own_rig.pool.execute(BROKEN_HOOK)
    generation_id = await own_rig.order(fate="fail")
    async with own_rig.instance() as parts:
        assert isinstance((await own_rig.visit(parts, generation_id)).decision, Reschedule)
        assert (await own_rig.books.generation(generation_id))["status"] == "queued"
        work = await own_rig.books.work(generation_id)
        assert work is not None
        assert (work["finding"], "no wallet" in work["why"], 250 < work["due_in"] <= 300) == ("hook_failed", True, True)

        await own_rig.pool.execute("DROP FUNCTION reconciler.on_failed")
        await own_rig.pool.execute(REFUND_HOOK)
        assert isinstance((await own_rig.visit(parts, generation_id)).decision, Fail)
    assert await own_rig.pool.fetchval("SELECT count(*) FROM public.refunds") == 1
    assert await own_rig.books.events(generation_id) == ["failed"]


async def test_a_failure_that_is_handed_over_leaves_the_row_as_the_application_wrote_it(rig: Rig) -> None:
    failed, late = await rig.order(fate="fail"), await rig.order(life=never(), age=DAY + 60)
    before = [await rig.books.generation(name) for name in (failed, late)]
    async with rig.instance(RECONCILER_ON_FAIL="handover") as parts:
        for _ in range(2):
            for name in (failed, late):
                await rig.visit(parts, name)
        assert [await rig.books.generation(name) for name in (failed, late)] == before
        assert [await rig.books.events(name) for name in (failed, late)] == [["failed"], ["gave_up"]]
        rig.kie.end(before[1]["task_id"])
        await rig.visit(parts, late)
    await rig.proves(late)


async def asset_of(rig: Rig, generation_id: str) -> str:
    """The row's address in our storage, once it has one."""

    async def address() -> str | None:
        shown = (await rig.books.generation(generation_id))["asset_url"]
        return shown if shown and shown.startswith(PUBLIC) else None

    return await until(address, what="an asset of ours")


async def wait_until_left(rig: Rig, generation_id: str) -> None:
    """Wait until the row is due no more."""

    async def at_rest() -> bool:
        work = await rig.books.work(generation_id)
        return work is not None and work["due_at"] is None and work["lease"] is None

    await until(at_rest, what="the row is left")
