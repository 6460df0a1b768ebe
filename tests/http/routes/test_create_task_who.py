"""Who may spend the shop's credit at KIE through `POST /api/kie/createTask`, and how fast."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from reconciler.simulator import Simulator
from tests.http.api import ANN, ServedApi, opened, token
from tests.http.routes.test_create_task import PATH, order, rows

CLOSED = {"RECONCILER_ORDERS": "operator"}
SIX = {"RECONCILER_USER_CREATE_RATE": "6"}


async def nothing_happened(api: ServedApi, kie: Simulator) -> None:
    """Neither table, key nor rate was touched, and KIE was not asked."""
    assert await rows(api) == []
    assert kie.counts.creates == 0
    for table in ("work", "requests", "creations", "user_orders"):
        assert await api.parts.database.value(f"SELECT count(*) FROM reconciler.{table}") == 0, table


async def test_n8_by_default_no_end_user_orders_and_the_operator_does(
    rows_dsn: str, kie: Simulator, tmp_path: Path
) -> None:
    async with opened(rows_dsn, kie, tmp_path, **CLOSED) as api:
        for _ in range(76):
            answer = await order(api.ann)
            assert (answer.status_code, answer.json()["error"]) == (403, "orders_closed")
        await nothing_happened(api, kie)
        assert (await order(api.operator, userId=ANN)).status_code == 201


async def test_a_closed_door_tells_nothing_about_the_body(rows_dsn: str, kie: Simulator, tmp_path: Path) -> None:
    async with opened(rows_dsn, kie, tmp_path, **CLOSED) as api:
        answer = await api.ann.post(PATH, json={"no": "order"})
        assert (answer.status_code, answer.json()["error"]) == (403, "orders_closed")


@pytest.mark.parametrize("claim", [True, "false", 0, None])
async def test_n8_an_anonymous_user_never_orders(api: ServedApi, kie: Simulator, claim: Any) -> None:
    headers = {"Authorization": f"Bearer {token(ANN, is_anonymous=claim)}"}
    answer = await api.nobody.post(PATH, json={"model": "m", "input": {}, "kind": "image"}, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (403, "orders_closed")
    await nothing_happened(api, kie)


async def test_an_anonymous_user_still_sees_their_own_rows(api: ServedApi) -> None:
    await order(api.operator, userId=ANN)
    headers = {"Authorization": f"Bearer {token(ANN, is_anonymous=True)}"}
    answer = await api.nobody.get("/api/generations", headers=headers)
    assert len(answer.json()["generations"]) == 1


async def test_a_user_who_has_signed_in_orders_where_orders_are_open(api: ServedApi) -> None:
    headers = {"Authorization": f"Bearer {token(ANN, is_anonymous=False)}"}
    answer = await api.nobody.post(PATH, json={"model": "m", "input": {}, "kind": "image"}, headers=headers)
    assert answer.status_code == 201


async def test_n8_a_user_orders_six_times_a_minute_whatever_replica_is_asked(
    rows_dsn: str, kie: Simulator, tmp_path: Path
) -> None:
    async with opened(rows_dsn, kie, tmp_path, **SIX) as one, opened(rows_dsn, kie, tmp_path, **SIX) as other:
        answers = await asyncio.gather(*(order((one, other)[n % 2].ann) for n in range(12)))
        assert Counter(answer.status_code for answer in answers) == {201: 6, 429: 6}
        refused = [answer for answer in answers if answer.status_code == 429]
        assert {answer.json()["error"] for answer in refused} == {"user_create_rate"}
        assert all(1 <= int(answer.headers["Retry-After"]) <= 60 for answer in refused)
        assert kie.counts.creates == len(await rows(one)) == 6
        assert (await order(one.bob)).status_code == 201
        assert await one.parts.database.value("SELECT cardinality(recent) FROM reconciler.creations") == 7
        operators = await asyncio.gather(*(order(one.operator, userId=ANN) for _ in range(8)))
        assert {answer.status_code for answer in operators} == {201}


async def one_key(client: httpx.AsyncClient, count: int) -> list[httpx.Response]:
    return list(await asyncio.gather(*(order(client, "key-of-one-order") for _ in range(count))))


async def test_n9_repeats_of_one_idempotency_key_draw_one_order_from_each_rate(
    rows_dsn: str, kie: Simulator, tmp_path: Path
) -> None:
    """All at once, at two replicas, where each rate has room for a single order."""
    narrow = {"RECONCILER_CREATE_RATE": "1", "RECONCILER_USER_CREATE_RATE": "1"}
    async with opened(rows_dsn, kie, tmp_path, **narrow) as one, opened(rows_dsn, kie, tmp_path, **narrow) as other:
        here, there = await asyncio.gather(one_key(one.ann, 8), one_key(other.ann, 8))
        answers = [*here, *there]
        assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 15}
        assert len({answer.json()["generationId"] for answer in answers}) == 1
        for table in ("creations", "user_orders"):
            assert await one.parts.database.value(f"SELECT sum(cardinality(recent)) FROM reconciler.{table}") == 1
        assert {answer.status_code for answer in await one_key(one.ann, 3)} == {200}
        assert (await order(one.ann)).status_code == 429
    assert kie.counts.creates == 1


async def test_a_key_whose_order_was_over_the_rate_is_free_again(rows_dsn: str, kie: Simulator, tmp_path: Path) -> None:
    async with opened(rows_dsn, kie, tmp_path, RECONCILER_CREATE_RATE="1") as api:
        await order(api.ann)
        assert (await order(api.ann, "key")).status_code == 429
        assert await api.parts.database.value("SELECT count(*) FROM reconciler.requests") == 0
        # What was drawn from the user's own rate came back with it.
        assert await api.parts.database.value("SELECT cardinality(recent) FROM reconciler.user_orders") == 1
        await api.parts.database.execute("DELETE FROM reconciler.creations")
        assert (await order(api.ann, "key")).status_code == 201
