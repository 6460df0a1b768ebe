"""F3: a real pooler before the database, in both modes; hosted databases give a pooler's address first."""

from __future__ import annotations

import asyncpg
import pytest

from testkit.stage import Rig
from testkit.standins.pooler import pooler
from testkit.waiting import until


async def test_through_a_pooler_in_transaction_mode_all_is_delivered_and_a_finding_says_so(rig: Rig) -> None:
    before = [await rig.order() for _ in range(5)]
    async with pooler(rig.dsn, mode="transaction") as address:
        replica = await rig.run(DATABASE_URL=address)
        await rig.delivered(before)
        await rig.delivered([await rig.order() for _ in range(5)])
        await until(lambda: replica.said("listener.deaf"), what="a word that nothing is heard")

        await until(
            lambda: [line for line in replica.said("finding.open") if line["finding"] == "transaction_pooler"],
            within=30,
            what="the finding transaction_pooler",
        )
        assert await replica.figure("notifications_total") == 0
        await replica.kill()


async def test_through_a_pooler_in_session_mode_a_new_row_is_heard(rig: Rig) -> None:
    async with pooler(rig.dsn, mode="session") as address:
        replica = await rig.run(DATABASE_URL=address, RECONCILER_SWEEP_SECONDS="600")
        await until(lambda: replica.said("listener.connected"), what="a listener")
        # Once something was delivered, the sweep that comes with a new listener is over.
        await rig.delivered([await rig.order()])
        await rig.delivered([await rig.order(), await rig.order()])
        await replica.delivers(1, trigger="notify")
        await replica.kill()


@pytest.mark.soak
async def test_through_a_pooler_in_transaction_mode_a_locked_row_holds_no_connection(rig: Rig) -> None:
    """N1: the short wait for a lock is a part of the statement, so that it holds for it and for nothing after it."""
    locked = [await rig.order() for _ in range(30)]
    holder = await asyncpg.connect(rig.dsn)
    async with holder.transaction(), pooler(rig.dsn, mode="transaction") as address:
        await holder.execute("SELECT FROM public.generations FOR UPDATE")
        replica = await rig.run(DATABASE_URL=address)
        await until(lambda: len(replica.said("row.locked")) >= 5, within=30, what="locks that are not given")
        await rig.delivered([await rig.order() for _ in range(3)])
        await replica.kill()
    await holder.close()
    await rig.run()
    await rig.delivered(locked, within=60)
