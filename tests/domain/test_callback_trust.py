"""When a callback's payload counts, and when KIE's own word is waited for."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from reconciler.domain.callback_trust import believed
from reconciler.domain.model import (
    CallbackResult,
    Deliver,
    DeliveryFailed,
    Done,
    Fail,
    Failed,
    Finish,
    Observation,
    Policy,
    Ready,
    Reschedule,
    Row,
    TaskUnknown,
    Unreachable,
    Working,
)
from tests.domain.worlds import NOW, THEIRS, after, always, row_in_flight, stored, visit

SAID = Ready((THEIRS,), duration=timedelta(seconds=9))
AWAY = Unreachable("timeout")
DEAF_TWICE = {"failures": 2}


@pytest.mark.parametrize(
    ("facts", "seen", "counts"),
    [
        ({"failures": 0}, AWAY, False),
        ({"failures": 1}, AWAY, False),
        ({"failures": 2}, AWAY, True),
        ({"failures": 2, "unknowns": 1}, AWAY, False),
        ({"failures": 0}, Unreachable("unauthorized"), True),
        ({"failures": 0}, Unreachable("key_missing"), True),
        ({"failures": 9}, Unreachable("unknown_state", "paused"), False),
        ({"failures": 9}, Unreachable("bad_result"), False),
        ({"failures": 9}, Unreachable("failed_without_record"), False),
        ({"failures": 2}, Unreachable("rate_limited"), True),
        ({"failures": 9}, Unreachable("rate_limited", asked=False), False),
    ],
)
def test_a_payload_counts_at_the_third_look_in_a_row_that_found_kie_away_or_when_the_key_is_rejected(
    facts: dict[str, int], seen: Unreachable, counts: bool
) -> None:
    told = believed(row_in_flight(**facts), seen, [SAID], keys=1)

    assert told == (CallbackResult(SAID, seen) if counts else seen)


@pytest.mark.parametrize(
    ("facts", "counts"),
    [({}, False), ({"unknowns": 1}, True), ({"acknowledged_at": NOW}, True), ({"failures": 2}, True)],
)
def test_a_rejected_key_tells_nothing_where_another_one_may_have_made_the_task(
    facts: dict[str, Any], counts: bool
) -> None:
    rejected = Unreachable("unauthorized")

    told = believed(row_in_flight(**{"acknowledged_at": None, **facts}), rejected, [SAID], keys=2)

    assert told == (CallbackResult(SAID, rejected) if counts else rejected)


@pytest.mark.parametrize(
    "claims",
    [
        [],
        [Working("generating")],
        [Failed("prohibited", "400")],
        [Ready(())],
        [Unreachable("callback_unreadable")],
        [SAID, Failed("prohibited", "400")],
        [SAID, Ready((f"{THEIRS}?another",))],
    ],
    ids=["none", "working", "a failure", "no results", "unreadable", "success and failure", "two successes"],
)
def test_nothing_but_a_success_that_all_agree_on_is_believed(claims: list[Observation]) -> None:
    assert believed(row_in_flight(**DEAF_TWICE), AWAY, claims, keys=1) == AWAY


def test_steps_on_the_way_and_repeated_callbacks_do_not_contradict_a_success() -> None:
    claims = [SAID, Working("first"), replace(SAID, duration=None), Unreachable("callback_unreadable")]

    assert believed(row_in_flight(**DEAF_TWICE), AWAY, claims, keys=1) == CallbackResult(SAID, AWAY)


def told_row(**facts: object) -> tuple[Row, object]:
    return after(row_in_flight(**(DEAF_TWICE | facts)), CallbackResult(SAID, AWAY))


def test_a_believed_payload_is_delivered_and_says_so_and_stays_a_miss() -> None:
    row, decision = told_row()

    assert isinstance(decision, Deliver)
    assert row.sources == (THEIRS,)
    assert row.reason == "KIE: timeout; a callback of the task says success"
    assert (row.failures, row.polls, row.acknowledged_at, row.answered_at) == (3, 2, None, None)
    assert isinstance(after(row, stored(1))[1], Finish)


def test_addresses_that_only_a_callback_told_are_asked_about_again_before_the_next_delivery() -> None:
    row, _ = told_row()
    row, decision = after(row, DeliveryFailed((), "fetch", "host_unlisted", settled=True))
    assert isinstance(decision, Reschedule)

    truth = ("https://file.aiquickdraw.com/true.png",)
    steps = list(visit(row, always(Ready(truth), stored(1)), NOW, Policy()))

    assert isinstance(steps[-1][2], Finish)
    assert steps[-1][0].sources == truth


@pytest.mark.parametrize(
    ("facts", "limits", "kind"),
    [
        ({"status": "failed", "gave_up": True}, Policy(), Deliver),
        ({"status": "success"}, Policy(), Deliver),
        ({"status": "failed", "reopened": True}, Policy(), Reschedule),
        ({"status": "failed"}, Policy(), Done),
        ({"status": "cancelled"}, Policy(), Done),
        ({}, Policy(observe=True), Reschedule),
    ],
)
def test_a_payload_moves_no_row_that_needs_kies_own_word(facts: dict[str, object], limits: Policy, kind: type) -> None:
    assert isinstance(after(row_in_flight(**(DEAF_TWICE | facts)), CallbackResult(SAID, AWAY), limits=limits)[1], kind)


def test_a_success_without_output_that_only_a_callback_told_is_nothing() -> None:
    row = row_in_flight(created_at=NOW - timedelta(hours=25), empties=4, failures=4)
    nothing, decision = after(row, CallbackResult(Ready(()), AWAY))

    assert (nothing, decision) == after(row, AWAY)
    assert not isinstance(decision, Fail)


def test_that_kie_does_not_know_the_task_is_no_sign_that_it_is_away() -> None:
    row, _ = after(row_in_flight(), TaskUnknown("no_data"), TaskUnknown("no_data"))

    assert believed(row, AWAY, [SAID], keys=1) == AWAY
