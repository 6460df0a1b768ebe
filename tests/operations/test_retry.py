"""`retry`: one generation is reopened and visited now."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from reconciler.errors import Permanent, Transient
from reconciler.operations.operator import Operator
from reconciler.operations.retry import retry
from reconciler.simulator import Simulator
from testkit.rows import HOUR, add, keep, state

DAY = timedelta(days=1)


async def test_retry_delivers_a_generation_that_we_gave_up(kie: Simulator, pool: Any, operator: Operator) -> None:
    task = kie.add_task()
    row = await add(pool, "failed", 2 * DAY, task_id=task, error="gave up after 24 h")
    await keep(pool, row, seen_task=task, gave_up=True, due_at_in=3600)

    one = await retry(operator, row)

    assert one is not None
    assert one.word == "delivered"
    assert await pool.fetchval("SELECT kind FROM reconciler.events") == "recovered"
    after = await state(pool, row)
    assert (after["status"], after["error"], after["reopened"], after["gave_up"]) == ("success", None, False, False)


async def test_a_refused_row_stays_as_it_is_while_kie_says_the_same(
    kie: Simulator, pool: Any, operator: Operator
) -> None:
    task = kie.add_task(fate="fail")
    row = await add(pool, "failed", HOUR, task_id=task, error="Internal server error (500)")
    before = await state(pool, row)

    one = await retry(operator, row)

    assert one is not None
    assert (one.word, one.why, kie.counts.records) == ("failed", "Internal server error (500)", 1)
    after = await state(pool, row)
    assert (after["status"], after["version"]) == ("failed", before["version"])


async def test_a_refused_row_is_delivered_once_kie_itself_calls_it_a_success(
    kie: Simulator, pool: Any, operator: Operator
) -> None:
    task = kie.add_task()
    row = await add(pool, "failed", HOUR, task_id=task, error="refused")

    one = await retry(operator, row)

    assert one is not None
    assert (one.word, (await state(pool, row))["status"]) == ("delivered", "success")


async def test_retry_of_a_row_in_flight_is_a_visit_now(kie: Simulator, pool: Any, operator: Operator) -> None:
    task = kie.add_task()
    row = await add(pool, "generating", 3 * DAY, task_id=task)
    await keep(pool, row, seen_task=task, finding="parked", due_at_in=20_000)

    one = await retry(operator, row)

    assert one is not None
    assert one.word == "delivered"


@pytest.fixture
async def any_status(pool: Any) -> AsyncIterator[None]:
    """The application's table allows every status."""
    named = "generations_status_check"
    check = await pool.fetchval("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = $1", named)
    await pool.execute(f"ALTER TABLE public.generations DROP CONSTRAINT {named}")
    yield
    await pool.execute(f"DELETE FROM public.generations; ALTER TABLE public.generations ADD CONSTRAINT {named} {check}")


@pytest.mark.usefixtures("any_status")
@pytest.mark.parametrize("status", ["cancelled", "archived"])
async def test_retry_refuses_rows_in_a_status_of_the_application(pool: Any, operator: Operator, status: str) -> None:
    row = await add(pool, status)

    with pytest.raises(Permanent, match=f"{row} is {status}"):
        await retry(operator, row)

    assert (await state(pool, row))["status"] == status


async def test_retry_needs_a_task(pool: Any, operator: Operator) -> None:
    row = await add(pool, "failed", task_id=None)

    with pytest.raises(Permanent, match="no task id"):
        await retry(operator, row)


@pytest.mark.parametrize("unknown", ["00000000-0000-4000-8000-000000000000", "no-uuid"])
async def test_retry_of_an_unknown_generation_returns_none(operator: Operator, unknown: str) -> None:
    assert await retry(operator, unknown) is None


async def test_retry_waits_for_the_lease_of_another_replica(kie: Simulator, pool: Any, operator: Operator) -> None:
    task = kie.add_task()
    row = await add(pool, "failed", HOUR, task_id=task)
    await keep(pool, row, seen_task=task, lease=uuid4(), instance=uuid4(), lease_until_in=0.7)

    one = await retry(operator, row)

    assert one is not None
    assert one.word == "delivered"


async def test_retry_gives_up_on_a_lease_that_does_not_end(pool: Any, operator: Operator) -> None:
    row = await add(pool, "failed", HOUR)
    await keep(pool, row, lease=uuid4(), instance=uuid4(), lease_until_in=50)

    with pytest.raises(Transient, match="keeps holding"):
        await retry(replace(operator, patience=0), row)

    assert not (await state(pool, row))["reopened"]


async def test_what_is_known_of_an_earlier_task_is_not_used(kie: Simulator, pool: Any, operator: Operator) -> None:
    task = kie.add_task()
    row = await add(pool, "failed", HOUR, task_id=task)
    await keep(pool, row, seen_task="earlier", sources=["https://tempfile.aiquickdraw.com/earlier.png"], looks=9)

    one = await retry(operator, row)

    assert one is not None
    assert one.word == "delivered"
    (address,) = kie.addresses(kie.tasks[task])
    assert await pool.fetchval("SELECT sources FROM reconciler.work") == [address]
