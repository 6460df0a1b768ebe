"""An order whose instance loses its database at any statement: one task at most, and none without its row."""

from __future__ import annotations

import itertools

import pytest

from reconciler.domain.model import Trigger
from reconciler.errors import Transient
from reconciler.front import inside
from reconciler.postgres.create_requests import Order, Requester
from reconciler.postgres.inbox import CallbackMessage, Inbox
from reconciler.worker.create.create_task import CreateAnswer, OutcomeUnknown, TaskCreated
from tests.worker.cuts import Cut, through
from tests.worker.rig import USER, Rig

ORDER = Order("nano-banana-2", {"prompt": "a lighthouse"}, "image", user_id=USER)


async def cut_order(rig: Rig, asker: Requester, cut: Cut, patch: pytest.MonkeyPatch) -> CreateAnswer | None:
    """Order with an instance that dies at the cut; None where it has told of nothing."""
    with patch.context() as patched:
        through(cut, patched)
        patched.setattr("reconciler.worker.create.create_task.WRITING", 0.05)
        async with rig.instance(KIE_CALLBACK_URL="http://127.0.0.1:9") as built:
            cut.counting = True
            creation = inside(built).creation
            try:
                return await creation.create(ORDER, asker)
            except Transient:
                assert cut.dead
                return None
            finally:
                await creation.drain(0)
                cut.counting = False


async def settled(rig: Rig, asker: Requester) -> None:
    """The same key again at another instance, then the callback of whatever KIE has made."""
    async with rig.instance() as other:
        again = await inside(other).creation.create(ORDER, asker)
        assert isinstance(again, TaskCreated)
        tasks = list(rig.kie.tasks.values())
        for task in tasks:
            rig.kie.end(task.id)
            body = {"code": 200, "data": {"taskId": task.id, "state": "success"}}
            await Inbox(other.database, other.table).keep(CallbackMessage(task.id, again.generation_id, body, "digest"))
            await other.work.once(again.generation_id, Trigger.CALLBACK)
            await rig.proves(again.generation_id)
        assert len(tasks) == rig.kie.counts.creates <= 1
        assert await rig.pool.fetchval("SELECT count(*) FROM public.generations") == 1


async def test_an_order_cut_at_any_statement_makes_one_task_at_most_and_loses_none(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Cut()
    assert isinstance(await cut_order(rig, Requester(USER, "whole"), whole, monkeypatch), TaskCreated)
    assert len(whole.said) >= 6
    for at, answered in itertools.product(range(len(whole.said)), (False, True)):
        await rig.pool.execute(
            "TRUNCATE public.generations, reconciler.work, reconciler.requests, reconciler.callbacks"
        )
        await rig.pool.execute("TRUNCATE reconciler.work, reconciler.requests, reconciler.creations")
        rig.kie.tasks.clear()
        rig.kie.counts.creates = 0
        asker = Requester(USER, f"key-{at}-{answered}")
        answer = await cut_order(rig, asker, Cut(at, answered), monkeypatch)
        where = f"cut {'after' if answered else 'before'} statement {at}: {whole.said[at]}"
        assert rig.kie.counts.creates == (0 if answer is None else 1), where
        assert answer is None or isinstance(answer, OutcomeUnknown), where
        await settled(rig, asker)
