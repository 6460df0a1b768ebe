"""The wakes of a worker: in order, the requested ones first, each generation once."""

from __future__ import annotations

from reconciler.domain.model import Trigger
from reconciler.worker.wakes import BATCH, Wakes


def test_the_oldest_and_the_newest_announced_generation_take_turns() -> None:
    wakes = Wakes(few=9)
    for n in range(6):
        wakes.add(str(n), Trigger.NOTIFY)
    assert list(wakes.take(3)) == ["0", "5", "1"]
    assert list(wakes.take(9)) == ["2", "4", "3"]


def test_of_many_announced_generations_the_older_ones_are_taken_by_batches_and_the_newest_wait_for_places() -> None:
    wakes = Wakes(few=4)
    for n in range(BATCH + 9):
        wakes.add(str(n), Trigger.NOTIFY)
        wakes.add("0", Trigger.NOTIFY)
    assert list(wakes.take(0)) == [str(n) for n in range(BATCH)]
    newest = str(BATCH + 8)
    assert list(wakes.take(2)) == [str(BATCH), newest, *(str(BATCH + n) for n in range(1, 5))]
    assert wakes.take(0) == {}
    assert list(wakes.take(9)) == [str(BATCH + n) for n in (5, 7, 6)]


def test_few_announced_generations_wait_for_places() -> None:
    wakes = Wakes(few=4)
    for n in range(4):
        wakes.add(str(n), Trigger.NOTIFY)
    assert wakes.take(0) == {}
    assert list(wakes.take(3)) == ["0", "3", "1"]


def test_requested_generations_are_taken_before_thousands_of_announced_ones_and_never_beyond_the_places() -> None:
    wakes = Wakes(few=4)
    for n in range(3000):
        wakes.add(f"announced-{n}", Trigger.NOTIFY)
    for n in range(3):
        wakes.add(f"requested-{n}", Trigger.CALLBACK)
    assert list(wakes.take(2))[:3] == ["requested-0", "requested-1", "announced-0"]
    assert "requested-2" not in wakes.take(0)
    assert next(iter(wakes.take(1))) == "requested-2"


def test_a_notification_takes_back_no_request() -> None:
    wakes = Wakes(few=4)
    wakes.add("row", Trigger.NOTIFY)
    wakes.add("row", Trigger.SYNC)
    wakes.add("row", Trigger.NOTIFY)
    assert wakes.take(1) == {"row": Trigger.SYNC}


def test_wakes_that_are_put_back_are_the_oldest_again() -> None:
    wakes = Wakes(few=4)
    for name in ("first", "second"):
        wakes.add(name, Trigger.NOTIFY)
    taken = wakes.take(2)
    wakes.add("third", Trigger.NOTIFY)
    wakes.put_back(taken)
    assert list(wakes.take(2)) == ["first", "third"]
    assert list(wakes.take(1)) == ["second"]


def test_only_what_may_be_taken_counts_as_waiting() -> None:
    wakes = Wakes(few=1)
    wakes.add("row", Trigger.CALLBACK)
    wakes.add("other", Trigger.NOTIFY)
    assert (wakes.any(0), wakes.any(1)) == (False, True)
    wakes.add("further", Trigger.NOTIFY)
    assert wakes.any(0)
