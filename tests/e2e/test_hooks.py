"""The application is told of every delivery once, whatever becomes of the daemons and of its own function meanwhile."""

from __future__ import annotations

import signal

import pytest

from testkit.stage import Rig
from testkit.waiting import until

TABLE = "CREATE TABLE public.told (generation_id uuid, task_id text)"
HOOK = """
CREATE OR REPLACE FUNCTION reconciler.on_delivered(generation uuid, task text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.told VALUES (generation, task);
    {more}
END
$$
"""


async def told(rig: Rig) -> list[str]:
    return [row[0] for row in await rig.pool.fetch("SELECT generation_id::text FROM public.told")]


async def define(rig: Rig, more: str = "") -> None:
    await rig.pool.execute(HOOK.format(more=more))


async def tried(rig: Rig, count: int) -> None:
    """Wait until so many calls have failed."""
    sql = "SELECT count(*) = $1 FROM reconciler.hook_calls WHERE tries > 0 AND done_at IS NULL"
    await until(lambda: rig.pool.fetchval(sql, count), what=f"{count} calls that failed")


@pytest.mark.soak
async def test_deliveries_are_told_once_although_the_hook_throws_and_a_replica_is_killed(rig: Rig) -> None:
    """The hook is created while two replicas run, then broken, then mended after one was killed and one restarted."""
    await rig.pool.execute(TABLE)
    first, second = await rig.run(), await rig.run()
    before = [await rig.order() for _ in range(2)]
    await rig.delivered(before)
    await define(rig)
    working = [await rig.order() for _ in range(4)]
    await rig.delivered(working)
    await until(lambda: all_told(rig, working), what="the first calls")
    await define(rig, "RAISE EXCEPTION 'the ledger is closed';")
    broken = [await rig.order() for _ in range(4)]
    await rig.delivered(broken)
    await tried(rig, 4)
    await first.kill()
    second.signal(signal.SIGTERM)
    await second.ended(within=30)
    assert sorted(await told(rig)) == sorted(working)
    third = await rig.run()
    await rig.pool.execute("UPDATE reconciler.hook_calls SET due_at = now() WHERE done_at IS NULL")
    await until(lambda: third.said("hook.failed"), what="a word about it in the log")
    await define(rig)
    await rig.pool.execute("UPDATE reconciler.hook_calls SET due_at = now() WHERE done_at IS NULL")
    await until(lambda: all_told(rig, [*working, *broken]), what="the calls that failed before")
    assert sorted(await told(rig)) == sorted([*working, *broken])


async def all_told(rig: Rig, ids: list[str]) -> bool:
    return set(await told(rig)) >= set(ids)


async def test_a_hook_that_hangs_delays_no_delivery(rig: Rig) -> None:
    await rig.pool.execute(TABLE)
    await define(rig, "PERFORM pg_sleep(3600);")
    await rig.run()
    hanging = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active'"
        "   AND query LIKE '%FROM reconciler.on_delivered(%'"
    )
    await rig.delivered([await rig.order()])
    await until(lambda: rig.pool.fetchval(hanging), what="a call that hangs")
    await rig.delivered([await rig.order() for _ in range(8)])
    assert await told(rig) == []
