"""Orders whose caller, database or instance goes away: what KIE was paid for is never lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from reconciler.bootstrap import Parts
from reconciler.bootstrap.http import task_creator
from reconciler.domain.model import Trigger
from reconciler.errors import Transient
from reconciler.operations.explain import sentences
from reconciler.postgres.create_requests import Order, Requester
from reconciler.postgres.inbox import CallbackMessage, Inbox
from reconciler.worker.create.create_task import OutcomeUnknown, TaskCreated, TaskCreator, TaskDeclined
from testkit.standins.proxy import Proxy
from testkit.waiting import until
from tests.wire import Origin, ok, origin
from tests.worker.rig import USER, Rig

ORDER = Order("nano-banana-2", {"prompt": "a lighthouse"}, "image", user_id=USER)
REQUESTER = Requester(USER, "key-1")
TASK = "0f3a5b1c9d7e4f60a1b2c3d4e5f60718"
MADE = b'{"code":200,"msg":"success","data":{"taskId":"%s"}}' % TASK.encode()
REFUSED = b'{"code":402,"msg":"no credits","data":null}'


class Slow:
    """A KIE that answers once `may_answer` is set."""

    def __init__(self, body: bytes = MADE) -> None:
        self.body = body
        self.may_answer = asyncio.Event()
        self.server = Origin()

    async def answer(self, writer: asyncio.StreamWriter, head: str) -> None:
        await self.may_answer.wait()
        writer.write(ok(self.body))


@asynccontextmanager
async def slowly(rig: Rig, body: bytes = MADE, **changes: str) -> AsyncIterator[tuple[Slow, Parts, TaskCreator]]:
    """An instance that orders from a slow KIE."""
    kie = Slow(body)
    async with origin(kie.answer) as server, rig.instance(KIE_MARKET_BASE_URL=server.url, **changes) as built:
        kie.server = server
        creator = task_creator(built)
        yield kie, built, creator
        await creator.drain(0)


async def under_way(kie: Slow, creator: TaskCreator) -> asyncio.Task[Any]:
    """An order whose row is written and which KIE has received."""
    asking = asyncio.create_task(creator.create(ORDER, REQUESTER))
    await until(lambda: kie.server.heads, what="KIE is asked")
    return asking


async def only(rig: Rig) -> dict[str, Any]:
    (row,) = await rig.pool.fetch("SELECT *, id::text AS id FROM public.generations")
    return dict(row)


async def status(rig: Rig, word: str) -> bool:
    return bool((await only(rig))["status"] == word)


async def test_the_row_is_written_before_kie_is_asked_and_says_that_the_outcome_is_unknown(rig: Rig) -> None:
    async with slowly(rig) as (kie, built, creator):
        asking = await under_way(kie, creator)
        row = await only(rig)
        assert (row["status"], row["task_id"]) == ("queued", None)
        (case,) = await built.reports.explain(row["id"])
        lines = sentences(case, built.settings)
        assert lines["KIE"].startswith("The outcome of createTask is unknown since ")
        assert "not ordered again" in lines["KIE"]
        await rig.age(row["id"], 3600)
        (stuck,) = await built.reports.stuck()
        assert stuck.why.startswith("createTask: outcome unknown since 2")
        kie.may_answer.set()
        assert await asking == TaskCreated(row["id"], TASK, "generating")
        (case,) = await built.reports.explain(row["id"])
        lines = sentences(case, built.settings)
        assert "createTask" not in "".join(lines.values())
        assert await built.reports.stuck() == (), "it counts from when it got its task"


async def test_a_visit_leaves_the_note_that_the_outcome_is_unknown(rig: Rig) -> None:
    async with slowly(rig) as (kie, built, creator):
        asking = await under_way(kie, creator)
        row = await only(rig)
        await rig.visit(built, row["id"])
        await rig.age(row["id"], 3600)
        (stuck,) = await built.reports.stuck()
        assert stuck.why.startswith("createTask: outcome unknown since 2")
        assert stuck.why.endswith("no task id yet")
        kie.may_answer.set()
        await asking


@pytest.mark.parametrize(("body", "word"), [(MADE, "generating"), (REFUSED, "failed")])
async def test_a_caller_that_goes_away_stops_nothing(rig: Rig, body: bytes, word: str) -> None:
    async with slowly(rig, body) as (kie, _, creator):
        asking = await under_way(kie, creator)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert asking.cancelled()
        kie.may_answer.set()
        await until(lambda: status(rig, word), what=f"the row to be {word}")
    assert len(kie.server.heads) == 1


@pytest.mark.parametrize(("body", "word"), [(MADE, "generating"), (REFUSED, "failed")])
async def test_a_drain_waits_for_orders_under_way(rig: Rig, body: bytes, word: str) -> None:
    async with slowly(rig, body) as (kie, _, creator):
        asking = await under_way(kie, creator)
        draining = asyncio.create_task(creator.drain(20))
        await until(lambda: creator._draining, what="the drain")
        with pytest.raises(Transient):
            await creator.create(ORDER, REQUESTER)
        assert not draining.done()
        kie.may_answer.set()
        await draining
        assert await status(rig, word)
        await asking


async def test_a_drain_of_zero_seconds_leaves_the_row_for_its_callback(rig: Rig) -> None:
    async with slowly(rig) as (kie, _, creator):
        asking = await under_way(kie, creator)
        await creator.drain(0)
        row = await only(rig)
        assert isinstance(answer := await asking, OutcomeUnknown)
        assert (answer.generation_id, row["status"]) == (row["id"], "queued")
    assert len(kie.server.heads) == 1


async def test_a_task_id_waits_for_a_database_that_is_away(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.worker.create.create_task.WRITING", 0.3)
    async with Proxy(rig.dsn) as proxy, slowly(rig, DATABASE_URL=proxy.dsn) as (kie, _, creator):
        asking = await under_way(kie, creator)
        await proxy.refuse()
        kie.may_answer.set()
        answer = await asking
        row = await only(rig)
        assert isinstance(answer, OutcomeUnknown)
        assert (answer.generation_id, row["task_id"]) == (row["id"], None)
        proxy.mend()
        await until(lambda: status(rig, "generating"), what="the task id to be written")
        assert (await only(rig))["task_id"] == TASK
    assert len(kie.server.heads) == 1


async def test_a_refusal_waits_for_a_database_that_is_away(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.worker.create.create_task.WRITING", 0.3)
    async with Proxy(rig.dsn) as proxy, slowly(rig, REFUSED, DATABASE_URL=proxy.dsn) as (kie, _, creator):
        asking = await under_way(kie, creator)
        await proxy.refuse()
        kie.may_answer.set()
        assert isinstance(await asking, TaskDeclined)
        proxy.mend()
        await until(lambda: status(rig, "failed"), what="the failure to be written")
        assert await rig.books.events((await only(rig))["id"]) == ["failed"]


async def test_nothing_is_ordered_while_the_database_is_away(rig: Rig) -> None:
    async with Proxy(rig.dsn) as proxy, slowly(rig, DATABASE_URL=proxy.dsn) as (kie, _, creator):
        await proxy.refuse()
        with pytest.raises(Transient):
            await creator.create(ORDER, REQUESTER)
    assert kie.server.heads == []


async def test_an_answer_that_arrives_after_the_callback_changes_nothing(rig: Rig) -> None:
    async with slowly(rig) as (kie, built, creator):
        asking = await under_way(kie, creator)
        row = await only(rig)
        await rig.books.change(row["id"], f"task_id = '{TASK}', status = 'success', asset_url = 'https://ours/x.png'")
        before = await rig.books.everything()
        kie.may_answer.set()
        assert await asking == TaskCreated(row["id"], TASK, "success")
        assert await rig.books.everything() == before
        assert await built.claims.woken({row["id"]: Trigger.NOTIFY}) == []


async def test_a_row_that_was_cancelled_or_deleted_during_the_order_stays_so(rig: Rig) -> None:
    async with slowly(rig) as (kie, _, creator):
        asking = await under_way(kie, creator)
        await rig.books.change((await only(rig))["id"], "status = 'cancelled'")
        kie.may_answer.set()
        answer = await asking
        assert isinstance(answer, TaskCreated)
        assert answer.status == "cancelled"
        assert (await only(rig))["task_id"] is None
    async with slowly(rig, REFUSED) as (kie, _, creator):
        asking = asyncio.create_task(creator.create(ORDER, Requester("")))
        await until(lambda: kie.server.heads, what="KIE is asked")
        await rig.pool.execute("DELETE FROM public.generations")
        kie.may_answer.set()
        assert isinstance(await asking, TaskDeclined)


async def test_the_callback_decides_an_order_whose_answer_was_lost_and_one_task_is_made(rig: Rig) -> None:
    rig.kie.strike("create.lost")
    async with rig.instance(KIE_CALLBACK_URL="http://127.0.0.1:9") as built:
        creator = task_creator(built)
        assert isinstance(await creator.create(ORDER, REQUESTER), OutcomeUnknown)
        row = await only(rig)
        (task,) = rig.kie.tasks.values()
        rig.kie.end(task.id)
        body = {"code": 200, "data": {"taskId": task.id, "state": "success"}}
        await Inbox(built.database, built.table).keep(CallbackMessage(task.id, row["id"], body, "digest"))
        async with rig.working(built):
            built.worker.wake(row["id"], Trigger.CALLBACK)
            await rig.delivered(row["id"])
        await rig.proves(row["id"])
    assert rig.kie.counts.creates == 1


async def test_a_gateway_timeout_in_kies_envelope_fails_no_order(rig: Rig) -> None:
    lost = ok(b'{"code":504,"msg":"Gateway Timeout","data":null}', status="504 Gateway Timeout")
    async with origin(lost) as gateway, rig.instance(KIE_CALLBACK_URL="http://127.0.0.1:9") as built:
        built.ordering_kie._base = gateway.url
        creator = task_creator(built)
        assert isinstance(await creator.create(ORDER, REQUESTER), OutcomeUnknown)
        row = await only(rig)
        assert (row["status"], row["error"], await rig.books.events(row["id"])) == ("queued", None, [])
        # KIE behind it has made the task, and calls back when that is done.
        task = rig.kie.add_task(callback_url=json.loads(gateway.bodies[0])["callBackUrl"])
        body = {"code": 200, "data": {"taskId": task, "state": "success"}}
        await Inbox(built.database, built.table).keep(CallbackMessage(task, row["id"], body, "digest"))
        await rig.visit(built, row["id"], Trigger.CALLBACK)
    await rig.proves(row["id"])
    assert len(gateway.heads) == 1
