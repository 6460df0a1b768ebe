"""The daemon works while another session locks the application's table: no DDL, and no lock that others wait for."""

from __future__ import annotations

import asyncpg

from testkit.stage import Rig
from testkit.waiting import until

FORBIDDEN = """
CREATE FUNCTION public.refuse() RETURNS event_trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'no DDL is expected here'; END $$;
CREATE EVENT TRIGGER refused ON ddl_command_start EXECUTE FUNCTION public.refuse();
"""


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
