"""An order whose instance loses its database at any statement makes at most one task, and none without a row."""

from __future__ import annotations

import itertools

import pytest

from reconciler.bootstrap.http import task_creator
from reconciler.domain.model import Trigger
from reconciler.errors import Transient
from reconciler.postgres.create_requests import Order, Requester
from reconciler.postgres.inbox import CallbackMessage, Inbox
from reconciler.worker.create.create_task import CreateAnswer, OutcomeUnknown, TaskCreated
from tests.worker.cuts import Cut, through
from tests.worker.rig import USER, Rig

ORDER = Order("nano-banana-2", {"prompt": "a lighthouse"}, "image", user_id=USER)


async def cut_order(rig: Rig, requester: Requester, cut: Cut, patch: pytest.MonkeyPatch) -> CreateAnswer | None:
    """Order with an instance that dies at the cut; None where the caller got an error."""
    with patch.context() as patched:
        through(cut, patched)
        patched.setattr("reconciler.worker.create.create_task.WRITING", 0.05)
        async with rig.instance(KIE_CALLBACK_URL="http://127.0.0.1:9") as built:
            cut.counting = True
            creator = task_creator(built)
            try:
                return await creator.create(ORDER, requester)
            except Transient:
                assert cut.dead
                return None
            finally:
                await creator.drain(0)
                cut.counting = False


async def settled(rig: Rig, requester: Requester) -> None:
    """Repeat the key at another instance, then call back for each task that KIE has made."""
    async with rig.instance() as other:
        again = await task_creator(other).create(ORDER, requester)
        assert isinstance(again, TaskCreated)
        tasks = list(rig.kie.tasks.values())
        for task in tasks:
            rig.kie.end(task.id)
            body = {"code": 200, "data": {"taskId": task.id, "state": "success"}}
            await Inbox(other.database, other.table).keep(CallbackMessage(task.id, again.generation_id, body, "digest"))
            await other.worker.once(again.generation_id, Trigger.CALLBACK)
            await rig.proves(again.generation_id)
        assert len(tasks) == rig.kie.counts.creates <= 1
        assert await rig.pool.fetchval("SELECT count(*) FROM public.generations") == 1


@pytest.mark.soak
async def test_an_order_cut_off_at_any_statement_makes_at_most_one_task_and_loses_none(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Cut()
    assert isinstance(await cut_order(rig, Requester(USER, "whole"), whole, monkeypatch), TaskCreated)
    assert len(whole.said) >= 6
    for at, answered in itertools.product(range(len(whole.said)), (False, True)):
        await rig.pool.execute(
            "TRUNCATE public.generations, reconciler.work, reconciler.requests, reconciler.callbacks"
        )
        await rig.pool.execute(
            "TRUNCATE reconciler.work, reconciler.requests, reconciler.creations, reconciler.user_orders"
        )
        rig.kie.tasks.clear()
        rig.kie.counts.creates = 0
        requester = Requester(USER, f"key-{at}-{answered}")
        answer = await cut_order(rig, requester, Cut(at, answered), monkeypatch)
        where = f"cut {'after' if answered else 'before'} statement {at}: {whole.said[at]}"
        assert rig.kie.counts.creates == (0 if answer is None else 1), where
        assert answer is None or isinstance(answer, OutcomeUnknown), where
        await settled(rig, requester)
