"""When the content of callbacks is trusted, and when the daemon waits for KIE's record."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from reconciler.domain.callback_trust import FAILED_FOR, trusted_result
from reconciler.domain.model import Deliver, Done, Fail, Finish, Policy, Reschedule, Row
from reconciler.domain.observations import (
    CallbackResult,
    DeliveryFailed,
    Failed,
    Observation,
    TaskUnknown,
    Unreachable,
    Working,
)
from testkit.answers import ready
from tests.domain.worlds import NOW, THEIRS, after, always, row_in_flight, stored, visit

RESULT = ready((THEIRS,), duration=timedelta(seconds=9))
TIMEOUT = Unreachable("timeout")
FAILING = {"failing_since": NOW - FAILED_FOR}
TWO_FAILED_POLLS = {"failures": 2, **FAILING}


@pytest.mark.parametrize(
    ("facts", "observation", "trusted"),
    [
        ({"failures": 0}, TIMEOUT, False),
        ({"failures": 1}, TIMEOUT, False),
        ({"failures": 2}, TIMEOUT, True),
        ({"failures": 2, "unknowns": 1}, TIMEOUT, False),
        ({"failures": 0}, Unreachable("unauthorized"), True),
        ({"failures": 0}, Unreachable("key_missing"), True),
        ({"failures": 9}, Unreachable("unknown_state", "paused"), False),
        ({"failures": 9}, Unreachable("bad_result"), False),
        ({"failures": 9}, Unreachable("failed_without_record"), False),
        ({"failures": 2}, Unreachable("rate_limited"), True),
        ({"failures": 9}, Unreachable("rate_limited", request_sent=False), False),
    ],
)
def test_callbacks_are_trusted_after_three_failed_polls_in_a_row_or_when_the_key_is_rejected(
    facts: dict[str, int], observation: Unreachable, trusted: bool
) -> None:
    result = trusted_result(row_in_flight(**FAILING, **facts), observation, [RESULT], key_count=1, now=NOW)

    assert result == (CallbackResult(RESULT, observation) if trusted else observation)


@pytest.mark.parametrize("since", [None, NOW, NOW - FAILED_FOR + timedelta(seconds=1)])
def test_requested_polls_that_fail_at_once_do_not_hurry_the_trust(since: datetime | None) -> None:
    row = row_in_flight(failures=9, failing_since=since)

    assert trusted_result(row, TIMEOUT, [RESULT], key_count=1, now=NOW) == TIMEOUT


@pytest.mark.parametrize(
    ("facts", "trusted"),
    [({}, False), ({"unknowns": 1}, True), ({"acknowledged_at": NOW}, True), ({"failures": 2}, True)],
)
def test_a_rejected_key_does_not_count_while_another_one_may_have_made_the_task(
    facts: dict[str, Any], trusted: bool
) -> None:
    rejected = Unreachable("unauthorized")

    result = trusted_result(
        row_in_flight(**{"acknowledged_at": None, **FAILING, **facts}), rejected, [RESULT], key_count=2, now=NOW
    )

    assert result == (CallbackResult(RESULT, rejected) if trusted else rejected)


@pytest.mark.parametrize(("silent_for", "trusted"), [(9.9, False), (10.0, True)])
def test_where_kies_page_answers_nobody_for_ten_seconds_the_polls_of_other_rows_count(
    silent_for: float, trusted: bool
) -> None:
    not_asked = Unreachable("path_silent", request_sent=False, silent_for=silent_for)

    result = trusted_result(row_in_flight(), not_asked, [RESULT], key_count=2, now=NOW)

    assert result == (CallbackResult(RESULT, not_asked) if trusted else not_asked)


@pytest.mark.parametrize(
    "callbacks",
    [
        [],
        [Working("generating")],
        [Failed("prohibited", "400")],
        [ready(())],
        [Unreachable("callback_unreadable")],
        [RESULT, Failed("prohibited", "400")],
        [RESULT, ready((f"{THEIRS}?another",))],
    ],
    ids=["none", "working", "a failure", "no results", "unreadable", "success and failure", "two successes"],
)
def test_only_a_success_that_all_callbacks_agree_on_is_trusted(callbacks: list[Observation]) -> None:
    assert trusted_result(row_in_flight(**TWO_FAILED_POLLS), TIMEOUT, callbacks, key_count=1, now=NOW) == TIMEOUT


def test_steps_on_the_way_and_repeated_callbacks_do_not_contradict_a_success() -> None:
    callbacks = [RESULT, Working("first"), replace(RESULT, duration=None), Unreachable("callback_unreadable")]

    assert trusted_result(
        row_in_flight(**TWO_FAILED_POLLS), TIMEOUT, callbacks, key_count=1, now=NOW
    ) == CallbackResult(RESULT, TIMEOUT)


def row_with_callback_result(**facts: object) -> tuple[Row, object]:
    return after(row_in_flight(**(TWO_FAILED_POLLS | facts)), CallbackResult(RESULT, TIMEOUT))


def test_a_trusted_callback_is_delivered_with_a_reason_and_still_counts_as_a_failed_poll() -> None:
    row, decision = row_with_callback_result()

    assert isinstance(decision, Deliver)
    assert row.sources == (THEIRS,)
    assert row.reason == "KIE: timeout; a callback of the task says success"
    assert (row.failures, row.polls, row.acknowledged_at, row.answered_at) == (3, 2, None, None)
    assert isinstance(after(row, stored(0))[1], Finish)


def test_addresses_from_a_callback_are_requested_from_kie_before_the_next_delivery() -> None:
    row, _ = row_with_callback_result()
    row, decision = after(row, DeliveryFailed((), "fetch", "host_unlisted", permanent=True))
    assert isinstance(decision, Reschedule)

    true_sources = ("https://file.aiquickdraw.com/true.png",)
    steps = list(visit(row, always(ready(true_sources), stored(0)), NOW, Policy()))

    assert isinstance(steps[-1][2], Finish)
    assert steps[-1][0].sources == true_sources


def test_a_result_that_only_a_callback_names_is_dropped_when_kie_answers() -> None:
    forged = ready((THEIRS, "https://file.aiquickdraw.com/forged.png"))
    row, _ = after(row_in_flight(**TWO_FAILED_POLLS), CallbackResult(forged, TIMEOUT))
    assert len(row.results) == 2

    row, _ = after(row, ready((THEIRS,)))

    assert row.results == ready((THEIRS,)).results


@pytest.mark.parametrize(
    ("facts", "policy", "kind"),
    [
        ({"status": "failed", "gave_up": True}, Policy(), Deliver),
        ({"status": "success"}, Policy(), Deliver),
        ({"status": "failed", "reopened": True}, Policy(), Reschedule),
        ({"status": "failed"}, Policy(), Done),
        ({"status": "cancelled"}, Policy(), Done),
        ({}, Policy(observe=True), Reschedule),
    ],
)
def test_a_callback_does_not_move_a_row_that_needs_kies_record(
    facts: dict[str, object], policy: Policy, kind: type
) -> None:
    assert isinstance(
        after(row_in_flight(**(TWO_FAILED_POLLS | facts)), CallbackResult(RESULT, TIMEOUT), policy=policy)[1], kind
    )


def test_a_callback_that_reports_success_without_output_has_no_effect() -> None:
    row = row_in_flight(created_at=NOW - timedelta(hours=25), empties=4, failures=4)
    unchanged, decision = after(row, CallbackResult(ready(()), TIMEOUT))

    assert (unchanged, decision) == after(row, TIMEOUT)
    assert not isinstance(decision, Fail)


def test_an_unknown_task_is_no_sign_that_kie_is_unreachable() -> None:
    row, _ = after(row_in_flight(), TaskUnknown("no_data"), TaskUnknown("no_data"))

    assert trusted_result(row, TIMEOUT, [RESULT], key_count=1, now=NOW) == TIMEOUT
