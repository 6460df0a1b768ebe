"""KIE's answer to an order is kept while the application's table or hook rejects it, and when the process ends."""

from __future__ import annotations

import pytest

from reconciler.worker.create.create_task import OutcomeUnknown, TaskDeclined
from testkit.waiting import until
from tests.worker.create.test_create_task_cut import REFUSED, TASK, only, slowly, status, under_way
from tests.worker.rig import Rig

RAISES = {
    "a status for PostgREST": "RAISE SQLSTATE 'PT503' USING message = 'maintenance';",
    "a function that is being replaced": "PERFORM public.touch_feed(NEW.id);",
    "no data found": "RAISE no_data_found;",
}


@pytest.mark.parametrize("raised", RAISES.values(), ids=RAISES)
async def test_a_paid_tasks_id_is_written_once_a_broken_trigger_is_gone(
    rig: Rig, raised: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.worker.create.create_task.WRITING", 0.3)
    await rig.pool.execute(
        f"""CREATE FUNCTION public.err() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {raised} RETURN NEW; END$$;
            CREATE TRIGGER err BEFORE UPDATE ON public.generations FOR EACH ROW EXECUTE FUNCTION public.err()"""
    )
    try:
        async with slowly(rig) as (kie, _, creator):
            asking = await under_way(kie, creator)
            kie.may_answer.set()
            assert isinstance(await asking, OutcomeUnknown)
            await rig.pool.execute("DROP TRIGGER err ON public.generations")
            await until(lambda: status(rig, "generating"), what="the task id to be written")
            assert (await only(rig))["task_id"] == TASK
    finally:
        await rig.pool.execute("DROP FUNCTION public.err CASCADE")


async def test_another_instance_writes_a_refusal_that_a_broken_hook_held_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.worker.create.create_task.WRITING", 0.3)
    await rig.pool.execute(
        """CREATE FUNCTION reconciler.on_failed(id uuid, reason text) RETURNS void LANGUAGE plpgsql
               AS $$BEGIN RAISE 'no wallet'; END$$;
           CREATE TABLE public.refunds (id uuid PRIMARY KEY, reason text)"""
    )
    try:
        async with slowly(rig, REFUSED) as (kie, _, creator):
            asking = await under_way(kie, creator)
            kie.may_answer.set()
            assert isinstance(await asking, TaskDeclined)
            await creator.drain(1)
        row = await only(rig)
        await rig.pool.execute(
            """CREATE OR REPLACE FUNCTION reconciler.on_failed(id uuid, reason text) RETURNS void LANGUAGE sql
                   AS 'INSERT INTO public.refunds VALUES ($1, $2)'"""
        )
        async with rig.instance() as built, rig.working(built):
            await rig.books.set(row["id"], "due_at = now()")
            built.worker.stir()
            await until(lambda: status(rig, "failed"), what="the refusal to be written")
        assert await rig.pool.fetchval("SELECT reason FROM public.refunds") == "no credits (402)"
        assert await rig.books.events(row["id"]) == ["failed"]
    finally:
        await rig.pool.execute("DROP FUNCTION reconciler.on_failed(uuid, text); DROP TABLE public.refunds")


async def test_a_refusal_is_removed_once_its_generation_has_failed(rig: Rig) -> None:
    async with slowly(rig, REFUSED) as (kie, _, creator):
        asking = await under_way(kie, creator)
        kie.may_answer.set()
        assert isinstance(await asking, TaskDeclined)
        await creator.drain(5)
    assert (await only(rig))["status"] == "failed"
    assert await rig.pool.fetchval("SELECT refused FROM reconciler.work") is None
