"""N3: neither a bulk of new rows, nor history, nor a backlog keeps other rows waiting.

What counts is how many requests KIE gets before the other rows are delivered: time says nothing on a busy machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from reconciler.bootstrap import Parts
from reconciler.domain.model import Trigger
from reconciler.postgres.statement import Statement
from reconciler.simulator import never
from reconciler.worker.wakes import BATCH
from testkit.waiting import until
from tests.postgres.books import OURS
from tests.worker.rig import USER, Rig

RATE = {"RECONCILER_POLL_RATE": "20"}
BULK = """
INSERT INTO public.generations (user_id, kind, model_key, status, task_id, asset_url, provider, created_at)
SELECT $1, 'image', 'nano-banana-2', $2, $3 || n, $4, $5, now() - $6 * interval '1 second' FROM generate_series(1, $7) n
RETURNING id::text
"""


async def bulk(
    rig: Rig, count: int, *, status: str = "queued", asset: str | None = None, provider: str = "kie", age: float = 0.0
) -> list[str]:
    """Insert rows about tasks that KIE does not know, as another part of the application does; return their ids."""
    values = (USER, status, "bulk-", asset, provider, age, count)
    return [row[0] for row in await rig.pool.fetch(BULK, *values)]


async def overdue(rig: Rig, parts: Parts, count: int) -> list[str]:
    """Return rows that were asked about once, have been due since, and whose tasks have ended."""
    ids = [await rig.order(life=never()) for _ in range(count)]
    for generation_id in ids:
        await rig.visit(parts, generation_id)
        await rig.books.set(generation_id, "due_at = now() - interval '1 second'")
        rig.kie.end((await rig.books.generation(generation_id))["task_id"])
    return ids


async def all_delivered(rig: Rig, ids: Sequence[str]) -> None:
    for generation_id in ids:
        await rig.delivered(generation_id, within=60)


async def polls_beside(rig: Rig, parts: Parts, due: Sequence[str], woken: Sequence[str]) -> int:
    """Wake these rows, wait until the due ones are delivered, and return how many polls that took."""
    before = rig.kie.counts.records
    for generation_id in woken:
        parts.worker.wake(generation_id)
    async with rig.working(parts):
        await all_delivered(rig, due)
        return rig.kie.counts.records - before


async def test_n3_rows_that_were_due_first_are_delivered_while_thousands_of_new_ones_are_announced(rig: Rig) -> None:
    async with rig.instance(**RATE) as parts:
        due = await overdue(rig, parts, 5)
        assert await polls_beside(rig, parts, due, await bulk(rig, 3000)) < 100


async def test_n3_an_announced_row_and_a_called_back_one_are_delivered_before_thousands_that_are_overdue(
    rig: Rig,
) -> None:
    async with rig.instance(**RATE) as parts:
        await bulk(rig, 3000, age=300)
        assert await parts.claims.discover() == 3000
        async with rig.working(parts):
            await until(lambda: rig.kie.counts.records > 40, within=60, what="the overdue rows are asked about")
            before = rig.kie.counts.records
            new = await rig.order(age=60)
            parts.worker.wake(new)
            await all_delivered(rig, [new])
            called_back = await rig.order(age=60)
            for generation_id in await bulk(rig, 1000):
                parts.worker.wake(generation_id)
            parts.worker.wake(called_back, Trigger.CALLBACK)
            await all_delivered(rig, [called_back])
            assert rig.kie.counts.records - before < 200


async def test_n3_history_and_rows_of_others_cost_no_visit_no_slot_and_no_request(
    rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = await bulk(rig, 10_000, status="success", asset=OURS)
    history += await bulk(rig, 10_000, status="success", provider="replicate")
    history += await bulk(rig, 10_000, status="failed")
    for generation_id in history:
        parts.worker.wake(generation_id)
    new = await rig.order()
    parts.worker.wake(new)
    statements, claimed = list[object](), parts.claims.unacknowledged.claimed

    async def counted(statement: Statement, **values: object) -> list[Any]:
        statements.append(statement)
        return await claimed(statement, **values)

    monkeypatch.setattr(parts.claims.unacknowledged, "claimed", counted)
    async with rig.working(parts):
        await all_delivered(rig, [new])
        await until(lambda: not parts.worker._wakes, what="an empty queue of wakes")
    assert statements.count(parts.claims._woken.present) <= len(history) / BATCH + 5
    assert rig.kie.counts.records == 1
    assert await rig.pool.fetchval("SELECT count(*) FROM reconciler.work") == 1


async def test_n3_successes_without_an_asset_leave_requests_to_rows_in_flight(rig: Rig) -> None:
    async with rig.instance(**RATE) as parts:
        due = await overdue(rig, parts, 10)
        assert await polls_beside(rig, parts, due, await bulk(rig, 300, status="success", age=60)) < 120


async def test_while_no_place_is_free_announced_rows_are_put_down_and_history_is_dropped(
    rig: Rig, parts: Parts
) -> None:
    few = rig.broad(parts, polling=1)
    rig.kie.strike("record.hang")
    first = await rig.order(life=never())
    async with rig.working(few):
        few.worker.wake(first, Trigger.CALLBACK)
        await until(lambda: rig.kie.counts.faults["record.hang"], what="a request that hangs")
        others = await bulk(rig, 20)
        for generation_id in [*others, *await bulk(rig, 20, status="success", asset=OURS)]:
            few.worker.wake(generation_id)
        known = "SELECT array_agg(generation_id) FROM reconciler.work WHERE generation_id <> $1 AND lease IS NULL"

        async def put_down() -> bool:
            return set(await rig.pool.fetchval(known, first) or ()) == set(others)

        await until(put_down, what="the rows become due")
        assert len(few.worker._wakes) <= 1
        rig.kie.calm()
        rig.kie._responses.close()
