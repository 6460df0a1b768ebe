"""A database or storage that is away is waited for; the daemon says why it waits, and goes on by itself."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reconciler.demo.embedded_postgres import Postgres
from reconciler.postgres.migrations.migrate import migrate
from reconciler.simulator import Simulator
from testkit.replica import Replica
from testkit.stage import Rig, staged
from testkit.standins.proxy import Proxy
from testkit.standins.storage import SupabaseStorage
from testkit.waiting import until

ENDS = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
           WHERE datname = current_database() AND application_name = $1"""


@pytest.fixture
async def own(own_postgres: Postgres, kie: Simulator, tmp_path: Path) -> AsyncIterator[Rig]:
    """A stage on a server that may be stopped."""
    await migrate(own_postgres.dsn(), application=True)
    async with staged(own_postgres.dsn(), kie, tmp_path, SupabaseStorage()) as rig:
        yield rig


async def unready(replica: Replica, why: str) -> None:
    """Wait until /readyz is 503 for this reason."""

    async def told() -> bool:
        response = await replica.get("/readyz")
        return response.status_code == 503 and why in str(response.json()["reason"])

    await until(told, 30, f"/readyz to say {why!r}")
    assert (await replica.get("/healthz")).status_code == 200


async def test_a_database_restarted_under_it_is_found_again_and_heard_again(own: Rig, own_postgres: Postgres) -> None:
    replica = await own.run()
    patient = await own.run(RECONCILER_SWEEP_SECONDS="600", RECONCILER_LEASE_SECONDS="600")
    await own.delivered([await own.order() for _ in range(3)])
    waiting = [await own.order(life=30.0) for _ in range(10)]
    own_postgres.stop(immediate=True)
    await unready(replica, "the database is away")
    own_postgres.restart()
    await replica.ready()
    for task in own.kie.tasks.values():
        own.kie.end(task.id)
    await own.delivered(waiting)

    async def hears() -> bool:
        return await patient.figure("listener_connected") == 1 and len(patient.said("listener.connected")) == 2

    await until(hears, what="a listener that hears again")
    await replica.kill()
    await own.delivered([await own.order() for _ in range(3)])
    assert patient.running


@pytest.mark.soak
async def test_a_database_that_is_away_at_the_start_is_waited_for(own: Rig, own_postgres: Postgres) -> None:
    ids = [await own.order() for _ in range(3)]
    own_postgres.stop(immediate=True)
    replica = await own.begin()
    await unready(replica, "the database is away")
    assert await replica.figure("database_up") == 0
    own_postgres.restart()
    await replica.ready()
    await own.delivered(ids)


@pytest.mark.soak
async def test_a_full_pooler_is_waited_for_at_the_start_and_later(rig: Rig) -> None:
    async with Proxy(rig.dsn) as pooler:
        pooler.fill()
        replica = await rig.begin(DATABASE_URL=pooler.dsn)
        await unready(replica, "the pooler has no free place")
        await unready(replica, "MaxClientsInSessionMode: max clients reached (FATAL XX000)")
        pooler.mend()
        await replica.ready()
        pooler.fill()
        before = pooler.turned_away
        await rig.pool.execute(ENDS, "kie-reconciler")
        await until(lambda: pooler.turned_away > before + 2, what="that it tries again")
        pooler.mend()
        await rig.delivered([await rig.order() for _ in range(3)])
        assert replica.running


@pytest.mark.soak
async def test_storage_that_is_away_at_the_start_is_waited_for(rig: Rig) -> None:
    assert rig.storage is not None
    ids = [await rig.order() for _ in range(3)]
    await rig.storage.stop()
    replica = await rig.begin()
    await unready(replica, "storage")
    assert await replica.figure("database_up") == 1, "who is on call would look at the wrong one"
    await rig.storage.__aenter__()
    await replica.ready()
    await rig.delivered(ids)


@pytest.mark.soak
async def test_storage_that_goes_away_in_the_middle_costs_only_time(rig: Rig) -> None:
    assert rig.storage is not None
    replica = await rig.run()
    await rig.storage.stop()
    ids = [await rig.order() for _ in range(5)]

    async def tried() -> bool:
        return await replica.figure("attempt_failures_total", stage="store") > 0

    await until(tried, what="an attempt to store")
    await rig.storage.__aenter__()
    await rig.delivered(ids, within=30)


@pytest.mark.soak
async def test_with_the_database_gone_a_stop_ends_within_the_drain_time(own: Rig, own_postgres: Postgres) -> None:
    replica = await own.run(RECONCILER_DRAIN_SECONDS="5")
    own.kie.strike("file.hang", times=5)
    for _ in range(5):
        await own.order()
    await own.struck("file.hang", 5)
    own_postgres.stop(immediate=True)
    replica.signal(signal.SIGTERM)
    assert (await replica.ended(within=5 + 3)).code == 0
