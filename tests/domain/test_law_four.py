"""Not heard is not failed: which words leave a row in flight, which end it, and who gives up when."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from reconciler.domain.model import (
    OPEN,
    Deliver,
    DeliveryFailed,
    Done,
    Fail,
    Failed,
    Finish,
    NotPolled,
    Observation,
    Poll,
    Ready,
    Reschedule,
    Row,
    TaskUnknown,
    Unreachable,
    Working,
)
from tests.domain.worlds import CALM, NOW, OURS, THEIRS, after, always, rest, row_in_flight, stored, visit, written

NOT_HEARD = [
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


def old(age: timedelta, **facts: object) -> Row:
    """A row in flight of this age that KIE knows and has just told about."""
    known = {"created_at": NOW - age, "acknowledged_at": NOW - age, "answered_at": NOW - HOUR / 2}
    return row_in_flight(**(known | facts))


@pytest.mark.parametrize("seen", NOT_HEARD, ids=lambda seen: seen.reason)
@pytest.mark.parametrize("status", OPEN)
def test_what_was_not_heard_fails_no_row_and_its_reason_is_kept(seen: Unreachable | TaskUnknown, status: str):
    row, decision = after(row_in_flight(status=status), seen)

    assert isinstance(decision, Reschedule)
    assert seen.reason in decision.reason
    assert not decision.begun
    assert row.failures == 1
    assert row.answered_at is None
    assert row.acknowledged_at is None


@pytest.mark.parametrize("seen", NOT_HEARD, ids=lambda seen: seen.reason)
def test_each_time_nothing_is_heard_the_pace_slows_until_a_quarter_of_an_hour(seen: Unreachable | TaskUnknown):
    waits = [rest(after(row_in_flight(failures=misses), seen)[1]) for misses in range(12)]

    assert waits == sorted(waits)
    assert waits[0] < timedelta(seconds=10)
    assert timedelta(minutes=5) < waits[-1] <= timedelta(minutes=15)


def test_the_providers_answer_brings_the_pace_back():
    row, _ = after(row_in_flight(created_at=NOW - timedelta(minutes=1)), *[Unreachable("timeout")] * 9)
    row, decision = after(row, Working("generating"))

    assert row.failures == 0
    assert rest(decision) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (Failed("prohibited content", "400"), "prohibited content (400)"),
        (Failed("The generation task failed."), "The generation task failed."),
    ],
)
def test_the_providers_own_word_fails_a_row_with_its_reason(seen: Failed, reason: str):
    assert after(row_in_flight(), seen)[1] == Fail(reason)


@pytest.mark.parametrize(
    ("fact", "seen", "fails"),
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
        ({"sources": (THEIRS,), "failures": 3}, DeliveryFailed((), "store", "timeout"), False),
        ({"sources": (THEIRS,), "failures": 4}, DeliveryFailed((), "store", "timeout"), True),
    ],
)
def test_only_a_task_that_kie_knows_and_tells_about_is_given_up(
    fact: dict[str, object], seen: Observation, fails: bool
):
    _, decision = after(old(timedelta(hours=25), **fact), seen)

    if fails:
        assert isinstance(decision, Fail)
        assert decision.reason.startswith("gave up after 24 h")
        assert decision.until is not None, "our own word is looked at again"
    else:
        assert isinstance(decision, Reschedule)


def test_a_row_that_may_not_be_given_up_is_parked_with_a_finding_and_asked_ever_more_slowly():
    waits = []
    for days in (1.1, 4, 13):
        _, decision = after(old(timedelta(days=days), acknowledged_at=None), TaskUnknown("null_data"))
        assert isinstance(decision, Reschedule)
        assert decision.finding == "parked"
        waits.append(rest(decision))

    assert waits == sorted(waits)
    assert waits[0] >= timedelta(minutes=30)
    assert waits[-1] == timedelta(hours=6)


def test_a_parked_row_is_left_when_its_media_is_dead():
    _, decision = after(old(timedelta(days=14, hours=1), acknowledged_at=None), TaskUnknown("null_data"))

    assert isinstance(decision, Done)


@pytest.mark.parametrize("seen", [Working("generating"), TaskUnknown("null_data"), Unreachable("timeout")])
@pytest.mark.parametrize("age", [timedelta(hours=25), timedelta(days=15)])
def test_an_old_row_with_a_new_task_has_the_time_of_a_new_row(seen: Observation, age: timedelta):
    new, again = row_in_flight(created_at=NOW - HOUR), row_in_flight(created_at=NOW - age, task_since=NOW - HOUR)

    assert after(again, seen)[1] == after(new, seen)[1]


@pytest.mark.parametrize("since", [NOW - timedelta(days=30), NOW - timedelta(hours=25)])
def test_a_task_that_is_older_than_its_time_is_given_up_whenever_it_came(since: datetime):
    _, decision = after(old(timedelta(hours=25), task_since=since), Working("generating"))

    assert isinstance(decision, Fail)


def test_the_first_look_at_a_new_task_of_an_old_row_waits_like_one_at_a_new_row():
    busy = replace(CALM, spare=False)
    new = row_in_flight(created_at=NOW, polls=0)
    again = row_in_flight(created_at=NOW - HOUR, task_since=NOW, polls=0)

    assert after(again, NotPolled(), limits=busy)[1] == after(new, NotPolled(), limits=busy)[1] != Poll()


def test_good_news_after_a_give_up_still_delivers():
    row, decision = after(old(25 * HOUR), Unreachable("http_5xx"))
    row, until = written(row, decision)
    assert until is not None
    assert (row.status, row.gave_up) == ("failed", True)

    *_, (row, _, decision) = visit(row, always(Ready((THEIRS,)), stored(1)), until, CALM)

    assert isinstance(decision, Finish)


def test_a_row_given_up_is_asked_slowly_while_kie_works_and_left_when_kie_refuses():
    gave_up = old(25 * HOUR, status="failed", gave_up=True)

    assert rest(after(gave_up, Working("generating"))[1]) >= timedelta(minutes=30)
    assert isinstance(after(gave_up, Failed("prohibited"))[1], Done)
    dead = old(timedelta(days=15), status="failed", gave_up=True)
    assert isinstance(after(dead, Working("generating"))[1], Done)


@pytest.mark.parametrize("status", ["cancelled", "archived", "failed"])
def test_rows_that_are_not_ours_are_left_even_when_kie_has_their_result(status: str):
    assert isinstance(after(row_in_flight(status=status), Ready((THEIRS,)))[1], Done)


@pytest.mark.parametrize("asset_url", [None, "", THEIRS])
def test_a_success_without_an_asset_of_ours_is_healed(asset_url: str | None):
    claimed = row_in_flight(status="success", asset_url=asset_url)

    assert isinstance(after(claimed, NotPolled())[1], Poll)
    assert isinstance(after(claimed, Ready((THEIRS,)))[1], Deliver)
    assert isinstance(after(claimed, Ready((THEIRS,)), stored(1))[1], Finish)


def test_a_success_with_an_asset_of_ours_is_left():
    assert isinstance(after(row_in_flight(status="success", asset_url=OURS), NotPolled())[1], Done)


def test_a_refused_row_is_moved_after_retry_by_kies_success_alone():
    reopened = row_in_flight(status="failed", reopened=True)

    assert isinstance(after(reopened, NotPolled())[1], Poll)
    assert isinstance(after(reopened, Failed("prohibited"))[1], Done)
    assert isinstance(after(reopened, Unreachable("timeout"))[1], Reschedule)
    assert isinstance(after(reopened, Ready((THEIRS,)))[1], Deliver)
