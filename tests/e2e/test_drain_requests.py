"""How a replica stops while clients send requests: it answers those in hand, and refuses new ones with 503."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from testkit.replica import Replica
from testkit.stage import USER, Rig
from testkit.waiting import until

pytestmark = pytest.mark.soak

TOKEN = "operators-token"


@asynccontextmanager
async def operator(replica: Replica) -> AsyncIterator[httpx.AsyncClient]:
    """An operator's client of this replica."""
    port = replica.said("daemon.started")[0]["port"]
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False, timeout=30
    ) as made:
        yield made


async def draining(client: httpx.AsyncClient) -> None:
    async def told() -> bool:
        return bool((await client.get("/readyz")).json()["reason"] == "draining")

    await until(told, what="a replica that drains")


def order(client: httpx.AsyncClient) -> asyncio.Task[httpx.Response]:
    """Send an order; the task ends with the answer, which waits for KIE."""
    wanted = {"model": "google/nano-banana", "input": {"prompt": "a boat"}, "kind": "image", "userId": USER}
    return asyncio.create_task(client.post("/api/kie/createTask", json=wanted))


async def begun(rig: Rig) -> None:
    """Wait until the order's row is there: KIE is being asked."""

    async def written() -> bool:
        return bool(await rig.pool.fetchval("SELECT count(*) = 1 FROM public.generations"))

    await until(written, what="the row of an order")


async def test_a_request_in_hand_is_answered_and_a_new_one_is_refused(rig: Rig) -> None:
    replica = await rig.run(RECONCILER_API_TOKEN=TOKEN)
    rig.kie.latency = 3
    async with operator(replica) as client:
        ordered = order(client)
        await begun(rig)
        replica.signal(signal.SIGTERM)
        await draining(client)
        late = await client.get("/api/generations")
        assert (late.status_code, late.json()["error"], "retry-after" in late.headers) == (503, "unavailable", True)
        assert late.headers["connection"] == "close", "what comes over this connection next could meet its end"
        answer = await ordered
    assert (answer.status_code, answer.json()["status"]) == (201, "generating"), answer.text
    assert (await replica.ended(within=10)).code == 0
    served = {line["route"]: line for line in replica.said("request.served")}
    assert served["/api/kie/createTask"]["status"] == 201
    assert served["/api/generations"]["status"] == 503
    assert {"instance", "request_id", "took"} <= served["/api/generations"].keys()
    assert not replica.said("requests.cut")


@asynccontextmanager
async def asking(client: httpx.AsyncClient, path: str, body: dict[str, str]) -> AsyncIterator[asyncio.StreamReader]:
    """Send a request and yield while it is in hand; a later request has been answered already."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
    content = json.dumps(body)
    lines = [f"POST {path} HTTP/1.1", "Host: here", f"Authorization: Bearer {TOKEN}", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(content)}", "Connection: close", "", content]
    writer.write("\r\n".join(lines).encode())
    await writer.drain()
    assert (await client.get("/api/generations")).status_code == 200
    try:
        yield reader
    finally:
        writer.close()


async def test_a_request_in_hand_keeps_its_connections_until_it_is_answered(rig: Rig) -> None:
    replica = await rig.run(RECONCILER_API_TOKEN=TOKEN)
    made = await rig.order()
    await rig.delivered([made])
    rig.kie.latency = 2
    async with (
        operator(replica) as client,
        asking(client, "/api/kie/downloadUrl", {"generationId": made}) as reader,
    ):
        replica.signal(signal.SIGTERM)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert head.split()[1] == b"200", body
    assert json.loads(body)["downloadUrl"].startswith("http")
    assert (await replica.ended(within=10)).code == 0


async def test_a_request_that_outlasts_the_drain_time_is_answered_with_what_is_known(rig: Rig) -> None:
    replica = await rig.run(RECONCILER_API_TOKEN=TOKEN, RECONCILER_DRAIN_SECONDS="1")
    rig.kie.latency = 20
    async with operator(replica) as client:
        ordered = order(client)
        await begun(rig)
        replica.signal(signal.SIGTERM)
        answer = await ordered
    assert (answer.status_code, answer.json()["error"]) == (504, "outcome_unknown"), answer.text
    assert (await replica.ended(within=5)).code == 0
    assert not replica.said("requests.cut")
