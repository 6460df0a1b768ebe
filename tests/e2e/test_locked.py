"""The daemon works while another session locks the application's table, its rows, or what its refund hook needs.

It needs no DDL, holds no lock that others wait for, and delivers every row that is not locked.
"""

from __future__ import annotations

import asyncpg
import pytest

from testkit.stage import Rig
from testkit.waiting import until

FORBIDDEN = """
CREATE FUNCTION public.refuse() RETURNS event_trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'no DDL is expected here'; END $$;
CREATE EVENT TRIGGER refused ON ddl_command_start EXECUTE FUNCTION public.refuse();
"""


@pytest.mark.soak
async def test_it_starts_and_delivers_beside_a_dump_without_any_ddl(rig: Rig) -> None:
    """F24: the locks of a dump block nothing, since the daemon makes and drops nothing."""
    await rig.pool.execute(FORBIDDEN)
    dump = await asyncpg.connect(rig.dsn)
    async with dump.transaction(isolation="repeatable_read", readonly=True):
        await dump.fetch("SELECT * FROM public.generations")
        replica = await rig.run()
        await rig.delivered([await rig.order() for _ in range(3)])
        assert [line for line in replica.log if "no DDL" in str(line)] == []
    await dump.close()


@pytest.mark.soak
async def test_a_locked_table_is_waited_for_and_no_session_waits_for_the_daemon(rig: Rig) -> None:
    """F24: even an exclusive lock costs only time, at the start as well."""
    ids = [await rig.order() for _ in range(3)]
    holder = await asyncpg.connect(rig.dsn)
    async with holder.transaction():
        await holder.execute("LOCK TABLE public.generations IN ACCESS EXCLUSIVE MODE")
        replica = await rig.begin()
        await replica.port()
        waiting = """SELECT mode FROM pg_locks WHERE NOT granted AND relation = 'public.generations'::regclass"""
        modes = await until(lambda: holder.fetch(waiting), 20, "a session that waits for the table")
        assert {row["mode"] for row in modes} <= {"AccessShareLock", "RowShareLock", "RowExclusiveLock"}
        assert replica.running
    await holder.close()
    await rig.delivered(ids, within=30)


REFUNDS = """
CREATE TABLE public.wallet (left_over int);
INSERT INTO public.wallet VALUES (0);
CREATE TABLE public.refunds (generation_id uuid);
CREATE OR REPLACE FUNCTION reconciler.on_failed(generation_id uuid, reason text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE public.wallet SET left_over = left_over + 1;
    INSERT INTO public.refunds VALUES (generation_id);
END
$$;
"""
RESTING = "SELECT count(*) FROM reconciler.work WHERE locked_write IS NOT NULL"


async def all_locked(rig: Rig, count: int) -> None:
    """Wait until so many rows have found their lock taken."""

    async def enough() -> bool:
        found: int = await rig.pool.fetchval(RESTING)
        return found == count

    await until(enough, 40, f"{count} rows that wait for a lock")


async def connections(rig: Rig) -> int:
    count: int = await rig.pool.fetchval(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'kie-reconciler'"
    )
    return count


async def test_forty_rows_that_the_application_locks_delay_no_other_delivery(rig: Rig) -> None:
    """N1: rows that are held FOR UPDATE, longer than a lease."""
    locked = [await rig.order() for _ in range(40)]
    holder = await asyncpg.connect(rig.dsn)
    async with holder.transaction():
        await holder.execute("SELECT FROM public.generations FOR UPDATE")
        replica = await rig.run(RECONCILER_CONCURRENCY="64")
        await all_locked(rig, 40)
        for _ in range(4):
            await rig.delivered([await rig.order() for _ in range(3)])
            assert await connections(rig) <= 15
    await holder.close()
    await rig.delivered(locked, within=60)
    assert replica.said("lease.lost") == []


@pytest.mark.sample(1)
@pytest.mark.parametrize("count", [15, 80])
async def test_refunds_behind_one_locked_wallet_delay_no_other_delivery_and_are_made_once(rig: Rig, count: int) -> None:
    """N1: a refund hook that waits for one row of the application, longer than a lease."""
    await rig.pool.execute(REFUNDS)
    refused = [await rig.order(fate="fail") for _ in range(count)]
    holder = await asyncpg.connect(rig.dsn)
    async with holder.transaction():
        await holder.execute("SELECT FROM public.wallet FOR UPDATE")
        replica = await rig.run(RECONCILER_CONCURRENCY="64")
        await all_locked(rig, count)
        for _ in range(4):
            await rig.delivered([await rig.order() for _ in range(3)])
            assert await connections(rig) <= 15
        assert await rig.pool.fetchval("SELECT count(*) FROM public.refunds") == 0
    await holder.close()

    async def all_failed() -> bool:
        failed: int = await rig.pool.fetchval("SELECT count(*) FROM public.generations WHERE status = 'failed'")
        return failed == count

    await until(all_failed, 60, "every failure")
    rows = await rig.pool.fetch("SELECT generation_id::text AS id FROM public.refunds")
    assert sorted(row["id"] for row in rows) == sorted(refused)
    assert await rig.pool.fetchval("SELECT left_over FROM public.wallet") == count
    assert replica.said("lease.lost") == []
