"""docs/MIGRATING.md, word for word on the shop's own table: every command and statement of the page, in its order."""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest

from reconciler.simulator import Simulator
from testkit.commands import run
from testkit.replica import Replica
from testkit.shop_table import YEARS, made_shop, shop_insert, shop_webhook
from testkit.stage import Rig, staged
from testkit.waiting import until

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "MIGRATING.md").read_text()
BLOCKS = re.findall(r"^```(sh|sql)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
EFFECTS = "SELECT effect FROM public.generation_effects WHERE generation_id::text = $1"


pytestmark = pytest.mark.soak


@pytest.fixture(params=YEARS)
async def shop(empty_dsn: str, kie: Simulator, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    await made_shop(empty_dsn, request.param)
    async with staged(empty_dsn, kie, tmp_path) as stage:
        stage.folder.mkdir()
        yield stage


def commands() -> list[tuple[Literal["sh", "sql"], str]]:
    """Every command and every block of SQL, in the page's order."""
    return [
        (language, line) for language, text in BLOCKS for line in (text.splitlines() if language == "sh" else [text])
    ]


async def status_of(shop: Rig, generation_id: str) -> tuple[str, str | None]:
    row = await shop.pool.fetchrow(
        "SELECT status, asset_url FROM public.generations WHERE id::text = $1", generation_id
    )
    return row["status"], row["asset_url"]


async def test_the_page_leads_a_shop_to_the_daemon_and_back(shop: Rig) -> None:
    missed = await shop_insert(shop.pool, shop.kie.add_task())
    await shop_webhook(shop.pool, (await task_of(shop, missed)), "https://tempfile.aiquickdraw.com/a.png", asset=False)
    waiting = await shop_insert(shop.pool, shop.kie.add_task())
    refused = await shop_insert(shop.pool, shop.kie.add_task(fate="fail"))
    daemon: Replica | None = None
    observed = False
    for language, text in commands():
        if language == "sql":
            await shop.pool.execute(text)
        elif text == "kie-reconciler run --observe":
            observer = await shop.run("--observe")
            await until(lambda: _polled(shop), within=30, what="a poll of every task")
            assert await status_of(shop, waiting) == ("generating", None)
            observer.signal(signal.SIGTERM)
            await observer.ended(30)
            observed = True
        elif text == "kie-reconciler run":
            assert observed
            daemon = await shop.run()
            await delivered(shop, waiting)
        else:
            name, *words = text.split()
            assert name == "kie-reconciler"
            ran = await run(*words, folder=shop.folder, environment=shop.environment())
            # doctor may have something to say of a stage; 2 would be a wrong command.
            assert ran.code in ((0, 1) if words[0] in ("doctor", "stuck") else (0,)), (text, ran)
    await delivered(shop, missed)
    assert (await status_of(shop, refused))[0] == "failed"
    assert daemon is not None

    async def told() -> bool:
        return [row["effect"] for row in await shop.pool.fetch(EFFECTS, waiting)] == ["delivered"]

    await until(told, within=20, what="the hook of the delivery")
    assert [row["effect"] for row in await shop.pool.fetch(EFFECTS, refused)] == ["failed"]

    # Going back: without the daemon the shop's own webhook ends a row as before.
    daemon.signal(signal.SIGTERM)
    await daemon.ended(30)
    later = await shop_insert(shop.pool, shop.kie.add_task())
    await shop_webhook(shop.pool, await task_of(shop, later), "https://cdn.shop.example/a.png", asset=True)
    assert await status_of(shop, later) == ("success", "https://cdn.shop.example/a.png")


async def task_of(shop: Rig, generation_id: str) -> str:
    task_id: str = await shop.pool.fetchval("SELECT task_id FROM public.generations WHERE id::text = $1", generation_id)
    return task_id


def _polled(shop: Rig) -> bool:
    return all(task.polls for task in list(shop.kie.tasks.values())[1:])


async def delivered(shop: Rig, generation_id: str) -> None:
    async def stored() -> bool:
        status, address = await status_of(shop, generation_id)
        return status == "success" and (address or "").startswith("http://127.0.0.1:9/files/")

    await until(stored, within=60, what="a delivery into our storage")
