"""Writes that the application's table refuses: reported as such, retried ever more slowly, transferred only once."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from reconciler.domain.model import Fail, Finish, Reschedule, Row
from reconciler.postgres.ledger.ledger import StoredResults
from reconciler.simulator import MediaSpec, never
from tests.worker.rig import Rig
from tests.worker.visit.test_visit_offers import address, offer

REFUSE = """
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF to_jsonb(NEW) ->> '{column}' = '{value}' THEN RAISE EXCEPTION 'the gallery is full'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON public.generations FOR EACH ROW EXECUTE FUNCTION public.refuse();
"""
STOP_REFUSING = "DROP TRIGGER refuse ON public.generations"


async def refusing(rig: Rig, value: str, column: str = "status") -> None:
    await rig.pool.execute(REFUSE.format(column=column, value=value))


async def work_of(rig: Rig, generation_id: str) -> Mapping[str, Any]:
    work = await rig.books.work(generation_id)
    assert work is not None
    return work


async def test_a_success_that_the_table_refuses_waits_ever_longer_and_is_transferred_once(own_rig: Rig) -> None:
    await refusing(own_rig, "success")
    generation_id = await own_rig.order(results=(MediaSpec(), MediaSpec(ext="webp")))
    waits = []
    async with own_rig.instance() as parts:
        for _ in range(6):
            assert isinstance((await own_rig.visit(parts, generation_id)).decision, Reschedule)
            work = await work_of(own_rig, generation_id)
            assert (work["finding"], work["lease"]) == ("row_refused", None)
            assert work["why"] == "the table refuses the row: the gallery is full"
            waits.append(round(work["due_in"] / 300))
        assert waits == [1, 2, 4, 8, 12, 12]
        assert len(await own_rig.receipts(generation_id)) == 2
        assert (await own_rig.books.generation(generation_id))["status"] == "queued"
        assert await own_rig.books.events(generation_id) == []

        await own_rig.pool.execute(STOP_REFUSING)
        assert isinstance((await own_rig.visit(parts, generation_id)).decision, Finish)
    generation = await own_rig.proves(generation_id)
    assert own_rig.kie.tasks[generation["task_id"]].downloads == [1, 1]
    assert own_rig.kie.counts.records == 1
    assert (await work_of(own_rig, generation_id))["finding"] is None


async def test_a_violated_check_is_reported_without_the_rows_values(own_rig: Rig) -> None:
    check = "ALTER TABLE public.generations ADD CONSTRAINT short CHECK (length(asset_url) < 20)"
    await own_rig.pool.execute(check)
    generation_id = await own_rig.order()
    async with own_rig.instance() as parts:
        await own_rig.visit(parts, generation_id)
    work = await work_of(own_rig, generation_id)
    assert (work["finding"], '"short"' in work["why"]) == ("row_refused", True)
    assert generation_id not in work["why"]


async def test_a_failure_that_the_table_refuses_is_tried_again_every_five_minutes(own_rig: Rig) -> None:
    await refusing(own_rig, "failed")
    generation_id = await own_rig.order(fate="fail")
    async with own_rig.instance() as parts:
        for _ in range(3):
            assert isinstance((await own_rig.visit(parts, generation_id)).decision, Reschedule)
            work = await work_of(own_rig, generation_id)
            assert (work["finding"], 290 < work["due_in"] <= 300) == ("row_refused", True)
        await own_rig.pool.execute(STOP_REFUSING)
        assert isinstance((await own_rig.visit(parts, generation_id)).decision, Fail)
    assert await own_rig.books.events(generation_id) == ["failed"]


async def test_a_table_that_refuses_generating_keeps_no_result_waiting(own_rig: Rig) -> None:
    await refusing(own_rig, "generating")
    generation_id = await own_rig.order(life=never("generating"))
    async with own_rig.instance() as parts:
        assert isinstance((await own_rig.visit(parts, generation_id)).decision, Reschedule)
        work = await work_of(own_rig, generation_id)
        assert (work["finding"], work["lease"], work["due_in"] < 120) == ("row_refused", None, True)
        own_rig.kie.end((await own_rig.books.generation(generation_id))["task_id"])
        assert isinstance((await own_rig.visit(parts, generation_id)).decision, Finish)
    await own_rig.proves(generation_id)


async def test_a_trigger_that_refuses_a_task_id_is_reported_and_the_row_waits(own_rig: Rig) -> None:
    generation_id = await own_rig.insert(None)
    task_id = own_rig.kie.add_task(callback_url=address(generation_id))
    await refusing(own_rig, task_id, "task_id")
    await offer(own_rig, generation_id, task_id)
    async with own_rig.instance() as parts:
        assert isinstance((await own_rig.visit(parts, generation_id)).decision, Reschedule)
    work = await work_of(own_rig, generation_id)
    assert (work["finding"], 290 < work["due_in"] <= 300) == ("row_refused", True)


async def test_a_repair_that_the_table_refuses_waits_with_its_receipt(own_rig: Rig) -> None:
    generation_id = await own_rig.order()
    async with own_rig.instance() as parts:
        await own_rig.visit(parts, generation_id)
        path = await own_rig.pool.fetchval("SELECT path FROM reconciler.assets")
        await parts.store.remove([path])
        await own_rig.books.set(generation_id, "audit_at = now() - interval '1 second'")
        await parts.verification.run_once()
        # The result comes back as another type, so that the row's address has to change.
        task_id = (await own_rig.books.generation(generation_id))["task_id"]
        own_rig.kie.end(task_id, results=(MediaSpec(ext="webp"),))
        await own_rig.books.set(generation_id, "stale = true")
        await refusing(own_rig, "success")
        assert isinstance((await own_rig.visit(parts, generation_id)).decision, Reschedule)
        assert (await work_of(own_rig, generation_id))["finding"] == "row_refused"
        await own_rig.pool.execute(STOP_REFUSING)
        assert (await own_rig.visit(parts, generation_id)).event == "repaired"
    await own_rig.proves(generation_id)
    assert own_rig.kie.tasks[task_id].downloads == [1]


async def test_a_model_with_a_name_that_no_index_takes_is_delivered(
    own_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = secrets.token_hex(3000)
    generation_id = await own_rig.insert(own_rig.kie.add_task(), model_key=name)
    async with own_rig.instance() as parts:
        finish = parts.ledger.finish

        async def with_duration(row: Row, claim: Any, what: StoredResults) -> str | None:
            return await finish(replace(row, duration=timedelta(seconds=9)), claim, what)

        monkeypatch.setattr(parts.ledger, "finish", with_duration)
        assert isinstance((await own_rig.visit(parts, generation_id)).decision, Finish)
    assert await own_rig.pool.fetchval("SELECT model FROM reconciler.timings") == name[:200]
