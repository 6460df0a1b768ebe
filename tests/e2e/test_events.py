"""An open page sees each delivery, by whichever replica, and survives the end of the replica that serves it."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from testkit.replica import Replica
from testkit.stage import USER, Rig
from testkit.waiting import until
from tests.http.live.event_streams import ANNA, SECRET, Reader, reading, token


@asynccontextmanager
async def page(replica: Replica, shown: str, last: str | None = None) -> AsyncIterator[Reader]:
    address = f"http://127.0.0.1:{await replica.port()}/api/events"
    async with aiohttp.ClientSession() as session, reading(session, address, shown, last) as reader:
        assert reader.status == 200
        yield reader


async def served(rig: Rig) -> Replica:
    replica = await rig.run(RECONCILER_API_TOKEN="operator", SUPABASE_JWT_SECRET=SECRET)

    async def hears() -> bool:
        return await replica.figure("listener_connected") == 1

    await until(hears, what="a replica that hears")
    return replica


async def delivery(reader: Reader, generation_id: str) -> str:
    """Wait until this reader is told of the delivery; the event's id."""

    def told() -> str | None:
        ends = (one for one in reader.of("generation") if one.id and one.data["id"] == generation_id)
        return next((one.id for one in ends if one.data["status"] == "success" and one.data["assetUrl"]), None)

    return await until(told, what=f"the delivery of {generation_id}") or ""


async def test_a_page_sees_its_generation_from_the_insert_to_the_result_by_whichever_replica(rig: Rig) -> None:
    replica, other = await served(rig), await served(rig)
    async with (
        page(replica, token(USER)) as near,
        page(other, token(USER)) as far,
        page(replica, token(ANNA)) as anna,
    ):
        generation_id = await rig.order()
        assert await delivery(near, generation_id) == await delivery(far, generation_id)
        assert near.changes[0]["kind"] == "status"
        row = await rig.pool.fetchrow("SELECT asset_url FROM public.generations")
        assert near.changes[-1]["assetUrl"] == row["asset_url"]
        assert anna.changes == []


@pytest.mark.soak
@pytest.mark.parametrize("rig", ["folder"], indirect=True)
async def test_a_page_sees_the_result_where_the_triggers_were_dropped(rig: Rig) -> None:
    await rig.pool.execute("DROP TRIGGER reconciler_inserted_3 ON public.generations")
    await rig.pool.execute("DROP TRIGGER reconciler_updated_2 ON public.generations")
    replica = await served(rig)
    async with page(replica, token(USER)) as near:
        await delivery(near, await rig.order())
        assert {one["kind"] for one in near.changes} == {"succeeded"}


@pytest.mark.soak
@pytest.mark.parametrize("rig", ["folder"], indirect=True)
async def test_a_replica_that_stops_waits_for_no_page_and_the_page_goes_on_with_another(rig: Rig) -> None:
    replica = await served(rig)
    async with page(replica, token(USER)) as near, page(replica, "operator") as operator:
        last = await delivery(near, await rig.order())
        began = time.monotonic()
        replica.signal(signal.SIGTERM)
        await until(lambda: near.ended and operator.ended, within=2, what="the end of the streams")
        assert (near.events[-1].event, operator.events[-1].event) == ("bye", "bye")
        assert (await replica.ended(within=5)).code == 0
        assert time.monotonic() - began < 4
    other = await served(rig)
    missed = await rig.order()
    await rig.delivered([missed], within=10)
    async with page(other, token(USER), last) as near:
        assert int(await delivery(near, missed)) > int(last)
