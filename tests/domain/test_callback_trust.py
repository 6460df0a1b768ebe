"""When a callback's payload counts, and when KIE's own word is waited for."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from reconciler.domain.callback_trust import believed
from reconciler.domain.model import (
    Deliver,
    Fail,
    Finish,
    Leave,
    Limits,
    Observation,
    Ready,
    Refused,
    Rest,
    Row,
    Told,
    Unheard,
    Unknown,
    Unstored,
    Working,
)
from tests.domain.worlds import NOW, THEIRS, after, always, row_in_flight, stored, visit

SAID = Ready((THEIRS,), took=timedelta(seconds=9))
AWAY = Unheard("timeout")
DEAF_TWICE = {"misses": 2}


@pytest.mark.parametrize(
    ("facts", "seen", "counts"),
    [
        ({"misses": 0}, AWAY, False),
        ({"misses": 1}, AWAY, False),
        ({"misses": 2}, AWAY, True),
        ({"misses": 2, "unknowns": 1}, AWAY, False),
        ({"misses": 0}, Unheard("unauthorized"), True),
        ({"misses": 0}, Unheard("key_missing"), True),
        ({"misses": 9}, Unheard("unknown_state", "paused"), False),
        ({"misses": 9}, Unheard("bad_result"), False),
        ({"misses": 9}, Unheard("failed_without_record"), False),
        ({"misses": 2}, Unheard("rate_limited"), True),
        ({"misses": 9}, Unheard("rate_limited", asked=False), False),
    ],
)
def test_a_payload_counts_at_the_third_look_in_a_row_that_found_kie_away_or_when_the_key_is_rejected(
    facts: dict[str, int], seen: Unheard, counts: bool
) -> None:
    told = believed(row_in_flight(**facts), seen, [SAID], keys=1)

    assert told == (Told(SAID, seen) if counts else seen)


@pytest.mark.parametrize(
    ("facts", "counts"), [({}, False), ({"unknowns": 1}, True), ({"acknowledged_at": NOW}, True), ({"misses": 2}, True)]
)
def test_a_rejected_key_tells_nothing_where_another_one_may_have_made_the_task(
    facts: dict[str, Any], counts: bool
) -> None:
    rejected = Unheard("unauthorized")

    told = believed(row_in_flight(**{"acknowledged_at": None, **facts}), rejected, [SAID], keys=2)

    assert told == (Told(SAID, rejected) if counts else rejected)


@pytest.mark.parametrize(
    "claims",
    [
        [],
        [Working("generating")],
        [Refused("prohibited", "400")],
        [Ready(())],
        [Unheard("callback_unreadable")],
        [SAID, Refused("prohibited", "400")],
        [SAID, Ready((f"{THEIRS}?another",))],
    ],
    ids=["none", "working", "a failure", "no results", "unreadable", "success and failure", "two successes"],
)
def test_nothing_but_a_success_that_all_agree_on_is_believed(claims: list[Observation]) -> None:
    assert believed(row_in_flight(**DEAF_TWICE), AWAY, claims, keys=1) == AWAY


def test_steps_on_the_way_and_repeated_callbacks_do_not_contradict_a_success() -> None:
    claims = [SAID, Working("first"), replace(SAID, took=None), Unheard("callback_unreadable")]

    assert believed(row_in_flight(**DEAF_TWICE), AWAY, claims, keys=1) == Told(SAID, AWAY)


def told_row(**facts: object) -> tuple[Row, object]:
    return after(row_in_flight(**(DEAF_TWICE | facts)), Told(SAID, AWAY))


def test_a_believed_payload_is_delivered_and_says_so_and_stays_a_miss() -> None:
    row, decision = told_row()

    assert isinstance(decision, Deliver)
    assert row.sources == (THEIRS,)
    assert row.why == "KIE: timeout; a callback of the task says success"
    assert (row.misses, row.looks, row.acknowledged_at, row.answered_at) == (3, 2, None, None)
    assert isinstance(after(row, stored(1))[1], Finish)


def test_addresses_that_only_a_callback_told_are_asked_about_again_before_the_next_delivery() -> None:
    row, _ = told_row()
    row, decision = after(row, Unstored((), "fetch", "host_unlisted", settled=True))
    assert isinstance(decision, Rest)

    truth = ("https://file.aiquickdraw.com/true.png",)
    steps = list(visit(row, always(Ready(truth), stored(1)), NOW, Limits()))

    assert isinstance(steps[-1][2], Finish)
    assert steps[-1][0].sources == truth


@pytest.mark.parametrize(
    ("facts", "limits", "kind"),
    [
        ({"status": "failed", "gave_up": True}, Limits(), Deliver),
        ({"status": "success"}, Limits(), Deliver),
        ({"status": "failed", "reopened": True}, Limits(), Rest),
        ({"status": "failed"}, Limits(), Leave),
        ({"status": "cancelled"}, Limits(), Leave),
        ({}, Limits(observe=True), Rest),
    ],
)
def test_a_payload_moves_no_row_that_needs_kies_own_word(facts: dict[str, object], limits: Limits, kind: type) -> None:
    assert isinstance(after(row_in_flight(**(DEAF_TWICE | facts)), Told(SAID, AWAY), limits=limits)[1], kind)


def test_a_success_without_output_that_only_a_callback_told_is_nothing() -> None:
    row = row_in_flight(created_at=NOW - timedelta(hours=25), empties=4, misses=4)
    nothing, decision = after(row, Told(Ready(()), AWAY))

    assert (nothing, decision) == after(row, AWAY)
    assert not isinstance(decision, Fail)


def test_that_kie_does_not_know_the_task_is_no_sign_that_it_is_away() -> None:
    row, _ = after(row_in_flight(), Unknown("no_data"), Unknown("no_data"))

    assert believed(row, AWAY, [SAID], keys=1) == AWAY
