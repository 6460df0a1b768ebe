"""Orders to KIE: one order makes one task, and its row tells the truth about it after every failure."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from reconciler.bootstrap import Parts
from reconciler.bootstrap.http import task_creator
from reconciler.domain.model import Trigger
from reconciler.errors import Permanent, Transient
from reconciler.kie.client import key_hash
from reconciler.postgres.create_rates import SLACK
from reconciler.postgres.create_requests import Order, RateExceeded, Requester
from reconciler.worker.create.create_task import (
    CreateAnswer,
    GenerationDeleted,
    IdempotencyKeyReused,
    OutcomeUnknown,
    TaskCreated,
    TaskCreator,
    TaskDeclined,
)
from testkit.waiting import until
from tests.wire import Answer, ok, origin
from tests.worker.rig import KEY, USER, Rig

ORDER = Order("nano-banana-2", {"prompt": "a lighthouse", "n": 2}, "image", model_key="nano", user_id=USER)
ANONYMOUS = Requester("")
CALLBACK = "http://127.0.0.1:9"


@asynccontextmanager
async def creating(rig: Rig, **changes: str) -> AsyncIterator[tuple[Parts, TaskCreator]]:
    """An instance that creates tasks."""
    async with rig.instance(**changes) as built:
        creator = task_creator(built)
        yield built, creator
        await creator.drain(0)


async def created(rig: Rig, order: Order = ORDER, requester: Requester = ANONYMOUS, **changes: str) -> CreateAnswer:
    async with creating(rig, **changes) as (_, creator):
        return await creator.create(order, requester)


async def only(rig: Rig) -> dict[str, Any]:
    """The only generation in the table."""
    (row,) = await rig.pool.fetch("SELECT *, id::text AS id FROM public.generations")
    return dict(row)


async def test_an_order_becomes_a_row_then_a_task_and_is_delivered(rig: Rig) -> None:
    async with creating(rig) as (built, creator):
        answer = await creator.create(ORDER, ANONYMOUS)
        row = await only(rig)
        (task,) = rig.kie.tasks.values()
        assert answer == TaskCreated(row["id"], task.id, "generating")
        assert (row["task_id"], row["status"], row["model_key"]) == (task.id, "generating", "nano")
        rig.kie.end(task.id)
        await rig.visit(built, row["id"], Trigger.NOTIFY)
    await rig.proves(row["id"])
    assert rig.kie.counts.creates == 1


async def test_kie_gets_the_order_and_the_address_to_call_back(rig: Rig) -> None:
    secret = "a&b=c d#e"
    await created(rig, KIE_CALLBACK_URL=CALLBACK, KIE_CALLBACK_SECRET=secret)
    (task,) = rig.kie.tasks.values()
    param = json.loads(task.param)
    assert (param["model"], json.loads(param["input"])["prompt"]) == ("nano-banana-2", "a lighthouse")
    address = urlsplit(task.callback_url or "")
    assert f"{address.scheme}://{address.netloc}{address.path}" == f"{CALLBACK}/api/kie/callback"
    query = parse_qs(address.query, strict_parsing=True)
    assert query == {"secret": [secret], "generation": [(await only(rig))["id"]]}


async def test_without_a_callback_url_kie_gets_no_address(rig: Rig) -> None:
    await created(rig, KIE_CALLBACK_SECRET="secret")
    (task,) = rig.kie.tasks.values()
    assert task.callback_url is None


async def test_a_task_is_made_with_the_key_for_its_kind(rig: Rig) -> None:
    changes = {"KIE_API_KEY_PHOTO": "photo", "KIE_API_KEY_VIDEO": "video", "KIE_API_KEY_VIDEO_POOL": "spare"}
    async with creating(rig, **changes, RECONCILER_CREATE_RATE="1") as (_, creator):
        for kind in ("image", "video", "audio", "video"):
            answer = await creator.create(Order("m", {}, kind), ANONYMOUS)
            assert isinstance(answer, TaskCreated)
            work = await rig.books.work(answer.generation_id)
            assert work is not None
            assert work["key_hash"] == key_hash(rig.kie.tasks[answer.task_id or ""].key or "")
        assert [task.key for task in rig.kie.tasks.values()] == ["photo", "video", KEY, "spare"]
        assert isinstance(await creator.create(Order("m", {}, "video"), ANONYMOUS), RateExceeded)


async def test_over_the_rate_no_replica_writes_or_sends_anything(rig: Rig) -> None:
    async with creating(rig) as (_, one), creating(rig) as (_, other):
        answers = await asyncio.gather(*((one, other)[n % 2].create(ORDER, ANONYMOUS) for n in range(30)))
    waits = [answer.seconds for answer in answers if isinstance(answer, RateExceeded)]
    assert len(waits) == 10
    assert all(5 < wait <= 10 + SLACK for wait in waits)
    assert rig.kie.counts.creates == await rig.pool.fetchval("SELECT count(*) FROM public.generations") == 20


REFUSED = {
    "create.body_402": (402, "Credits insufficient"),
    "create.body_422": (422, "This field is required"),
    "create.body_455": (455, "The service is currently undergoing maintenance. Please try again later."),
    "create.body_500": (500, "The input image is too large"),
    "create.http_429": (429, "Rate limit exceeded"),
}


@pytest.mark.parametrize("fault", REFUSED)
async def test_a_refused_order_fails_with_kies_reason_and_an_event(rig: Rig, fault: str) -> None:
    code, message = REFUSED[fault]
    rig.kie.strike(fault)
    answer = await created(rig)
    row = await only(rig)
    assert answer == TaskDeclined(row["id"], code, message)
    assert (row["status"], row["error"], row["task_id"]) == ("failed", f"{message} ({code})", None)
    assert await rig.books.events(row["id"]) == ["failed"]
    work = await rig.books.work(row["id"])
    assert work is not None
    assert (work["lease"], work["due_at"]) == (None, None)
    assert rig.kie.counts.creates == 0


async def test_a_refusal_is_refunded_in_the_same_transaction(rig: Rig) -> None:
    await rig.pool.execute(
        """CREATE TABLE public.refunds (id uuid PRIMARY KEY, reason text);
           CREATE FUNCTION reconciler.on_failed(id uuid, reason text) RETURNS void LANGUAGE sql
               AS 'INSERT INTO public.refunds VALUES ($1, $2)'"""
    )
    try:
        rig.kie.strike("create.body_402")
        await created(rig)
        assert await rig.pool.fetchval("SELECT reason FROM public.refunds") == "Credits insufficient (402)"
    finally:
        await rig.pool.execute("DROP FUNCTION reconciler.on_failed(uuid, text); DROP TABLE public.refunds")


async def test_a_hook_that_raises_is_called_again_until_it_succeeds(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.pool.execute(
        """CREATE FUNCTION reconciler.on_failed(id uuid, reason text) RETURNS void LANGUAGE plpgsql
               AS $$BEGIN RAISE 'no wallet'; END$$"""
    )
    monkeypatch.setattr("reconciler.worker.create.create_task.WRITING", 0.3)
    try:
        async with creating(rig) as (_, creator):
            rig.kie.strike("create.body_402")
            assert isinstance(await creator.create(ORDER, ANONYMOUS), TaskDeclined)
            row = await only(rig)
            assert row["status"] == "queued"

            async def told() -> str | None:
                work = await rig.books.work(row["id"])
                return work["why"] if work is not None and work["finding"] == "hook_failed" else None

            assert "Credits insufficient (402)" in await until(told, what="what the hook said")
            await rig.pool.execute("DROP FUNCTION reconciler.on_failed(uuid, text)")
            await until(lambda: ended(rig, "failed"), what="the failure to be written")
            assert await rig.books.events(row["id"]) == ["failed"]
    finally:
        await rig.pool.execute("DROP FUNCTION IF EXISTS reconciler.on_failed(uuid, text)")


async def ended(rig: Rig, status: str) -> bool:
    return bool((await only(rig))["status"] == status)


async def test_a_claimed_row_fails_once_its_claim_is_released(rig: Rig) -> None:
    release = asyncio.Event()
    async with (
        origin(held_until(release, b'{"code":402,"msg":"no"}')) as kie,
        creating(rig, KIE_MARKET_BASE_URL=kie.url) as (_, creator),
    ):
        asking = asyncio.create_task(creator.create(ORDER, ANONYMOUS))
        await until(lambda: kie.heads, what="KIE is asked")
        generation_id = (await only(rig))["id"]
        row, claim = await rig.books.held(generation_id)
        release.set()
        await until(lambda: woken(rig, generation_id), what="the failure waits for the claim")
        await rig.books.ledger().leave(row, claim, "done")
        assert isinstance(await asking, TaskDeclined)
        assert await ended(rig, "failed")


async def woken(rig: Rig, generation_id: str) -> bool:
    work = await rig.books.work(generation_id)
    return work is not None and work["woken"] > 0


def held_until(release: asyncio.Event, body: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter, head: str) -> None:
        await release.wait()
        writer.write(ok(body))

    return answer


async def test_a_kie_that_cannot_be_reached_fails_the_row_and_charges_nothing(rig: Rig) -> None:
    answer = await created(rig, KIE_MARKET_BASE_URL="http://127.0.0.1:9")
    row = await only(rig)
    assert isinstance(answer, TaskDeclined)
    assert (answer.generation_id, answer.code) == (row["id"], None)
    assert (row["status"], row["error"]) == ("failed", answer.message)
    assert await rig.books.events(row["id"]) == ["failed"]


async def test_after_a_429_no_replica_orders_for_ten_seconds(rig: Rig) -> None:
    async with creating(rig) as (_, one), creating(rig) as (_, other):
        rig.kie.strike("create.http_429")
        assert isinstance(await one.create(ORDER, ANONYMOUS), TaskDeclined)
        answer = await other.create(ORDER, ANONYMOUS)
        assert isinstance(answer, RateExceeded)
        assert 8 < answer.seconds <= 10
    assert rig.kie.counts.creates == 0


UNKNOWN = {"create.lost": 1, "create.reset": 0, "create.html_502": 0}


@pytest.mark.parametrize("fault", UNKNOWN)
async def test_an_order_of_unknown_outcome_stays_in_flight_and_is_never_sent_again(rig: Rig, fault: str) -> None:
    rig.kie.strike(fault)
    async with creating(rig) as (built, creator):
        answer = await creator.create(ORDER, ANONYMOUS)
        row = await only(rig)
        assert isinstance(answer, OutcomeUnknown)
        assert answer.generation_id == row["id"]
        assert (row["status"], row["task_id"], row["error"]) == ("queued", None, None)
        # A visit of the daemon changes nothing about it.
        async with rig.working(built):
            await rig.books.set(row["id"], "due_at = now()")
            built.worker.wake(row["id"], Trigger.SYNC)
            await until(lambda: visited(rig, row["id"]), what="a visit of the row")
        assert (await only(rig))["status"] == "queued"
    assert rig.kie.counts.creates == UNKNOWN[fault]
    assert rig.kie.counts.faults[fault] == 1


async def visited(rig: Rig, generation_id: str) -> bool:
    work = await rig.books.work(generation_id)
    return work is not None and work["why"] is not None and work["lease"] is None


async def test_a_repeated_key_returns_the_same_generation_in_its_present_state(rig: Rig) -> None:
    requester = Requester(USER, "key-1")
    async with creating(rig) as (_, creator):
        first = await creator.create(ORDER, requester)
        assert isinstance(first, TaskCreated)
        again = await creator.create(ORDER, requester)
        assert again == TaskCreated(first.generation_id, first.task_id, "generating", fresh=False)
        await rig.books.change(first.generation_id, "status = 'success'")
        assert await creator.create(ORDER, requester) == TaskCreated(
            first.generation_id, first.task_id, "success", False
        )
        assert await creator.create(Order("m", {}, "image"), requester) == IdempotencyKeyReused()
        await rig.pool.execute("DELETE FROM public.generations")
        assert await creator.create(ORDER, requester) == GenerationDeleted()
    assert rig.kie.counts.creates == 1


async def test_one_key_used_on_two_replicas_at_once_makes_one_task(rig: Rig) -> None:
    requester = Requester(USER, "key-1")
    async with creating(rig) as (_, one), creating(rig) as (_, other):
        answers = await asyncio.gather(*((one, other)[n % 2].create(ORDER, requester) for n in range(6)))
    row = await only(rig)
    assert {answer.generation_id for answer in answers if isinstance(answer, TaskCreated)} == {row["id"]}
    assert [answer.fresh for answer in answers if isinstance(answer, TaskCreated)].count(True) == 1
    assert len(answers) == 6
    assert rig.kie.counts.creates == 1


async def test_a_repeated_order_uses_no_rate_and_orders_nothing(rig: Rig) -> None:
    requester = Requester(USER, "key-1")
    rig.kie.strike("create.lost")
    async with creating(rig, RECONCILER_CREATE_RATE="1") as (_, creator):
        unknown = await creator.create(ORDER, requester)
        assert isinstance(unknown, OutcomeUnknown)
        for _ in range(3):
            again = await creator.create(ORDER, requester)
            assert again == TaskCreated(unknown.generation_id, None, "queued", fresh=False)
    assert rig.kie.counts.creates == 1


async def test_an_instance_that_only_observes_orders_nothing(rig: Rig) -> None:
    async with rig.instance(observe=True) as built:
        with pytest.raises(Transient) as raised:
            await task_creator(built).create(ORDER, ANONYMOUS)
    assert raised.value.code == "observing"
    assert rig.kie.counts.creates == 0


async def test_an_order_whose_row_the_table_refuses_is_not_sent(rig: Rig) -> None:
    with pytest.raises(Permanent):
        await created(rig, Order("m", {}, "image", user_id="not a uuid"))
    assert rig.kie.counts.creates == 0
