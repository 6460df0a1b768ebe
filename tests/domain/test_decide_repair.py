"""What storage has lost of a delivery: it is fetched once more, and called lost only when that cannot be."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.domain.decide import REPAIR_TRIES, decide
from reconciler.domain.eligibility import repairing
from reconciler.domain.model import Done, Failed, NotPolled, Policy, Poll, Reschedule, Row, Unreachable
from reconciler.domain.object_keys import Kind, object_key
from tests.domain.worlds import NOW, OURS, row_in_flight

LIMITS = Policy(timedelta(hours=24))
REFUSED = Failed("the task was deleted", "500")
LONG_AGO = NOW - timedelta(days=60)


def broken(misses: int = 0) -> Row:
    """A delivered row whose object was found missing, of a task that ended long ago."""
    return row_in_flight(
        status="success",
        reopened=True,
        asset_url=OURS,
        failures=misses,
        created_at=LONG_AGO,
        completed_at=LONG_AGO,
    )


def test_what_kie_refuses_to_give_again_is_lost_and_the_row_stays_a_success() -> None:
    decision = decide(broken(), REFUSED, NOW, LIMITS)
    assert isinstance(decision, Done)
    assert decision.lost


def test_whoever_only_observes_calls_nothing_lost() -> None:
    decision = decide(broken(), REFUSED, NOW, replace(LIMITS, observe=True))
    assert decision == Reschedule(NOW + timedelta(hours=1), NOW + timedelta(hours=1), decision.reason)


def test_however_old_its_media_a_few_misses_are_no_loss() -> None:
    decisions = [decide(broken(misses), Unreachable("away"), NOW, LIMITS) for misses in (1, REPAIR_TRIES)]
    assert [isinstance(one, Done) and one.lost for one in decisions] == [False, True]


@pytest.mark.parametrize(
    "generation_id", ["8f9c1c6e-2f0b-4c39-9d1b-6a1a0f9d2b11", "41", "gen:1", "_", "a/b c", "яблоко"]
)
def test_whatever_its_id_looks_like_it_is_known_by_its_path_and_repaired(generation_id: str) -> None:
    path = object_key(user_id=None, kind=Kind.IMAGE, generation_id=generation_id, n=0, ext="png")
    row = replace(broken(), id=generation_id, asset_url=f"https://shop.example/storage/{path}")
    assert repairing(row)
    assert decide(row, NotPolled(), NOW, LIMITS) == Poll()
    assert not repairing(replace(row, id="another"))
