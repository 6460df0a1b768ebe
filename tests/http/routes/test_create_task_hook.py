"""The application's own hook `reconciler.on_order`: it charges, refuses, or stops an order that it cannot decide."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from reconciler.postgres.create_requests import AT_ONCE
from reconciler.simulator import Simulator
from testkit.waiting import until
from tests.http.api import ANN, ServedApi, opened
from tests.http.routes.test_create_task import order, rows

SIGNATURE = "reconciler.on_order(generation_id uuid, user_id uuid, model text, input jsonb) RETURNS void"
CHARGES = "CREATE TABLE public.orders_seen (generation_id uuid, user_id uuid, model text, input jsonb)"
SEES = "BEGIN INSERT INTO public.orders_seen VALUES (generation_id, user_id, model, input); {more} END"


@pytest.fixture
async def owner(rows_dsn: str) -> AsyncIterator[Any]:
    """The shop's own connection, with a table that its hook writes."""
    connection = await asyncpg.connect(rows_dsn)
    await connection.execute(CHARGES)
    yield connection
    await connection.execute("DROP TABLE public.orders_seen CASCADE")
    await connection.execute("DROP FUNCTION IF EXISTS reconciler.on_order")
    await connection.close()


async def define(owner: Any, more: str = "") -> None:
    await owner.execute(f"CREATE OR REPLACE FUNCTION {SIGNATURE} LANGUAGE plpgsql AS $$ {SEES.format(more=more)} $$")


async def nothing_written(api: ServedApi, owner: Any, kie: Simulator) -> None:
    assert await rows(api) == []
    assert await owner.fetchval("SELECT count(*) FROM public.orders_seen") == 0
    for table in ("work", "requests", "creations"):
        assert await owner.fetchval(f"SELECT count(*) FROM reconciler.{table}") == 0, table
    assert kie.counts.creates == 0


async def test_the_hook_is_told_of_every_order_before_kie_is(api: ServedApi, owner: Any, kie: Simulator) -> None:
    await define(owner)
    ordered = (await order(api.ann)).json()
    (seen,) = await owner.fetch("SELECT generation_id::text, user_id::text, model, input FROM public.orders_seen")
    assert tuple(seen) == (ordered["generationId"], ANN, "nano-banana-2", '{"prompt": "a lighthouse"}')
    await order(api.operator)
    assert await owner.fetchval("SELECT count(*) FROM public.orders_seen WHERE user_id IS NULL") == 1


async def test_a_refusal_is_402_with_the_shops_words_and_leaves_nothing(
    api: ServedApi, owner: Any, kie: Simulator
) -> None:
    await define(owner, "RAISE EXCEPTION 'You have 2 credits, and this needs 5';")
    answer = await order(api.ann, "key")
    assert (answer.status_code, answer.json()["error"]) == (402, "order_refused")
    assert answer.json()["detail"] == "You have 2 credits, and this needs 5"
    await nothing_written(api, owner, kie)
    await define(owner)
    assert (await order(api.ann, "key")).status_code == 201


async def test_refused_orders_count_for_the_rate_of_their_user(
    rows_dsn: str, owner: Any, kie: Simulator, tmp_path: Path
) -> None:
    await define(owner, "RAISE EXCEPTION 'no credits';")
    async with opened(rows_dsn, kie, tmp_path, RECONCILER_USER_CREATE_RATE="3") as api:
        answers = [(await order(api.ann)).status_code for _ in range(5)]
    assert answers == [402, 402, 402, 429, 429]


THROWS = {
    "a missing table": "PERFORM FROM public.wallets;",
    "an error of its own": "RAISE SQLSTATE 'KR001' USING MESSAGE = 'the ledger is closed';",
    "a constraint": "INSERT INTO public.generations (id) VALUES (generation_id);",
    "a call without end": "PERFORM pg_sleep(60);",
}


