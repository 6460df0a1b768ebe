"""The breaker of a silent host or path: opened by silence of different rows only, closed by any byte."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from hypothesis import given
from hypothesis import strategies as st

from reconciler.worker.capacity import breakers as module
from reconciler.worker.capacity.breaker import SILENT_ROWS, TRIAL_SECONDS, Breaker
from reconciler.worker.capacity.breakers import Breakers, TargetSilent

ROWS = ("a", "b", "c", "d")


def opened(at: float = 20.0) -> Breaker:
    breaker = Breaker()
    assert [breaker.silent(row, 5.0, at) for row in ROWS[:SILENT_ROWS]] == [False, False, True]
    return breaker


class Time:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened_for(host: str, clock: Time) -> Breakers:
    breakers = Breakers("host_silent", "host", clock=clock)
    for attempt in [breakers.attempt(host, row) for row in ROWS[:SILENT_ROWS]]:
        clock.now += 1
        attempt.silent()
    assert breakers.is_open(host)
    return breakers


def test_three_different_rows_without_a_byte_open_it() -> None:
    assert opened().is_open


def test_one_bad_row_never_opens_it() -> None:
    breaker = Breaker()
    for n in range(100):
        assert not breaker.silent("a", float(n), n + 1.0)
    assert breaker.admits("b", 200.0)


def test_one_byte_between_begins_the_count_anew() -> None:
    breaker = Breaker()
    breaker.silent("a", 1.0, 2.0)
    breaker.silent("b", 1.0, 2.0)
    breaker.heard(3.0)
    assert not breaker.silent("c", 4.0, 5.0)
    assert not breaker.silent("d", 4.0, 5.0)


def test_silence_that_began_before_the_last_byte_does_not_count() -> None:
    breaker = Breaker()
    breaker.heard(10.0)
    assert [breaker.silent(row, 9.0, 24.0) for row in ROWS] == [False] * 4
    assert not breaker.is_open


def test_while_it_is_open_one_row_goes_through_every_five_seconds() -> None:
    breaker = opened(20.0)
    admitted = [at for at in range(20, 41) if breaker.admits(f"row {at}", float(at))]
    assert admitted == [25, 30, 35, 40]


def test_the_trial_row_may_go_on_with_its_other_requests() -> None:
    breaker = opened(20.0)
    assert breaker.admits("d", 25.0)
    assert breaker.admits("d", 26.0)
    assert not breaker.admits("a", 26.0)


def test_a_trial_that_got_no_byte_ends_the_right_of_its_row() -> None:
    breaker = opened(20.0)
    assert breaker.admits("d", 25.0)
    breaker.silent("d", 25.0, 27.0)
    assert not breaker.admits("d", 27.0)
    assert breaker.is_open


def test_any_byte_closes_it() -> None:
    breaker = opened(20.0)
    assert breaker.heard(50.0) == 30.0
    assert all(breaker.admits(row, 50.0) for row in ROWS)


@given(st.lists(st.tuples(st.sampled_from(ROWS), st.booleans(), st.floats(0, 20))))
def test_it_is_open_only_if_three_different_rows_in_a_row_got_no_byte(
    events: Sequence[tuple[str, bool, float]],
) -> None:
    breaker, now, silent = Breaker(), 0.0, set[str]()
    for step, (row, byte, after) in enumerate(events):
        began, now = now + 0.001, now + 0.002 + after
        if byte:
            breaker.heard(now)
            silent = set()
        else:
            breaker.silent(row, began, now)
            silent |= {row}
        assert breaker.is_open == (len(silent) >= SILENT_ROWS)
        trials = sum(breaker.admits(f"other {step} {n}", now + 0.001) for n in range(3))
        assert trials == 3 if not breaker.is_open else trials <= 1


def test_a_cancelled_attempt_says_nothing() -> None:
    """Our own shutdown and a lost lease cancel the request: neither method of the attempt is called."""
    breakers = Breakers("host_silent", "host")
    for row in ROWS:
        breakers.attempt("a.example", row)
    assert not breakers.is_open("a.example")


def test_a_row_that_waits_is_told_for_how_long_and_why() -> None:
    clock = Time()
    breakers = opened_for("a.example", clock)
    refusal = breakers.refusal("a.example")
    assert (refusal.code, refusal.retry_after, refusal.silent_for) == ("host_silent", TRIAL_SECONDS, 3.0)
    assert str(refusal) == "the host a.example says nothing; it is tried every 5 s"


def test_another_host_is_not_concerned() -> None:
    breakers = opened_for("a.example", Time())
    assert breakers.admits("b.example", "x")


def test_its_opening_and_its_closing_are_logged_once() -> None:
    clock = Time()
    with structlog.testing.capture_logs() as lines:
        breakers = opened_for("a.example", clock)
        clock.now += TRIAL_SECONDS
        trial = breakers.attempt("a.example", "x")
        clock.now += 1
        trial.heard()
        trial.heard()
    told = [(line["event"], line["log_level"], line["target"], line["code"]) for line in lines]
    assert told == [
        ("breaker.opened", "warning", "a.example", "host_silent"),
        ("breaker.closed", "info", "a.example", "host_silent"),
    ]


def test_hosts_without_number_take_no_memory_and_push_no_open_one_out() -> None:
    breakers = opened_for("a.example", Time())
    for n in range(3 * module._MOST_TARGETS):
        breakers.heard(f"{n}.example")
    assert len(breakers._by_target) == module._MOST_TARGETS
    assert breakers.is_open("a.example")


def test_a_backlog_of_thousands_comes_again_twenty_a_second() -> None:
    breakers = opened_for("a.example", Time())
    waits = []
    for n in range(3000):
        try:
            breakers.attempt("a.example", f"row {n}")
        except TargetSilent as silent:
            waits.append(silent.retry_after)
    assert len(waits) == 3000
    assert min(waits) == TRIAL_SECONDS  # type: ignore[type-var]
    within_a_minute = sum(wait is not None and wait <= 60 for wait in waits)
    assert 1000 <= within_a_minute <= 1200
