"""What each single observation leads to, case by case."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.domain.absorb import absorb
from reconciler.domain.decide import decide
from reconciler.domain.model import (
    Deliver,
    DeliveryFailed,
    Done,
    Fail,
    Failed,
    Finish,
    NotPolled,
    Observation,
    Policy,
    Poll,
    Ready,
    Reschedule,
    TaskUnknown,
    Unreachable,
    Working,
)
from tests.domain.worlds import NOW, THEIRS, after, asset, rest, row_in_flight, stored

HOUR = timedelta(hours=1)


def test_generating_is_written_once():
    queued = row_in_flight(status="queued")
    _, first = after(queued, Working("generating", begun=True))
    _, waiting = after(queued, Working("waiting"))
    _, again = after(row_in_flight(status="generating"), Working("generating", begun=True))
    _, older = after(row_in_flight(status="pending"), Working("generating", begun=True))

    assert [decision.begun for decision in (first, waiting, again, older) if isinstance(decision, Reschedule)] == [
        True, False, False, False
    ]  # fmt: skip


def test_a_success_without_output_is_believed_at_the_fifth_look_that_agrees():
    row, decisions = row_in_flight(), []
    for _ in range(5):
        row, decision = after(row, Ready(()))
        decisions.append(decision)

    *doubted, believed = decisions
    assert all(isinstance(decision, Reschedule) and decision.finding == "empty_success" for decision in doubted)
    assert believed == Fail("KIE reports success without any output")


def test_looks_that_do_not_agree_begin_the_count_anew():
    _, decision = after(row_in_flight(), Ready(()), Ready(()), Working("generating"), Ready(()))

    assert isinstance(decision, Reschedule)


def test_a_row_that_already_says_success_is_not_failed_for_an_empty_one():
    assert isinstance(after(row_in_flight(status="success"), *[Ready(())] * 5)[1], Done)


@pytest.mark.parametrize("minutes", [0.5, 90.0, 23 * 60.0])
def test_a_young_success_that_kie_still_works_on_is_looked_at_like_any_other_task(minutes: float):
    born = NOW - timedelta(minutes=minutes)
    rests = [
        after(row_in_flight(status=status, created_at=born), Working("generating"))[1]
        for status in ("generating", "success", "completed")
    ]
    assert rests == [rests[0]] * 3
    assert isinstance(rests[0], Reschedule)
    assert rests[0].until - NOW < timedelta(minutes=minutes)


def test_an_old_success_that_kie_still_works_on_costs_few_looks():
    _, decision = after(row_in_flight(status="success", created_at=NOW - 25 * HOUR), Working("generating"))
    assert isinstance(decision, Reschedule)
    assert decision.early == decision.until
    assert decision.until - NOW >= HOUR / 2


@pytest.mark.parametrize(
    ("seen", "finding"),
    [
        (Unreachable("unauthorized"), "key_rejected"),
        (Unreachable("no_credits"), "unpaid_account"),
        (Unreachable("key_capped"), "unpaid_account"),
        (Unreachable("timeout"), None),
        (DeliveryFailed((), "fetch", "host_unlisted", settled=True), "host_unlisted"),
        (DeliveryFailed((), "store", "bucket_refuses_type", settled=True), "storage_refuses"),
        (DeliveryFailed((), "store", "timeout"), None),
        (DeliveryFailed((), "fetch", "timeout"), None),
    ],
)
def test_what_somebody_has_to_mend_is_a_finding(seen: Observation, finding: str | None):
    _, decision = after(row_in_flight(sources=(THEIRS,)), seen)

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


def test_a_fresh_row_is_asked_about_at_once_when_a_request_is_to_spare():
    fresh = row_in_flight(polls=0, created_at=NOW)

    assert isinstance(after(fresh, NotPolled())[1], Poll)
    _, busy = after(fresh, NotPolled(), limits=Policy(spare=False))
    assert timedelta(seconds=2) < rest(busy) < timedelta(seconds=60)


def test_a_row_that_was_looked_at_before_is_asked_about_when_its_time_comes_however_busy():
    assert isinstance(after(row_in_flight(polls=1), NotPolled(), limits=Policy(spare=False))[1], Poll)


def test_a_delivery_that_ends_well_leaves_nothing_amiss():
    lost = DeliveryFailed((), "store", "bucket_refuses_type", settled=True)
    row, decision = after(row_in_flight(sources=(THEIRS,)), lost, stored(1))

    assert isinstance(decision, Finish)
    assert (row.failures, row.reason, row.finding) == (0, None, None)


def test_what_is_known_is_not_asked_again():
    known = {"sources": (THEIRS, THEIRS)}

    assert isinstance(after(row_in_flight(**known), NotPolled())[1], Deliver)
    assert isinstance(after(row_in_flight(**known, assets=(asset(0),)), NotPolled())[1], Deliver)
    assert isinstance(after(row_in_flight(**known, assets=(asset(0), asset(1))), NotPolled())[1], Finish)
    half = (asset(0), asset(1, stored=False))
    assert isinstance(after(row_in_flight(**known, assets=half), NotPolled())[1], Deliver)


def test_a_dead_address_is_asked_for_again_and_replaced_in_its_order():
    row, decision = after(
        row_in_flight(sources=("https://a/0", "https://a/1")), DeliveryFailed((), "fetch", "http_404", gone=True)
    )
    assert isinstance(decision, Reschedule)
    assert isinstance(after(row, NotPolled())[1], Poll)

    row, decision = after(row, Ready(("https://b/0", "https://b/1")))

    assert isinstance(decision, Deliver)
    assert row.sources == ("https://b/0", "https://b/1")
    assert isinstance(after(row, NotPolled())[1], Deliver), "a fresh address is not asked for twice"


@pytest.mark.parametrize(
    "lost",
    [
        DeliveryFailed((), "fetch", "timeout"),
        DeliveryFailed((), "fetch", "not_media"),
        DeliveryFailed((), "fetch", "host_unlisted", settled=True),
        DeliveryFailed((), "store", "bucket_refuses_size", settled=True),
    ],
    ids=lambda lost: lost.reason,
)
def test_after_every_third_miss_kie_is_asked_where_the_results_are_now(lost: DeliveryFailed):
    row, asked = row_in_flight(sources=(THEIRS,)), []
    for _ in range(7):
        asked.append(isinstance(after(row, NotPolled())[1], Poll))
        row, _ = after(row, lost)

    assert asked == [False, False, False, True, False, False, True]


def test_where_kie_cannot_be_asked_again_the_known_addresses_are_tried_again():
    row, _ = after(row_in_flight(sources=(THEIRS,), failures=2), DeliveryFailed((), "fetch", "timeout"))
    assert isinstance(after(row, NotPolled())[1], Poll)

    for seen in (Unreachable("timeout"), TaskUnknown("record_null")):
        assert isinstance(after(after(row, seen)[0], NotPolled())[1], Deliver)


def test_what_somebody_has_to_mend_is_not_tried_again_before_its_time():
    row = row_in_flight(sources=(THEIRS,), failures=9)
    for lost, soon in (
        (DeliveryFailed((), "store", "bucket_refuses_size", settled=True), False),
        (DeliveryFailed((), "store", "timeout"), True),
        (DeliveryFailed((), "fetch", "http_403", gone=True, settled=True), True),
    ):
        _, decision = after(row, lost)
        assert isinstance(decision, Reschedule)
        assert (decision.early < decision.until) == soon


def test_another_number_of_results_never_changes_what_the_receipts_mean():
    row, _ = after(row_in_flight(sources=("https://a/0", "https://a/1"), assets=(asset(0),)), Ready(("https://b/0",)))

    assert row.sources == ("https://a/0", "https://a/1")


def test_addresses_that_stay_dead_are_asked_for_ever_more_slowly():
    row, waits = row_in_flight(), []
    for _ in range(8):
        row, decision = after(row, Ready((THEIRS,)), DeliveryFailed((), "fetch", "http_403", gone=True))
        waits.append(rest(decision))

    assert waits[-1] > 10 * waits[0]


def test_results_that_are_known_are_delivered_whatever_kie_says_of_them_later():
    known = row_in_flight(sources=(THEIRS,), empties=9)

    assert isinstance(after(known, Ready(()))[1], Deliver)


def test_an_order_that_kie_refused_fails_its_generation_by_whoever_finds_it():
    row = row_in_flight(task_id=None, create_refusal="no credits (402)")

    assert after(row, NotPolled())[1] == Fail("no credits (402)")
    assert isinstance(after(row, NotPolled(), limits=Policy(observe=True))[1], Reschedule)
    assert isinstance(after(replace(row, status="cancelled"), NotPolled())[1], Done)


def test_a_success_that_still_shows_what_an_earlier_task_brought_is_looked_at():
    shown = row_in_flight(status="success", asset_url="https://ours.example/u/image/g_0.png")

    assert isinstance(after(replace(shown, made_again=True), NotPolled())[1], Poll)
    assert isinstance(after(shown, NotPolled())[1], Done)
    foreign = replace(shown, made_again=True, asset_url="https://elsewhere.example/1.png")
    assert isinstance(after(foreign, NotPolled())[1], Done)


def test_what_an_observer_sees_end_is_looked_at_again_and_left_alone():
    observing = Policy(observe=True)

    assert isinstance(after(row_in_flight(sources=(THEIRS,)), NotPolled(), limits=observing)[1], Poll)
    assert isinstance(after(row_in_flight(), Ready((THEIRS,)), limits=observing)[1], Reschedule)
    assert isinstance(after(row_in_flight(), Failed("prohibited"), limits=observing)[1], Reschedule)
    assert isinstance(after(row_in_flight(empties=9), Ready(()), limits=observing)[1], Reschedule)
    assert isinstance(
        after(row_in_flight(created_at=NOW - 25 * HOUR), Working("waiting"), limits=observing)[1], Reschedule
    )


def test_the_providers_clock_cannot_lengthen_the_medias_life():
    row, _ = after(row_in_flight(), Ready((THEIRS,), completed_at=NOW + 9 * HOUR))

    assert row.completed_at == NOW
    assert row.media_deadline == NOW + 24 * HOUR


@pytest.mark.parametrize("seen", [TaskUnknown("record_null"), Unreachable("unauthorized")])
def test_a_task_that_one_key_cannot_ask_about_is_asked_about_with_every_other_key_at_once(
    seen: TaskUnknown | Unreachable,
):
    ring = Policy(keys=3)
    row, waits = row_in_flight(acknowledged_at=None), []
    for _ in range(3):
        row = absorb(row, seen, NOW)
        decision = decide(row, seen, NOW, ring)
        assert isinstance(decision, Reschedule)
        assert decision.finding == row.finding
        waits.append((decision.until - NOW).total_seconds())

    assert waits[:2] == [2.0, 2.0]
    assert waits[2] > 2.0


def test_a_key_that_knew_the_task_and_is_rejected_now_is_not_asked_with_at_once():
    _, decision = after(row_in_flight(acknowledged_at=NOW), Unreachable("unauthorized"), limits=Policy(keys=3))

    assert rest(decision) >= timedelta(seconds=5)


def test_a_rejection_that_says_how_long_to_wait_is_heeded_whatever_keys_there_are():
    _, decision = after(row_in_flight(), Unreachable("unauthorized", retry_after=30.0), limits=Policy(keys=3))

    assert rest(decision) >= timedelta(seconds=30)