@pytest.mark.parametrize("more", THROWS.values(), ids=THROWS)
async def test_a_hook_that_cannot_decide_is_503_and_a_finding_until_it_works(
    api: ServedApi, owner: Any, kie: Simulator, more: str
) -> None:
    await define(owner, more)
    answer = await order(api.ann, "key")
    assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
    assert "on_order" in answer.json()["detail"]
    assert int(answer.headers["Retry-After"]) == 30
    await nothing_written(api, owner, kie)
    assert (await api.parts.reports.snapshot()).hooks == {"on_order": 1}
    await define(owner)
    assert (await order(api.ann, "key")).status_code == 201
    assert (await api.parts.reports.snapshot()).hooks == {}


@pytest.fixture
async def locked(owner: Any, rows_dsn: str) -> AsyncIterator[Any]:
    """The shop's own transaction, which holds the lock that its hook waits for."""
    await define(owner, "LOCK TABLE public.orders_seen IN EXCLUSIVE MODE;")
    other = await asyncpg.connect(rows_dsn)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("LOCK TABLE public.orders_seen IN SHARE MODE")
    yield transaction
    await other.close()


@pytest.mark.usefixtures("locked")
async def test_a_hook_that_waits_for_a_lock_ends_with_503(api: ServedApi, owner: Any, kie: Simulator) -> None:
    answer = await order(api.ann)
    assert (answer.status_code, "lock timeout" in answer.json()["detail"]) == (503, True)
    await nothing_written(api, owner, kie)


async def test_orders_that_wait_for_the_hook_leave_the_connections_to_deliveries(
    api: ServedApi, owner: Any, locked: Any
) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    orders = asyncio.gather(*(order(api.operator) for _ in range(20)))
    await until(lambda: owner.fetchval(waiting), what="orders wait for the wallet")
    for _ in range(5):
        assert await asyncio.gather(*(api.parts.database.value("SELECT 1") for _ in range(8))) == [1] * 8
        assert await owner.fetchval(waiting) <= AT_ONCE
    await locked.rollback()
    statuses = {answer.status_code for answer in await orders}
    assert 201 in statuses
    assert statuses <= {201, 503}


async def test_a_call_takes_five_seconds_at_most_and_waits_two_for_a_lock(api: ServedApi, owner: Any) -> None:
    await define(owner, "RAISE '% %', current_setting('statement_timeout'), current_setting('lock_timeout');")
    assert (await order(api.ann)).json()["detail"] == "5s 2s"


async def test_a_hook_with_other_arguments_is_not_passed_over(api: ServedApi, owner: Any, kie: Simulator) -> None:
    sql = "CREATE FUNCTION reconciler.on_order(generation_id uuid, user_id text) RETURNS void LANGUAGE sql AS ''"
    await owner.execute(sql)
    answer = await order(api.ann)
    assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
    assert "reconciler.on_order(uuid, uuid, text, jsonb)" in answer.json()["detail"]
    await nothing_written(api, owner, kie)


async def test_a_repeat_of_an_order_is_charged_once(api: ServedApi, owner: Any) -> None:
    await define(owner)
    answers = await asyncio.gather(*(order(api.ann, "key") for _ in range(8)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 7}
    assert await owner.fetchval("SELECT count(*) FROM public.orders_seen") == 1


async def test_an_order_over_the_rate_of_the_keys_charges_nothing(
    rows_dsn: str, owner: Any, kie: Simulator, tmp_path: Path
) -> None:
    await define(owner)
    async with opened(rows_dsn, kie, tmp_path, RECONCILER_CREATE_RATE="2") as api:
        answers = await asyncio.gather(*(order(api.ann) for _ in range(12)))
        assert Counter(answer.status_code for answer in answers) == {201: 2, 429: 10}
        assert await owner.fetchval("SELECT count(*) FROM public.orders_seen") == len(await rows(api)) == 2
    assert kie.counts.creates == 2
