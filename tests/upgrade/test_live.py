"""An upgrade from 0.1.0 while generations keep coming: none is lost, none is delivered twice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from itertools import count
from typing import Self

import pytest

from reconciler.simulator import MediaSpec
from testkit import commands
from testkit.replica import Replica
from testkit.stage import Rig
from testkit.waiting import until

pytestmark = pytest.mark.soak

AFTER = ("070_former_announce.sql", "078_delete_right.sql")

RESULTS = (
    [MediaSpec()],
    [MediaSpec(ext="jpg"), MediaSpec(ext="webp")],
    [MediaSpec(kind="video", ext="mp4", size=2 << 20)],
)


class Shop:
    """An application that orders a generation every `pause` seconds while it is open."""

    def __init__(self, rig: Rig, pause: float) -> None:
        self._rig = rig
        self._pause = pause
        self._closed = asyncio.Event()
        self._kinds: Iterator[int] = count()
        self.ids: list[str] = []

    async def __aenter__(self) -> Self:
        self._orders = asyncio.create_task(self._order())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed.set()
        await self._orders

    async def _order(self) -> None:
        while not self._closed.is_set():
            self.ids.append(await self._rig.order(results=RESULTS[next(self._kinds) % len(RESULTS)], life=0.5))
            try:
                await asyncio.wait_for(self._closed.wait(), self._pause)
            except TimeoutError:
                continue


async def migrated(rig: Rig) -> commands.Ran:
    ran = await commands.run("migrate", folder=rig.folder, environment=rig.environment())
    assert ran.code == 0, ran.err
    return ran


async def delivers(replica: Replica, more: int) -> None:
    """Wait until this replica has delivered so many more."""
    before = await replica.figure("deliveries_total", outcome="delivered")

    async def enough() -> bool:
        return await replica.figure("deliveries_total", outcome="delivered") >= before + more

    await until(enough, 120, f"{more} deliveries by one replica")


@pytest.mark.parametrize(("each", "pause"), [(8, 0.1), (100, 0.05)], ids=["short", "long"])
@pytest.mark.timeout(900)
async def test_nothing_is_lost_and_nothing_delivered_twice(rig: Rig, released: str, each: int, pause: float) -> None:
    witness = await rig.witness()
    old = await rig.run(PYTHONPATH=released)
    assert old.said("daemon.started")[0]["version"] == "0.1.0"
    async with Shop(rig, pause) as shop:
        await delivers(old, each)
        ran = await migrated(rig)
        assert f"{', '.join(AFTER)} left for later, because older daemons still run: 0.1.0 on " in ran.told
        assert f"(pid {old.pid})" in ran.told
        await delivers(old, each)

        new = await rig.run()
        await asyncio.gather(delivers(old, each), delivers(new, each))
        old.signal(signal.SIGTERM)
        ended = await old.ended(within=40)
        assert (ended.code, ended.lines) == (0, [])
        await delivers(new, each)
        assert (await migrated(rig)).out == "".join(f"applied {name}\n" for name in AFTER)
        await delivers(new, each)

    await rig.delivered(shop.ids, within=120)
    told = await rig.pool.fetch("SELECT generation_id, array_agg(kind) AS kinds FROM reconciler.events GROUP BY 1")
    assert {row["generation_id"]: row["kinds"] for row in told} == {name: ["succeeded"] for name in shop.ids}
    changes = await witness.changes()
    assert sorted(change.id for change in changes if change.status == "success") == sorted(shop.ids)
    assert [change for change in changes if change.moves_an_end] == []
    assert [line for replica in (old, new) for line in replica.log if line["event"].endswith(".broke")] == []
    assert await new.figure("notifications_total") > 0
