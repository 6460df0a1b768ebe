"""What another user could write into a table with open policies: it harms only that user's rows."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from reconciler.bootstrap import Parts
from reconciler.domain.model import Trigger
from tests.wire import ok, origin
from tests.worker.rig import Rig

STRANGER = "0b7d3c1e-5a42-4f0e-9f5d-3a8f5a0c9e11"
STATUSES = ("queued", "generating", "success", "failed", "cancelled")


async def versioned(rig: Rig, generation_id: str) -> Mapping[str, Any]:
    """The row with PostgreSQL's version of it."""
    sql = "SELECT g.*, xmin::text AS version FROM public.generations g WHERE id::text = $1"
    return dict(await rig.pool.fetchrow(sql, generation_id))


async def write(rig: Rig, generation_id: str, **columns: object) -> None:
    """Change a row as its owner would."""
    places = ", ".join(f"{name} = ${n}" for n, name in enumerate(columns, 2))
    await rig.pool.execute(
        f"UPDATE public.generations SET {places} WHERE id::text = $1", generation_id, *columns.values()
    )


async def test_a_row_with_anothers_task_changes_nothing_of_the_others(rig: Rig, parts: Parts) -> None:
    victims = await rig.order()
    await rig.visit(parts, victims)
    before = await versioned(rig, victims)
    strangers = await rig.insert(before["task_id"], user_id=STRANGER)
    await rig.visit(parts, strangers)
    await write(rig, strangers, status="cancelled", asset_url="https://evil.example/x.png")
    await rig.pool.execute("DELETE FROM public.generations WHERE id::text = $1", strangers)
    await parts.worker.once(strangers, Trigger.POLL)
    assert await versioned(rig, victims) == before
    await rig.proves(victims)
    assert rig.kie.counts.creates == 0


async def test_addresses_in_a_row_are_never_fetched(rig: Rig, parts: Parts) -> None:
    async with origin(ok(b"\x89PNG\r\n\x1a\n" + bytes(5000))) as trap:
        evil = f"http://localhost:{trap.port}/latest/meta-data/"
        columns = {"result_urls": f'["{evil}"]', "asset_url": evil, "preview_url": evil}
        known = {name: value for name, value in columns.items() if await has(rig, name)}
        for status in ("queued", "success"):
            generation_id = await rig.order(status=status)
            await write(rig, generation_id, **known)
            await rig.visit(parts, generation_id)
            await rig.proves(generation_id)
    assert trap.connections == 0


async def has(rig: Rig, column: str) -> bool:
    sql = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'generations' AND column_name = $1"
    return bool(await rig.pool.fetchval(sql, column))


async def test_huge_and_odd_texts_keep_no_good_row_waiting(rig: Rig) -> None:
    huge = "x\u202e\n" * 400_000
    for columns in ({"prompt": huge}, {"model_key": huge}, {"error": huge}, {"kind": huge[:100_000]}):
        await rig.insert("no-such-task", user_id=STRANGER, **columns)
    for task_id in (huge[:2_000], "x" * 8_000, "../../x", "a b\n", "\u202e", "' OR 1=1 --", "%00"):
        await rig.insert(task_id, user_id=STRANGER)
    strangers = [row["id"] for row in await rig.pool.fetch("SELECT id::text FROM public.generations")]
    good = await rig.order()
    async with rig.instance() as built, rig.working(built):
        for generation_id in (*strangers, good):
            built.worker.wake(generation_id)
        await rig.delivered(good, within=15)
    await rig.proves(good)
    statuses = await rig.pool.fetch("SELECT DISTINCT status FROM public.generations WHERE user_id::text = $1", STRANGER)
    assert [row["status"] for row in statuses] == ["queued"]


async def test_changing_the_status_of_an_own_row_moves_no_other_row_and_orders_nothing(rig: Rig) -> None:
    dice = random.Random(7)
    own = [await rig.order() for _ in range(6)]
    await rig.pool.execute("UPDATE public.generations SET user_id = $1", STRANGER)
    done = await rig.order()
    async with rig.instance() as built, rig.working(built):
        built.worker.wake(done)
        await rig.delivered(done)
        before = await versioned(rig, done)
        for _ in range(60):
            row, status = dice.choice(own), dice.choice(STATUSES)
            await write(rig, row, status=status, asset_url=dice.choice([None, "", "https://evil.example/x"]))
            built.worker.wake(row)
        good = await rig.order()
        built.worker.wake(good)
        await rig.delivered(good)
        for row in own:
            await write(rig, row, status="queued", asset_url=None)
            built.worker.wake(row)
            await rig.delivered(row)
    assert await versioned(rig, done) == before
    for row in (good, *own):
        await rig.proves(row)
    assert rig.kie.counts.creates == 0
