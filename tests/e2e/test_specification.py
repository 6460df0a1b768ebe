"""The specification's four acceptance tests: a picture, a video, the callback's log, and sync without a callback.

A shop makes its tasks through the daemon; KIE calls back at an address that a test can cut.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from reconciler.simulator import MediaSpec
from testkit.replica import Replica
from testkit.stage import USER, Rig
from testkit.standins.proxy import Proxy
from testkit.waiting import until

TOKEN = "token-of-the-operator"
SECRET = "secret-of-the-callback"
SIGNING = "key-of-the-signature"
PICTURE = {"model": "flux-2/pro-text-to-image", "kind": "image", "prompt": "a lens", "userId": USER}
FILM = {"model": "kling-2.6/text-to-video", "kind": "video", "prompt": "a room", "userId": USER}


@dataclass
class Shop:
    """A web application beside the daemon: it asks over HTTP and looks into its table."""

    rig: Rig
    replica: Replica
    http: httpx.AsyncClient
    line: Proxy

    async def create(self, order: dict[str, Any]) -> dict[str, Any]:
        body = {**order, "input": {"prompt": order["prompt"]}}
        answer = await self.http.post("/api/kie/createTask", json=body)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def shown(self, generation_id: str) -> dict[str, Any]:
        """What the history shows of this generation."""
        listed = (await self.http.get("/api/generations")).json()["generations"]
        (found,) = [one for one in listed if one["id"] == generation_id]
        return dict(found)

    async def row(self, generation_id: str) -> dict[str, Any]:
        sql = "SELECT * FROM public.generations WHERE id::text = $1"
        return dict(await self.rig.pool.fetchrow(sql, generation_id))

    async def ended(self, generation_id: str) -> dict[str, Any]:
        async def success() -> bool:
            return (await self.shown(generation_id))["status"] == "success"

        await until(success, within=20, what="a success in the history")
        return await self.shown(generation_id)

    async def opened(self, address: str) -> httpx.Response:
        """A result as a browser fetches it."""
        async with httpx.AsyncClient(trust_env=False) as browser:
            return await browser.get(address)


@pytest.fixture
async def shop(rig: Rig) -> AsyncIterator[Shop]:
    """A shop that receives its callbacks through a proxy."""
    async with Proxy("http://127.0.0.1:9") as line:
        settings = {
            "KIE_CALLBACK_SECRET": SECRET,
            "KIE_CALLBACK_URL": line.dsn,
            "KIE_WEBHOOK_HMAC_KEY": SIGNING,
            "RECONCILER_API_TOKEN": TOKEN,
        }
        rig.kie.hmac_key = SIGNING
        replica = await rig.run(**settings)
        address = f"http://127.0.0.1:{await replica.port()}"
        line.lead(address)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(base_url=address, headers=headers, trust_env=False, timeout=40) as http:
            yield Shop(rig, replica, http, line)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("order", "media", "mime"),
    [
        (PICTURE, MediaSpec(size=350_000), "image/png"),
        (FILM, MediaSpec(kind="video", ext="mp4", size=2_000_000), "video/mp4"),
    ],
    ids=["image", "video"],
)
async def test_a_generation_is_made_shown_as_generating_and_then_opens_from_our_storage(
    shop: Shop, order: dict[str, Any], media: MediaSpec, mime: str
) -> None:
    shop.rig.kie.orders.append({"life": [("waiting", 0.5), ("generating", 1.5)], "results": (media,)})
    made = await shop.create(order)
    assert made["taskId"] in shop.rig.kie.tasks
    assert (made["status"], (await shop.shown(made["generationId"]))["status"]) == ("generating", "generating")
    shown = await shop.ended(made["generationId"])
    row = await shop.row(made["generationId"])
    assert (row["status"], row["provider"], str(row["user_id"])) == ("success", "kie", USER)
    assert row["asset_url"] == shown["displayUrl"] == shown["assetUrl"]
    assert row["asset_url"].startswith(f"{shop.rig.storage.url}/storage/v1/object/public/generations/{USER}/")  # type: ignore[union-attr]
    assert json.loads(row["result_urls"]) == shop.rig.kie.addresses(shop.rig.kie.tasks[made["taskId"]])
    await shop.rig.prove(made["generationId"])
    picture = await shop.opened(shown["displayUrl"])
    assert (picture.status_code, picture.headers["content-type"]) == (200, mime)


async def test_a_callback_is_told_step_by_step_in_the_log(shop: Shop) -> None:
    # No poll follows within two seconds of the first: what is found sooner came by callback.
    shop.rig.kie.orders.append({"life": 1.0, "results": (MediaSpec(size=40_000), MediaSpec(ext="webp", size=9_000))})
    made = await shop.create(PICTURE)
    await shop.ended(made["generationId"])

    def lines(event: str) -> list[dict[str, Any]]:
        return [line for line in shop.replica.said(event) if line.get("task_id") == made["taskId"]]

    (received,), (parsed,) = lines("callback.received"), lines("callback.parsed")
    assert (received["bytes"] > 0, parsed["addresses"]) == (True, 2)
    assert [line["bytes"] for line in lines("asset.downloaded")] == [40_000, 9_000]
    stored = [line["path"] for line in lines("asset.stored")]
    assert stored == [f"{USER}/image/{made['generationId']}_0.png", f"{USER}/image/{made['generationId']}_1.webp"]
    (delivered,) = lines("generation.delivered")
    assert (delivered["trigger"], delivered["assets"]) == ("callback", 2)
    assert all(line["took"] >= 0 for line in (received, *lines("asset.stored"), delivered))


async def test_sync_alone_delivers_where_no_callback_comes_through(shop: Shop) -> None:
    await shop.line.refuse()
    shop.rig.kie.orders.append({"life": 0.0})
    made = await shop.create(PICTURE)
    answer = await shop.http.get("/api/kie/sync", params={"taskId": made["taskId"], "wait": 30})
    assert answer.status_code == 200, answer.text
    row = await shop.row(made["generationId"])
    assert (answer.json()["status"], answer.json()["assetUrl"]) == ("success", row["asset_url"])
    assert answer.json()["resultUrls"] == json.loads(row["result_urls"])
    assert shop.rig.kie.counts.acknowledged == 0
    await shop.rig.prove(made["generationId"])


async def test_polling_delivers_where_no_callback_comes_through_and_nobody_asks(shop: Shop) -> None:
    await shop.line.refuse()
    shop.rig.kie.orders.append({"life": 1.0})
    made = await shop.create(PICTURE)
    await shop.rig.delivered([made["generationId"]])
    assert shop.rig.kie.counts.acknowledged == 0


async def test_a_task_whose_answer_is_lost_is_made_once_and_delivered(shop: Shop) -> None:
    shop.rig.kie.orders.append({"life": 1.0})
    shop.rig.kie.strike("create.lost")
    body = {**PICTURE, "input": {"prompt": "a lens"}}
    answer = await shop.http.post("/api/kie/createTask", json=body)
    assert (answer.status_code, answer.json()["error"]) == (504, "outcome_unknown")
    generation_id = answer.json()["generationId"]
    await shop.rig.delivered([generation_id])
    assert shop.rig.kie.counts.creates == 1
    assert (await shop.row(generation_id))["task_id"] in shop.rig.kie.tasks
