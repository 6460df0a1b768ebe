"""Law four, "not heard is not failed": which observations keep a row in flight, which end it, when we give up."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from reconciler.domain.model import OPEN, Deliver, Done, Fail, Finish, Poll, Reschedule, Row
from reconciler.domain.observations import (
    DeliveryFailed,
    Failed,
    NotPolled,
    Observation,
    TaskUnknown,
    Unreachable,
    Working,
)
from testkit.answers import ready
from tests.domain.worlds import (
    NO_JITTER,
    NOW,
    OURS,
    THEIRS,
    after,
    always,
    row_after_write,
    row_in_flight,
    stored,
    visit,
    wait,
)

NO_ANSWER = [
    Unreachable("timeout"),
    Unreachable("network"),
    Unreachable("unauthorized", "401"),
    Unreachable("no_credits", "402"),
    Unreachable("forbidden", "403"),
    TaskUnknown("http_404"),
    Unreachable("http_408"),
    TaskUnknown("recordInfo is null"),
    Unreachable("rate_limited", "429", retry_after=7),
    Unreachable("key_capped", "433"),
    Unreachable("maintenance", "455"),
    Unreachable("http_5xx"),
    TaskUnknown("null_data"),
    Unreachable("not_json"),
    Unreachable("unknown_state", "paused"),
]
HOUR = timedelta(hours=1)
FETCHED_IN_VAIN = {"sources": (THEIRS,), "failures": 4, "failing_since": NOW - HOUR}


def old(age: timedelta, **facts: object) -> Row:
    """Return a row in flight of this age, whose task KIE knows and answered about half an hour ago."""
    known = {"created_at": NOW - age, "acknowledged_at": NOW - age, "answered_at": NOW - HOUR / 2}
    return row_in_flight(**(known | facts))


@pytest.mark.parametrize("observation", NO_ANSWER, ids=lambda observation: observation.reason)
@pytest.mark.parametrize("status", OPEN)
def test_an_observation_without_an_answer_fails_no_row_and_its_reason_is_saved(
    observation: Unreachable | TaskUnknown, status: str
):
    row, decision = after(row_in_flight(status=status), observation)

    assert isinstance(decision, Reschedule)
    assert observation.reason in decision.reason
    assert not decision.set_generating
    assert row.failures == 1
    assert row.answered_at is None
    assert row.acknowledged_at is None


@pytest.mark.parametrize("observation", NO_ANSWER, ids=lambda observation: observation.reason)
def test_each_failed_poll_lengthens_the_wait_up_to_fifteen_minutes(observation: Unreachable | TaskUnknown):
    waits = [wait(after(row_in_flight(failures=failures), observation)[1]) for failures in range(12)]

    assert waits == sorted(waits)
    assert waits[0] < timedelta(seconds=10)
    assert timedelta(minutes=5) < waits[-1] <= timedelta(minutes=15)


def test_an_answer_of_the_provider_restores_the_poll_interval():
    row, _ = after(row_in_flight(created_at=NOW - timedelta(minutes=1)), *[Unreachable("timeout")] * 9)
    row, decision = after(row, Working("generating"))

    assert row.failures == 0
    assert wait(decision) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("observation", "reason"),
    [
        (Failed("prohibited content", "400"), "prohibited content (400)"),
        (Failed("The generation task failed."), "The generation task failed."),
    ],
)
def test_a_failure_reported_by_the_provider_fails_the_row_with_its_reason(observation: Failed, reason: str):
    assert after(row_in_flight(), observation)[1] == Fail(reason)


@pytest.mark.parametrize(
    ("fact", "observation", "fails"),
    [
        ({}, Unreachable("http_5xx"), True),
        ({}, TaskUnknown("null_data"), True),
        ({}, Working("waiting"), True),
        ({"created_at": NOW - timedelta(hours=23)}, Unreachable("http_5xx"), False),
        ({"created_at": NOW - timedelta(hours=23)}, Working("waiting"), False),
        ({"answered_at": NOW - timedelta(minutes=61)}, Unreachable("unauthorized"), False),
        ({"answered_at": NOW - timedelta(minutes=61)}, Working("waiting"), True),
        ({"answered_at": None, "acknowledged_at": None}, TaskUnknown("recordInfo is null"), False),
        ({"answered_at": None, "acknowledged_at": None}, Unreachable("unauthorized"), False),
        ({"status": "success"}, Unreachable("http_5xx"), False),
        (FETCHED_IN_VAIN, DeliveryFailed((), "fetch", "timeout"), True),
        (FETCHED_IN_VAIN, DeliveryFailed((), "fetch", "http_404", gone=True, permanent=True), True),
        (FETCHED_IN_VAIN | {"failures": 3}, DeliveryFailed((), "fetch", "timeout"), False),
        (FETCHED_IN_VAIN | {"failing_since": NOW - timedelta(minutes=9)}, DeliveryFailed((), "fetch", "empty"), False),
        (FETCHED_IN_VAIN, DeliveryFailed((), "fetch", "too_large", permanent=True), False),
        (FETCHED_IN_VAIN, DeliveryFailed((), "fetch", "type_refused", permanent=True), False),
        (FETCHED_IN_VAIN, DeliveryFailed((), "fetch", "host_unlisted", permanent=True), False),
        (FETCHED_IN_VAIN, DeliveryFailed((), "fetch", "spool_full"), False),
        (FETCHED_IN_VAIN, DeliveryFailed((), "store", "timeout"), False),
        (FETCHED_IN_VAIN, DeliveryFailed((), "store", "bucket_refuses_type", permanent=True), False),
        (FETCHED_IN_VAIN, DeliveryFailed((), "prove", "proof_failed"), False),
        (FETCHED_IN_VAIN, Unreachable("http_5xx"), False),
    ],
)
def test_only_a_task_that_kie_knows_and_answers_about_is_given_up(
    fact: dict[str, object], observation: Observation, fails: bool
):
    _, decision = after(old(timedelta(hours=25), **fact), observation)

    if fails:
        assert isinstance(decision, Fail)
        assert decision.reason.startswith("gave up after 24 h")
        assert decision.recheck_at is not None, "a task that we gave up is polled again"
    else:
        assert isinstance(decision, Reschedule)


def test_a_row_that_may_not_be_given_up_is_parked_with_a_finding_and_polled_more_and_more_slowly():
    waits = []
    for days in (1.1, 4, 13):
        _, decision = after(old(timedelta(days=days), acknowledged_at=None), TaskUnknown("null_data"))
        assert isinstance(decision, Reschedule)
        assert decision.finding == "parked"
        waits.append(wait(decision))

    assert waits == sorted(waits)
    assert waits[0] >= timedelta(minutes=30)
    assert waits[-1] == timedelta(hours=6)


def test_a_parked_row_is_done_when_its_media_has_expired():
    _, decision = after(old(timedelta(days=14, hours=1), acknowledged_at=None), TaskUnknown("null_data"))

    assert isinstance(decision, Done)


@pytest.mark.parametrize("observation", [Working("generating"), TaskUnknown("null_data"), Unreachable("timeout")])
@pytest.mark.parametrize("age", [timedelta(hours=25), timedelta(days=15)])
def test_an_old_row_with_a_new_task_is_treated_like_a_new_row(observation: Observation, age: timedelta):
    new, again = row_in_flight(created_at=NOW - HOUR), row_in_flight(created_at=NOW - age, task_since=NOW - HOUR)

    assert after(again, observation)[1] == after(new, observation)[1]


@pytest.mark.parametrize("since", [NOW - timedelta(days=30), NOW - timedelta(hours=25)])
def test_a_task_past_give_up_after_is_given_up_whenever_the_row_got_it(since: datetime):
    _, decision = after(old(timedelta(hours=25), task_since=since), Working("generating"))

    assert isinstance(decision, Fail)


def test_the_first_poll_of_a_new_task_of_an_old_row_waits_like_that_of_a_new_row():
    busy = replace(NO_JITTER, spare_request=False)
    new = row_in_flight(created_at=NOW, polls=0)
    again = row_in_flight(created_at=NOW - HOUR, task_since=NOW, polls=0)

    assert after(again, NotPolled(), policy=busy)[1] == after(new, NotPolled(), policy=busy)[1] != Poll()


def test_a_result_that_comes_after_we_gave_up_is_delivered():
    row, decision = after(old(25 * HOUR), Unreachable("http_5xx"))
    row, recheck_at = row_after_write(row, decision)
    assert recheck_at is not None
    assert (row.status, row.gave_up) == ("failed", True)

    *_, (row, _, decision) = visit(row, always(ready((THEIRS,)), stored(0)), recheck_at, NO_JITTER)

    assert isinstance(decision, Finish)


def test_a_row_given_up_is_polled_slowly_while_kie_works_and_done_when_kie_refuses():
    gave_up = old(25 * HOUR, status="failed", gave_up=True)

    assert wait(after(gave_up, Working("generating"))[1]) >= timedelta(minutes=30)
    assert isinstance(after(gave_up, Failed("prohibited"))[1], Done)
    dead = old(timedelta(days=15), status="failed", gave_up=True)
    assert isinstance(after(dead, Working("generating"))[1], Done)


@pytest.mark.parametrize("status", ["cancelled", "archived", "failed"])
def test_rows_that_the_daemon_may_not_move_do_not_change_even_if_kie_has_their_result(status: str):
    assert isinstance(after(row_in_flight(status=status), ready((THEIRS,)))[1], Done)


@pytest.mark.parametrize("asset_url", [None, "", THEIRS])
def test_a_success_without_a_stored_asset_is_delivered(asset_url: str | None):
    claimed = row_in_flight(status="success", asset_url=asset_url)

    assert isinstance(after(claimed, NotPolled())[1], Poll)
    assert isinstance(after(claimed, ready((THEIRS,)))[1], Deliver)
    assert isinstance(after(claimed, ready((THEIRS,)), stored(0))[1], Finish)


def test_a_success_with_a_stored_asset_does_not_change():
    assert isinstance(after(row_in_flight(status="success", asset_url=OURS), NotPolled())[1], Done)


def test_after_a_retry_only_kies_success_changes_a_refused_row():
    reopened = row_in_flight(status="failed", reopened=True)

    assert isinstance(after(reopened, NotPolled())[1], Poll)
    assert isinstance(after(reopened, Failed("prohibited"))[1], Done)
    assert isinstance(after(reopened, Unreachable("timeout"))[1], Reschedule)
    assert isinstance(after(reopened, ready((THEIRS,)))[1], Deliver)
