"""The decision after each single observation, case by case."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.domain.absorb import absorb
from reconciler.domain.decide import decide
from reconciler.domain.model import Deliver, Done, Fail, Finish, Policy, Poll, Reschedule
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
from tests.domain.worlds import NOW, THEIRS, after, asset, row_in_flight, stored, wait

HOUR = timedelta(hours=1)


def test_generating_is_written_once():
    queued = row_in_flight(status="queued")
    _, first = after(queued, Working("generating", generating=True))
    _, waiting = after(queued, Working("waiting"))
    _, again = after(row_in_flight(status="generating"), Working("generating", generating=True))
    _, older = after(row_in_flight(status="pending"), Working("generating", generating=True))

    decisions = [decision for decision in (first, waiting, again, older) if isinstance(decision, Reschedule)]
    assert [decision.set_generating for decision in decisions] == [True, False, False, False]


@pytest.mark.parametrize("minutes", [0.5, 90.0, 23 * 60.0])
def test_a_new_success_that_kie_still_works_on_is_polled_like_any_other_task(minutes: float):
    created_at = NOW - timedelta(minutes=minutes)
    rests = [
        after(row_in_flight(status=status, created_at=created_at), Working("generating"))[1]
        for status in ("generating", "success", "completed")
    ]
    assert rests == [rests[0]] * 3
    assert isinstance(rests[0], Reschedule)
    assert rests[0].due_at - NOW < timedelta(minutes=minutes)


def test_an_old_success_that_kie_still_works_on_costs_few_polls():
    _, decision = after(row_in_flight(status="success", created_at=NOW - 25 * HOUR), Working("generating"))
    assert isinstance(decision, Reschedule)
    assert decision.earliest == decision.due_at
    assert decision.due_at - NOW >= HOUR / 2


@pytest.mark.parametrize(
    ("observation", "finding"),
    [
        (Unreachable("unauthorized"), "key_rejected"),
        (Unreachable("no_credits"), "unpaid_account"),
        (Unreachable("key_capped"), "unpaid_account"),
        (Unreachable("timeout"), None),
        (DeliveryFailed((), "fetch", "host_unlisted", permanent=True), "host_unlisted"),
        (DeliveryFailed((), "store", "bucket_refuses_type", permanent=True), "storage_refuses"),
        (DeliveryFailed((), "prove", "storage_denied", permanent=True), "storage_refuses"),
        (DeliveryFailed((), "store", "bad_path", permanent=True), "row_waits"),
        (DeliveryFailed((), "store", "timeout"), None),
        (DeliveryFailed((), "fetch", "timeout"), None),
    ],
)
def test_a_problem_that_an_operator_must_fix_is_a_finding(observation: Observation, finding: str | None):
    _, decision = after(row_in_flight(sources=(THEIRS,)), observation)

    assert isinstance(decision, Reschedule)
    assert decision.finding == finding


def test_a_row_without_a_task_waits_and_after_ten_minutes_is_a_finding():
    _, fresh = after(row_in_flight(task_id=None, created_at=NOW), NotPolled())
    _, late = after(row_in_flight(task_id=None, created_at=NOW - HOUR), NotPolled())

    assert isinstance(fresh, Reschedule)
    assert fresh.finding is None
    assert isinstance(late, Reschedule)
    assert late.finding == "no_task"
    assert isinstance(after(row_in_flight(task_id=None, status="success"), NotPolled())[1], Done)


def test_a_new_row_is_polled_at_once_with_a_spare_request():
    fresh = row_in_flight(polls=0, created_at=NOW)

    assert isinstance(after(fresh, NotPolled())[1], Poll)
    _, busy = after(fresh, NotPolled(), policy=Policy(spare_request=False))
    assert timedelta(seconds=2) < wait(busy) < timedelta(seconds=60)


def test_a_row_that_was_polled_before_is_polled_when_it_is_due_even_under_load():
    assert isinstance(after(row_in_flight(polls=1), NotPolled(), policy=Policy(spare_request=False))[1], Poll)
    old = row_in_flight(polls=0, created_at=NOW - HOUR)
    assert isinstance(after(old, NotPolled(), policy=Policy(spare_request=False))[1], Poll), "its tasks end by now"


def test_a_successful_delivery_clears_failures_reason_and_finding():
    lost = DeliveryFailed((), "store", "bucket_refuses_type", permanent=True)
    row, decision = after(row_in_flight(sources=(THEIRS,)), lost, stored(0))

    assert isinstance(decision, Finish)
    assert (row.failures, row.reason, row.finding) == (0, None, None)


def test_known_sources_are_delivered_without_another_poll():
    known = {"sources": (THEIRS, THEIRS)}

    assert isinstance(after(row_in_flight(**known), NotPolled())[1], Deliver)
    assert isinstance(after(row_in_flight(**known, assets=(asset(0),)), NotPolled())[1], Deliver)
    assert isinstance(after(row_in_flight(**known, assets=(asset(0), asset(1))), NotPolled())[1], Finish)
    half = (asset(0), asset(1, stored=False))
    assert isinstance(after(row_in_flight(**known, assets=half), NotPolled())[1], Deliver)


def test_a_dead_address_is_requested_again_and_replaced_at_its_position():
    row, decision = after(
        row_in_flight(sources=("https://a/0", "https://a/1")), DeliveryFailed((), "fetch", "http_404", gone=True)
    )
    assert isinstance(decision, Reschedule)
    assert isinstance(after(row, NotPolled())[1], Poll)

    row, decision = after(row, ready(("https://b/0", "https://b/1")))

    assert isinstance(decision, Deliver)
    assert row.sources == ("https://b/0", "https://b/1")
    assert isinstance(after(row, NotPolled())[1], Deliver), "a new address is not requested twice"


@pytest.mark.parametrize(
    "lost",
    [
        DeliveryFailed((), "fetch", "timeout"),
        DeliveryFailed((), "fetch", "not_media"),
        DeliveryFailed((), "fetch", "host_unlisted", permanent=True),
        DeliveryFailed((), "store", "bucket_refuses_size", permanent=True),
    ],
    ids=lambda lost: lost.reason,
)
def test_after_every_third_failure_the_addresses_are_requested_again(lost: DeliveryFailed):
    row, polled = row_in_flight(sources=(THEIRS,)), []
    for _ in range(7):
        polled.append(isinstance(after(row, NotPolled())[1], Poll))
        row, _ = after(row, lost)

    assert polled == [False, False, False, True, False, False, True]


def test_the_known_addresses_are_tried_again_if_kie_is_unreachable():
    row, _ = after(row_in_flight(sources=(THEIRS,), failures=2), DeliveryFailed((), "fetch", "timeout"))
    assert isinstance(after(row, NotPolled())[1], Poll)

    for observation in (Unreachable("timeout"), TaskUnknown("record_null")):
        assert isinstance(after(after(row, observation)[0], NotPolled())[1], Deliver)


def test_a_permanent_failure_is_not_retried_before_it_is_due():
    row = row_in_flight(sources=(THEIRS,), failures=9)
    for failure, may_retry_early in (
        (DeliveryFailed((), "store", "bucket_refuses_size", permanent=True), False),
        (DeliveryFailed((), "store", "timeout"), True),
        (DeliveryFailed((), "fetch", "http_403", gone=True, permanent=True), True),
    ):
        _, decision = after(row, failure)
        assert isinstance(decision, Reschedule)
        assert (decision.earliest < decision.due_at) == may_retry_early


def test_addresses_that_stay_dead_are_requested_more_and_more_slowly():
    row, waits = row_in_flight(), []
    for _ in range(8):
        row, decision = after(row, ready((THEIRS,)), DeliveryFailed((), "fetch", "http_403", gone=True))
        waits.append(wait(decision))

    assert waits[-1] > 10 * waits[0]


def test_known_results_are_delivered_even_if_kie_later_reports_none():
    known = row_in_flight(sources=(THEIRS,), empties=9, empty_since=NOW - HOUR)

    assert isinstance(after(known, ready(()))[1], Deliver)


def test_any_visit_fails_a_generation_whose_order_kie_refused():
    row = row_in_flight(task_id=None, create_refusal="no credits (402)")

    assert after(row, NotPolled())[1] == Fail("no credits (402)")
    assert isinstance(after(row, NotPolled(), policy=Policy(observe=True))[1], Reschedule)
    assert isinstance(after(replace(row, status="cancelled"), NotPolled())[1], Done)


def test_a_success_that_still_shows_the_result_of_an_earlier_task_is_polled():
    shown = row_in_flight(status="success", asset_url="https://ours.example/u/image/g_0.png")

    assert isinstance(after(replace(shown, made_again=True), NotPolled())[1], Poll)
    assert isinstance(after(shown, NotPolled())[1], Done)
    foreign = replace(shown, made_again=True, asset_url="https://elsewhere.example/1.png")
    assert isinstance(after(foreign, NotPolled())[1], Done)


def test_observe_mode_polls_ended_tasks_again_and_changes_nothing():
    observing = Policy(observe=True)

    assert isinstance(after(row_in_flight(sources=(THEIRS,)), NotPolled(), policy=observing)[1], Poll)
    assert isinstance(after(row_in_flight(), ready((THEIRS,)), policy=observing)[1], Reschedule)
    assert isinstance(after(row_in_flight(), Failed("prohibited"), policy=observing)[1], Reschedule)
    empty = row_in_flight(empties=9, empty_since=NOW - HOUR)
    assert isinstance(after(empty, ready(()), policy=observing)[1], Reschedule)
    assert isinstance(
        after(row_in_flight(created_at=NOW - 25 * HOUR), Working("waiting"), policy=observing)[1], Reschedule
    )


def test_the_providers_clock_cannot_extend_the_life_of_the_media():
    row, _ = after(row_in_flight(), ready((THEIRS,), completed_at=NOW + 9 * HOUR))

    assert row.completed_at == NOW
    assert row.media_deadline == NOW + 24 * HOUR


@pytest.mark.parametrize("observation", [TaskUnknown("record_null"), Unreachable("unauthorized")])
def test_a_task_unknown_with_one_key_is_polled_with_every_other_key_at_once(
    observation: TaskUnknown | Unreachable,
):
    three_keys = Policy(key_count=3)
    row, waits = row_in_flight(acknowledged_at=None, created_at=NOW), []
    for _ in range(3):
        row = absorb(row, observation, NOW)
        decision = decide(row, observation, NOW, three_keys)
        assert isinstance(decision, Reschedule)
        assert decision.finding == row.finding
        waits.append((decision.due_at - NOW).total_seconds())

    assert waits[:2] == [2.0, 2.0]
    assert waits[2] > 2.0


def test_a_rejected_key_that_knew_the_task_is_not_used_again_at_once():
    _, decision = after(row_in_flight(acknowledged_at=NOW), Unreachable("unauthorized"), policy=Policy(key_count=3))

    assert wait(decision) >= timedelta(seconds=5)


def test_the_retry_after_of_a_rejection_is_respected_even_with_other_keys():
    _, decision = after(row_in_flight(), Unreachable("unauthorized", retry_after=30.0), policy=Policy(key_count=3))

    assert wait(decision) >= timedelta(seconds=30)
