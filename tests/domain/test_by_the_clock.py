"""Conclusions from repetition follow the clock: however often somebody asks, nothing is concluded earlier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.domain.absorb import absorb
from reconciler.domain.decide import decide
from reconciler.domain.ended_rows import is_extension
from reconciler.domain.model import Decision, Deliver, Done, Fail, Finish, Poll, Reschedule, Result, Row
from reconciler.domain.observations import (
    CallbackResult,
    DeliveryFailed,
    NotPolled,
    Observation,
    Ready,
    TaskUnknown,
    Unreachable,
    Unreadable,
    Working,
)
from reconciler.domain.poll_interval import CONFIRMATIONS, confirmation_wait
from testkit.answers import ready
from tests.domain.worlds import NO_JITTER, NOW, OURS, THEIRS, after, asset, row_in_flight, stored

EMPTY = ready(())
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
EMPTY_REASON = "KIE reports success without any output"
NEW = {"created_at": NOW, "polls": 0}


def looks(row: Row, observation: Observation, times: list[timedelta]) -> Iterator[tuple[timedelta, Row, Decision]]:
    """Yield the row and the decision at each of these times after NOW."""
    for since in times:
        row = absorb(row, observation, NOW + since)
        yield since, row, decide(row, observation, NOW + since, NO_JITTER)


def undisturbed(row: Row, observation: Observation) -> Iterator[tuple[timedelta, Row, Decision]]:
    """Yield what happens where nobody asks in between: each look at the time that the one before chose."""
    since = timedelta()
    while True:
        row = absorb(row, observation, NOW + since)
        decision = decide(row, observation, NOW + since, NO_JITTER)
        yield since, row, decision
        if not isinstance(decision, Reschedule):
            return
        since = decision.due_at - NOW


class TestEmptySuccess:
    def test_it_is_looked_at_again_at_growing_pauses_and_believed_after_forty_minutes(self):
        *waiting, (since, row, decision) = undisturbed(row_in_flight(**NEW), EMPTY)

        pauses = [decision.due_at - NOW - at for at, _, decision in waiting if isinstance(decision, Reschedule)]
        assert [pause.total_seconds() for pause in pauses][:9] == list(CONFIRMATIONS[:9])
        assert 40 * MINUTE <= since <= 41 * MINUTE
        assert isinstance(decision, Fail)
        assert decision.reason == EMPTY_REASON
        assert decision.recheck_at is not None, "a failure that we concluded ourselves is asked about again"
        assert row.empties >= 4

    def test_however_often_it_is_asked_about_it_is_not_failed_earlier(self):
        seconds = [timedelta(seconds=n) for n in range(40 * 60)]

        assert all(isinstance(decision, Reschedule) for _, _, decision in looks(row_in_flight(**NEW), EMPTY, seconds))

    def test_requested_looks_move_none_of_the_later_ones(self):
        requested = [timedelta(seconds=n / 2) for n in range(12)]
        *_, (_, _, decision) = looks(row_in_flight(**NEW), EMPTY, requested)

        assert isinstance(decision, Reschedule)
        assert decision.due_at == NOW + 8 * SECOND

    def test_a_daemon_that_stood_still_does_not_conclude(self):
        (*_, (_, row, decision)) = looks(row_in_flight(**NEW), EMPTY, [timedelta(), timedelta(hours=2)])

        assert isinstance(decision, Reschedule)
        assert row.empties == 2

    def test_every_look_has_the_finding(self):
        *waiting, _ = undisturbed(row_in_flight(**NEW), EMPTY)

        assert {decision.finding for _, _, decision in waiting if isinstance(decision, Reschedule)} == {"empty_success"}

    def test_an_answer_that_does_not_agree_begins_again(self):
        row, _ = after(row_in_flight(empties=9, empty_since=NOW - 50 * MINUTE), Working("generating"))
        row, decision = after(row, EMPTY)

        assert isinstance(decision, Reschedule)
        assert row.empty_since == NOW

    def test_output_that_comes_later_is_delivered_also_after_our_failure(self):
        failed = row_in_flight(status="failed", gave_up=True, empties=9, empty_since=NOW - 50 * MINUTE)

        assert isinstance(after(failed, EMPTY)[1], Reschedule)
        assert isinstance(after(failed, ready((THEIRS,)))[1], Deliver)

    def test_a_row_that_the_application_calls_a_success_is_not_failed(self):
        row = row_in_flight(status="success", empties=9, empty_since=NOW - 50 * MINUTE)

        assert isinstance(after(row, EMPTY)[1], Reschedule)

    def test_entries_without_any_address_are_an_empty_success(self):
        row = row_in_flight(empties=9, empty_since=NOW - 50 * MINUTE)

        assert isinstance(after(row, Ready((Result("#0", 0), Result("#1", 1))))[1], Fail)


HALF = Ready((Result("a", 0, (THEIRS,)), Result("b", 1)), completed_at=NOW)
WHOLE = Ready((Result("a", 0, (THEIRS,)), Result("b", 1, (f"{THEIRS}?b",))), completed_at=NOW)


def half_stored(**facts: object) -> Row:
    row, decision = after(row_in_flight(**(NEW | facts)), HALF)
    assert isinstance(decision, Deliver)
    return absorb(row, stored(0), NOW)


class TestMissingResults:
    def test_what_is_there_is_stored_while_the_rest_is_waited_for(self):
        decision = decide(half_stored(), stored(0), NOW, NO_JITTER)

        assert isinstance(decision, Reschedule)
        assert "1 of 2 results" in decision.reason

    def test_a_result_that_comes_later_completes_the_success(self):
        row, decision = after(half_stored(), WHOLE)
        assert isinstance(decision, Deliver)

        row, decision = after(row, stored(0, 1))
        assert decision == Finish()
        assert row.delivered

    def test_what_is_there_is_delivered_twenty_minutes_after_completion(self):
        *waiting, (since, row, decision) = undisturbed(half_stored(), HALF)

        assert all(isinstance(one, Reschedule) for _, _, one in waiting)
        assert 20 * MINUTE <= since <= 31 * MINUTE
        assert isinstance(decision, Finish)
        assert decision.recheck_at is not None
        assert [result.key for result in row.missing] == ["b"]

    def test_a_hole_that_is_seen_late_is_waited_for_ten_minutes(self):
        late = replace(HALF, completed_at=NOW - timedelta(hours=2))
        row = half_stored(completed_at=NOW - timedelta(hours=2), created_at=NOW - timedelta(hours=3))

        decisions = {at: one for at, _, one in looks(row, late, [9 * MINUTE, 10 * MINUTE])}

        assert isinstance(decisions[9 * MINUTE], Reschedule)
        assert isinstance(decisions[10 * MINUTE], Finish)

    @pytest.mark.parametrize("silence", [Unreachable("timeout"), TaskUnknown("no_data"), Working("generating")])
    def test_what_is_there_is_delivered_in_time_though_kie_no_longer_speaks_of_the_end(self, silence: Observation):
        row = half_stored()

        decisions = {at: one for at, _, one in looks(row, silence, [19 * MINUTE, 20 * MINUTE])}

        assert isinstance(decisions[19 * MINUTE], Reschedule)
        assert isinstance(decisions[20 * MINUTE], Finish)

    def test_nothing_is_delivered_without_a_result_that_can_still_be_stored(self):
        row = absorb(half_stored(), replace(WHOLE, results=WHOLE.results[1:]), NOW)
        assert row.unstored

        (_, _, decision) = next(looks(row, Unreachable("timeout"), [30 * MINUTE]))

        assert isinstance(decision, Reschedule)

    def test_nothing_is_shown_while_nothing_is_stored(self):
        row = row_in_flight(results=HALF.results, completed_at=NOW - MINUTE * 60, missing_since=NOW - MINUTE * 60)

        assert isinstance(after(row, stored())[1], Reschedule)

    def test_asking_often_delivers_a_part_no_earlier(self):
        seconds = [timedelta(seconds=n) for n in range(0, 20 * 60, 2)]

        assert all(isinstance(decision, Reschedule) for _, _, decision in looks(half_stored(), HALF, seconds))

    def test_an_old_address_that_is_dead_and_no_longer_given_becomes_a_hole(self):
        row, _ = after(row_in_flight(**NEW), WHOLE, HALF)
        dead = [result for result in row.results if not result.current]
        assert [result.key for result in dead] == ["b"]

        gone = DeliveryFailed(row.assets, "fetch", "http_404", n=1, gone=True, permanent=True)
        unlisted = DeliveryFailed(row.assets, "fetch", "host_unlisted", n=1, permanent=True)
        assert [result.key for result in absorb(row, gone, NOW).missing] == ["b"]
        assert [result.key for result in absorb(row, unlisted, NOW).missing] == ["b"]
        for other in (replace(gone, n=0), replace(unlisted, permanent=False), replace(gone, stage="store")):
            assert not absorb(row, other, NOW).missing


def shown_half(**facts: object) -> Row:
    """Return a row that was delivered without its second result."""
    row = half_stored()
    return replace(row, status="success", asset_url=OURS, shown=1, **facts)


class TestExtension:
    def test_a_row_that_lacks_a_result_is_asked_about_rarely(self):
        row = shown_half()
        assert is_extension(row)
        assert isinstance(after(row, NotPolled())[1], Poll)

        _, decision = after(row, HALF)
        assert isinstance(decision, Reschedule)
        assert decision.finding == "results_missing"
        assert decision.due_at - NOW >= 30 * MINUTE

    def test_a_missing_result_that_comes_is_stored_and_added(self):
        row, decision = after(shown_half(), WHOLE)
        assert isinstance(decision, Deliver)

        _, decision = after(row, stored(0, 1))
        assert decision == Finish()

    def test_one_of_two_missing_results_is_added_and_the_other_still_asked_for(self):
        third = Result("c", 2)
        row = replace(shown_half(), results=(*shown_half().results, third))
        row, _ = after(row, Ready((*WHOLE.results, third)))

        _, decision = after(row, stored(0, 1))
        assert isinstance(decision, Finish)
        assert decision.recheck_at is not None

    def test_a_result_that_was_stored_before_a_crash_is_added(self):
        row, _ = after(shown_half(), WHOLE)
        crashed = absorb(row, stored(0, 1), NOW)

        assert decide(crashed, NotPolled(), NOW, NO_JITTER) == Finish()

    def test_it_ends_when_the_media_does(self):
        row = shown_half(completed_at=NOW - timedelta(days=15))

        assert isinstance(after(row, HALF)[1], Done)

    @pytest.mark.parametrize(
        "changed",
        [
            {"asset_url": "https://cdn.shop.example/own.png"},
            {"shown": 2},
            {"shown": None},
            {"status": "cancelled"},
        ],
    )
    def test_a_row_that_shows_something_else_is_left_alone(self, changed: dict[str, object]):
        row = replace(shown_half(), **changed)

        assert not is_extension(row)
        assert isinstance(after(row, NotPolled())[1], Done)

    def test_a_repair_of_a_row_that_lacks_a_result_ends_with_what_it_showed(self):
        broken = replace(shown_half(), reopened=True, assets=(asset(0, stored=False),))
        row, decision = after(broken, HALF)
        assert isinstance(decision, Deliver)

        _, decision = after(row, stored(0))
        assert isinstance(decision, Finish)
        assert decision.recheck_at is not None


def test_a_lost_object_whose_result_kie_no_longer_gives_is_lost_once_that_was_waited_for():
    row = row_in_flight(
        status="success",
        asset_url=OURS,
        reopened=True,
        shown=2,
        results=HALF.results,
        assets=(asset(0), asset(1, stored=False)),
        completed_at=NOW - MINUTE * 60,
        missing_since=NOW - MINUTE * 60,
    )

    _, decision = after(row, HALF)

    assert isinstance(decision, Done)
    assert decision.lost


class TestUnreadableOutput:
    UNREAD = Unreadable(("resultJson.answer",))

    def test_it_is_a_finding_that_names_model_and_fields_and_the_row_stays_in_flight(self):
        row, decision = after(row_in_flight(model="elevenlabs/new"), self.UNREAD)

        assert isinstance(decision, Reschedule)
        assert decision.finding == "unreadable_output"
        assert "elevenlabs/new" in decision.reason
        assert "resultJson.answer" in decision.reason
        assert row.media_deadline is not None

    @pytest.mark.parametrize("hours", [1, 25, 300])
    def test_it_is_never_failed_or_given_up(self, hours: int):
        row = row_in_flight(created_at=NOW - timedelta(hours=hours), acknowledged_at=NOW, answered_at=NOW)

        assert isinstance(after(row, self.UNREAD)[1], Reschedule)

    @pytest.mark.parametrize("seen", [UNREAD, EMPTY], ids=["unreadable", "empty"])
    @pytest.mark.parametrize("missed", [Unreachable("http_500"), TaskUnknown("null")], ids=["unreachable", "unknown"])
    def test_a_task_that_has_ended_is_not_given_up_because_kie_cannot_be_asked_once(self, seen, missed):
        old = row_in_flight(created_at=NOW - timedelta(hours=25))
        row, _ = after(old, seen)

        assert isinstance(after(row, missed)[1], Reschedule)
        assert isinstance(after(after(old, Working("generating"))[0], missed)[1], Fail)


class TestLimits:
    def test_more_results_than_the_limit_wait_with_a_finding_until_the_operator_raises_it(self):
        many = ready(f"{THEIRS}?{n}" for n in range(201))
        row, decision = after(row_in_flight(), many)

        assert isinstance(decision, Reschedule)
        assert decision.finding == "over_limit"
        assert "201 results" in decision.reason
        assert isinstance(after(row, many, policy=replace(NO_JITTER, max_results=201))[1], Deliver)

    def test_new_ids_in_each_answer_are_bounded_too(self):
        row, decisions = row_in_flight(), []
        for turn in range(12):
            named = (Result(f"{turn}-{n}", n, (f"{THEIRS}?{turn}-{n}",)) for n in range(150))
            row, decision = after(row, Ready(tuple(named)))
            decisions.append(decision)

        assert isinstance(decisions[0], Deliver)
        assert isinstance(decisions[1], Reschedule)
        assert decisions[1].finding == "over_limit"
        assert len(row.results) == 900

    def test_results_over_the_limit_wait_at_every_later_visit_too(self):
        many = ready(f"{THEIRS}?{n}" for n in range(201))
        row, _ = after(row_in_flight(), many)

        assert isinstance(after(row, NotPolled())[1], Poll)
        assert isinstance(after(row, NotPolled(), policy=replace(NO_JITTER, max_results=201))[1], Deliver)

    def test_results_over_the_limit_wait_where_only_a_callback_names_them(self):
        called = CallbackResult(ready(f"{THEIRS}?{n}" for n in range(201)), Unreachable("timeout"))

        assert isinstance(after(row_in_flight(), called)[1], Reschedule)
        assert isinstance(after(row_in_flight(), called, policy=replace(NO_JITTER, max_results=201))[1], Deliver)

    def test_a_limit_is_never_a_failure(self):
        row = row_in_flight(created_at=NOW - timedelta(days=3), acknowledged_at=NOW, answered_at=NOW)

        assert isinstance(after(row, ready(f"{THEIRS}?{n}" for n in range(5000)))[1], Reschedule)


def test_a_task_that_kie_does_not_know_is_a_finding_within_two_minutes():
    row, since = row_in_flight(**NEW, acknowledged_at=None), timedelta()
    while since <= 2 * MINUTE:
        row = absorb(row, TaskUnknown("record_null"), NOW + since)
        decision = decide(row, TaskUnknown("record_null"), NOW + since, NO_JITTER)
        assert isinstance(decision, Reschedule)
        if decision.finding == "task_unknown":
            break
        since = decision.due_at - NOW

    assert MINUTE < since <= 2 * MINUTE


def test_the_pauses_repeat_the_last_one():
    total = sum(CONFIRMATIONS)

    assert confirmation_wait(total) == CONFIRMATIONS[-1]
    assert confirmation_wait(0) == CONFIRMATIONS[0]
