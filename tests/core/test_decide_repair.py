"""What storage has lost of a delivery: it is fetched once more, and called lost only when that cannot be."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from reconciler.core.decide import REPAIR_TRIES, decide
from reconciler.core.model import Leave, Limits, Refused, Rest, Row, Unheard
from tests.core.worlds import NOW, OURS, row_in_flight

LIMITS = Limits(timedelta(hours=24))
REFUSED = Refused("the task was deleted", "500")
LONG_AGO = NOW - timedelta(days=60)


def broken(misses: int = 0) -> Row:
    """A delivered row whose object was found missing, of a task that ended long ago."""
    return row_in_flight(
        status="success",
        reopened=True,
        asset_url=OURS,
        misses=misses,
        created_at=LONG_AGO,
        completed_at=LONG_AGO,
    )


def test_what_kie_refuses_to_give_again_is_lost_and_the_row_stays_a_success() -> None:
    decision = decide(broken(), REFUSED, NOW, LIMITS)
    assert isinstance(decision, Leave)
    assert decision.lost


def test_whoever_only_observes_calls_nothing_lost() -> None:
    decision = decide(broken(), REFUSED, NOW, replace(LIMITS, observe=True))
    assert decision == Rest(NOW + timedelta(hours=1), NOW + timedelta(hours=1), decision.why)


def test_however_old_its_media_a_few_misses_are_no_loss() -> None:
    decisions = [decide(broken(misses), Unheard("away"), NOW, LIMITS) for misses in (1, REPAIR_TRIES)]
    assert [isinstance(one, Leave) and one.lost for one in decisions] == [False, True]
