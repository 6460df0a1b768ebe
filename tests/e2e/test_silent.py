"""A database that accepts connections and still fails: a listener that hears nothing, a server that takes no writes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from reconciler.demo.embedded_postgres import Postgres
from reconciler.postgres.listener import CHANNEL
from reconciler.postgres.migrations.migrate import migrate
from reconciler.simulator import Simulator
from testkit.stage import Rig, staged
from testkit.standins.proxy import PIECE, Proxy
from testkit.standins.storage import SupabaseStorage
from testkit.waiting import until

pytestmark = pytest.mark.soak

NOTIFICATION = b"A"
"""What PostgreSQL's message of a notification begins with."""


class Deafening(Proxy):
    """Loses a notification on request, and from then on everything on that line; no other line is touched."""

    deafening = False

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        deaf = False
        with contextlib.suppress(OSError):
            while piece := await source.read(PIECE):
                deaf = deaf or (self.deafening and piece.startswith(NOTIFICATION) and CHANNEL.encode() in piece)
                if not deaf:
                    target.write(piece)
                    await target.drain()
        target.transport.abort()


async def test_a_deaf_listener_costs_a_sweep_is_reported_and_reconnects_within_thirty_seconds(rig: Rig) -> None:
    """F1: a half-open socket; the daemon's own times, 10 s between canaries and 5 s of patience."""
    async with Deafening(rig.dsn) as line:
        replica = await rig.run(DATABASE_URL=line.dsn, RECONCILER_SWEEP_SECONDS="5")

        async def connected() -> bool:
            return await replica.figure("listener_connected") == 1

        async def deaf() -> bool:
            return not await connected()

        async def heard() -> bool:
            return await replica.figure("notifications_total") > 0

        await until(connected, what="a first canary")
        line.deafening = True
        await rig.delivered([await rig.order()], within=10)
        assert await replica.delivers(1, trigger="sweep") == 1
        assert not await heard()
        await until(deaf, 20, "a listener that knows that it is deaf")
        line.deafening = False
        await until(connected, 10, "a listener that hears again")
        assert len(replica.said("listener.connected")) >= 2
        await rig.delivered([await rig.order()])
        # Not that the notification delivers it: a line built anew sweeps at once, and may be at the row before it.
        await until(heard, what="a notification on the new line")


@pytest.fixture
async def own(own_postgres: Postgres, kie: Simulator, tmp_path: Path) -> AsyncIterator[Rig]:
    """A stage on a server that may be stopped."""
    await migrate(own_postgres.dsn(), application=True)
    async with staged(own_postgres.dsn(), kie, tmp_path, SupabaseStorage()) as rig:
        yield rig


@pytest.mark.parametrize("began", ["before", "after"])
async def test_a_standby_is_waited_for_until_it_is_promoted(own: Rig, own_postgres: Postgres, began: str) -> None:
    """F2: a server that takes no writes, met in the middle or at the start."""
    replica = await (own.run if began == "before" else own.begin)()
    waiting = [await own.order(life=60.0) for _ in range(5)]
    own_postgres.stop()
    (own_postgres.folder / "data" / "standby.signal").touch()
    own_postgres.restart()
    if began == "after":
        await replica.kill()
        replica = await own.begin()

    async def waits() -> bool:
        return "the database takes no writes" in str(await replica.reason())

    await until(waits, 20, "a replica that says what it waits for")
    promoter = await asyncpg.connect(own_postgres.dsn())
    assert await promoter.fetchval("SELECT pg_promote()")
    await promoter.close()
    await replica.ready()
    for task_id in own.kie.tasks:
        own.kie.end(task_id)
    await own.delivered(waiting)

    async def hears() -> bool:
        return await replica.figure("listener_connected") == 1

    await until(hears, what="a listener that hears")


async def test_the_notification_queue_is_emptied_as_it_fills(rig: Rig) -> None:
    """F4: a listener that sat in a transaction would keep every page of the queue."""
    replica = await rig.run()
    await until(lambda: replica.said("listener.connected"), what="a listener")
    long = '{"id": null, "of": "' + "x" * 7000 + '"}'
    for _ in range(20):
        await rig.pool.execute("SELECT pg_notify($1, $2 || n) FROM generate_series(1, 50) n", CHANNEL, long)
    usage = "SELECT pg_notification_queue_usage()"

    async def emptied() -> bool:
        return bool(await rig.pool.fetchval(usage) == 0)

    await until(emptied, 5, "an empty queue")
    sessions = "SELECT backend_xmin, xact_start FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = $1"
    listening = await rig.pool.fetch(sessions, rig.dsn.rpartition("/")[2])
    assert [tuple(session) for session in listening] == [(None, None)]
