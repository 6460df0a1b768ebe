"""A visit asks what is known of the database's clock before it ends a row for its age."""

from __future__ import annotations

from datetime import timedelta

from reconciler.domain.model import Fail, Reschedule
from reconciler.postgres.clock import TRUSTED_AFTER
from reconciler.simulator import never
from tests.worker.rig import Rig


async def test_n4_a_row_that_is_a_day_old_is_given_up_at_the_second_look_minutes_after_the_first(rig: Rig) -> None:
    await rig.pool.execute("UPDATE reconciler.clock SET steady_at = NULL")
    generation_id = await rig.order(life=never("waiting"), age=25 * 3600)
    async with rig.instance() as built:
        first = await rig.visit(built, generation_id)
        assert isinstance(first.decision, Reschedule)
        # As if this process had looked for the first time so long ago.
        built.ledger.clock._steady_since -= TRUSTED_AFTER
        second = await rig.visit(built, generation_id)
        assert isinstance(second.decision, Fail)
        assert second.end == "gave_up"


async def test_n4_a_step_that_another_process_has_seen_counts_here_too(rig: Rig) -> None:
    generation_id = await rig.order(life=never("waiting"), age=25 * 3600)
    await rig.pool.execute("UPDATE reconciler.clock SET stepped_at = now() - interval '1 minute'")
    async with rig.instance() as built:
        built.ledger.clock._vouched = True
        visited = await rig.visit(built, generation_id)
        assert isinstance(visited.decision, Reschedule)
        stepped_at = built.ledger.clock.stepped_at
        assert stepped_at is not None
        assert timedelta() < visited.at - stepped_at < timedelta(minutes=3)
