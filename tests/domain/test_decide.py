"""The properties of the two pure functions: total, in order, short, harmless, and always able to deliver."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from reconciler.domain.absorb import absorb
from reconciler.domain.decide import decide
from reconciler.domain.findings import NAMES
from reconciler.domain.model import (
    OPEN,
    SUCCEEDED,
    AttachTask,
    CallbackResult,
    Decision,
    Deliver,
    DeliveryFailed,
    Done,
    Fail,
    Finish,
    IdentifyTask,
    NotPolled,
    Observation,
    Policy,
    Poll,
    Ready,
    Reschedule,
    Row,
    Stored,
    TaskIdentified,
    Unreachable,
)
from tests.domain.worlds import (
    IDENTIFIED,
    LIMITS,
    NOW,
    OBSERVATIONS,
    READY,
    REFUSED,
    SOURCES,
    STORED,
    THEIRS,
    TOLD,
    UNASKED,
    UNHEARD,
    UNIDENTIFIED,
    UNKNOWN,
    UNSTORED,
    WORKING,
    World,
    always,
    row_in_flight,
    rows,
    stored,
    visit,
    written,
)

ANSWERS = WORKING | READY | REFUSED | UNKNOWN | UNHEARD | UNASKED | TOLD
WORLDS = st.builds(always, ANSWERS, STORED | UNSTORED, IDENTIFIED | UNIDENTIFIED)
BAD_ANSWERS = WORKING | UNKNOWN | UNHEARD | UNASKED | st.builds(Ready, SOURCES.filter(bool)) | TOLD
RECENT = timedelta(days=9)
STARTED = {"status": st.sampled_from(OPEN), "asset_url": st.none(), "gave_up": st.just(False)}
WITH_TASK = rows(RECENT, task_id=st.just("t"), **STARTED)
OFFERED = rows(RECENT, task_id=st.none(), offered=st.just(("t",)), sources=st.just(()), assets=st.just(()), **STARTED)
IN_FLIGHT = WITH_TASK | OFFERED


def decided(row: Row, seen: Observation, limits: Policy) -> Decision:
    return decide(absorb(row, seen, NOW), seen, NOW, limits)


def mendable(row: Row) -> bool:
    """The three exceptions in which a row that ended may still be moved."""
    healed = row.status in SUCCEEDED and row.asset_url in {None, "", THEIRS}
    return healed or (row.status == "failed" and (row.gave_up or row.reopened))


@given(rows(), OBSERVATIONS, LIMITS)
def test_there_is_a_decision_for_every_row_and_every_observation(row: Row, seen: Observation, limits: Policy):
    assert isinstance(decided(row, seen, limits), Decision)


@given(rows(), OBSERVATIONS, LIMITS)
def test_asking_follows_only_silence(row: Row, seen: Observation, limits: Policy):
    if isinstance(decided(row, seen, limits), Poll | IdentifyTask):
        assert isinstance(seen, NotPolled)


@given(rows(), OBSERVATIONS, LIMITS)
def test_delivering_follows_only_silence_the_providers_word_or_what_stands_for_it(
    row: Row, seen: Observation, limits: Policy
):
    if isinstance(decided(row, seen, limits), Deliver):
        assert isinstance(seen, NotPolled | Ready | CallbackResult)
        assert absorb(row, seen, NOW).sources


@given(rows(), STORED | UNSTORED, LIMITS)
def test_after_a_delivery_the_visit_ends(row: Row, seen: Stored | DeliveryFailed, limits: Policy):
    assert isinstance(decided(row, seen, limits), Finish | Reschedule | Fail | Done)


@given(rows(), WORLDS, LIMITS)
def test_a_visit_ends_within_three_decisions(row: Row, world: World, limits: Policy):
    steps = list(visit(row, world, NOW, limits))

    assert len(steps) <= 3
    assert isinstance(steps[-1][2], Finish | Reschedule | Fail | Done | AttachTask)


@given(rows(), OBSERVATIONS, LIMITS)
def test_a_task_is_adopted_only_where_kie_names_the_row(row: Row, seen: Observation, limits: Policy):
    if isinstance(decided(row, seen, limits), AttachTask):
        assert isinstance(seen, TaskIdentified)


@given(rows(), WORLDS, LIMITS)
def test_only_a_row_in_flight_without_a_task_gets_one(row: Row, world: World, limits: Policy):
    if any(isinstance(decision, IdentifyTask | AttachTask) for _, _, decision in visit(row, world, NOW, limits)):
        assert row.task_id is None
        assert row.offered
        assert row.status in OPEN


@given(rows(), TOLD, LIMITS)
def test_what_only_a_callback_said_ends_no_row_and_acknowledges_nothing(row: Row, seen: CallbackResult, limits: Policy):
    after = absorb(row, seen, NOW)

    assert (after.acknowledged_at, after.answered_at) == (row.acknowledged_at, row.answered_at)
    decision = decide(after, seen, NOW, limits)
    if isinstance(decision, Fail):
        assert decision == decided(row, seen.unheard, limits)


@given(rows(), OBSERVATIONS, LIMITS.filter(lambda limits: limits.their_hosts != ("example.com",)))
def test_a_row_that_ended_is_left_but_for_three_exceptions(row: Row, seen: Observation, limits: Policy):
    decision = decided(row, seen, limits)

    if row.status not in OPEN:
        assert not isinstance(decision, Fail)
        # What storage has lost is delivered once more to where the row shows it: that moves no row.
        shows_ours = row.status in SUCCEEDED and row.reopened
        assert mendable(row) or shows_ours or isinstance(decision, Done)


@given(rows(), OBSERVATIONS, LIMITS)
def test_only_a_queued_row_that_is_not_just_observed_begins(row: Row, seen: Observation, limits: Policy):
    decision = decided(row, seen, limits)

    if isinstance(decision, Reschedule) and decision.begun:
        assert row.status == "queued"
        assert not limits.observe


@given(rows(), WORLDS, LIMITS)
def test_an_observer_stores_and_writes_nothing(row: Row, world: World, limits: Policy):
    for _, _, decision in visit(row, world, NOW, replace(limits, observe=True)):
        assert isinstance(decision, Poll | Reschedule | Done)


@given(rows(), OBSERVATIONS, LIMITS)
def test_a_row_rests_until_some_time_of_the_next_six_hours(row: Row, seen: Observation, limits: Policy):
    decision = decided(row, seen, limits)

    if isinstance(decision, Reschedule | Fail) and decision.until is not None:
        assert NOW < decision.until <= NOW + timedelta(hours=6)
    if isinstance(decision, Reschedule):
        assert NOW < decision.early <= decision.until


@given(IN_FLIGHT, UNHEARD, LIMITS)
def test_a_row_rests_as_long_as_the_provider_asked_for(row: Row, seen: Unreachable, limits: Policy):
    decision = decided(row, seen, limits)

    if isinstance(decision, Reschedule):
        asked = timedelta(seconds=min(seen.retry_after or 0, 6 * 3600))
        assert decision.until - NOW >= asked - timedelta(milliseconds=1)
        # What is said in an outage may outlast it: a spare request does not wait for all of it.
        assert decision.early - NOW >= min(asked, timedelta(minutes=1)) - timedelta(milliseconds=1)


@given(IN_FLIGHT.filter(lambda row: row.task_id), UNASKED, LIMITS)
def test_a_row_that_could_not_be_asked_about_waits_a_minute_at_most_and_has_missed_nothing(
    row: Row, seen: Unreachable, limits: Policy
):
    after = absorb(row, seen, NOW)
    decision = decide(after, seen, NOW, limits)

    assert replace(after, reason=row.reason) == row
    assert isinstance(decision, Reschedule)
    assert timedelta(seconds=2) <= decision.early - NOW <= timedelta(minutes=1)
    assert (decision.until, decision.finding) == (decision.early, row.finding)


@given(rows(), OBSERVATIONS, LIMITS)
def test_every_finding_left_on_a_row_has_a_name_that_operators_know(row: Row, seen: Observation, limits: Policy):
    after = absorb(row, seen, NOW)
    decision = decide(after, seen, NOW, limits)

    assert after.finding is None or after.finding in NAMES
    if isinstance(decision, Reschedule):
        assert decision.finding is None or decision.finding in NAMES


@given(rows(), OBSERVATIONS)
def test_absorbing_changes_nothing_that_the_application_wrote(row: Row, seen: Observation):
    after = absorb(row, seen, NOW)

    for name in ("id", "user_id", "task_id", "status", "kind", "model", "asset_url", "created_at"):
        assert getattr(after, name) == getattr(row, name)


@given(rows(), OBSERVATIONS)
def test_only_deliveries_change_assets_and_only_answers_count_as_looks(row: Row, seen: Observation):
    after = absorb(row, seen, NOW)
    answered = not isinstance(seen, NotPolled | Stored | DeliveryFailed) and getattr(seen, "asked", True)

    assert after.assets == (seen.assets if isinstance(seen, Stored | DeliveryFailed) else row.assets)
    assert after.polls == row.polls + answered
    assert after.polled_at == (NOW if answered else row.polled_at)


@given(rows(), OBSERVATIONS)
def test_sources_are_frozen_in_number_once_one_of_them_is_stored(row: Row, seen: Observation):
    after = absorb(row, seen, NOW)

    if row.sources and any(asset.stored for asset in row.assets):
        assert len(after.sources) == len(row.sources)
    if after.sources != row.sources:
        assert isinstance(seen, Ready | CallbackResult)
        assert after.sources == (seen.said if isinstance(seen, CallbackResult) else seen).sources


@given(rows(), OBSERVATIONS)
def test_what_was_acknowledged_stays_so_and_no_media_lives_longer_by_being_asked_about(row: Row, seen: Observation):
    after = absorb(row, seen, NOW)

    assert row.acknowledged_at is None or after.acknowledged_at == row.acknowledged_at
    assert row.media_deadline is None or after.media_deadline == row.media_deadline
    assert row.completed_at is not None or after.completed_at is None or after.completed_at <= NOW
    assert after.media_deadline is None or after.media_deadline <= max(
        NOW + timedelta(hours=24), row.media_deadline or NOW, (row.completed_at or NOW) + timedelta(hours=24)
    )


@given(rows())
def test_silence_teaches_nothing(row: Row):
    assert absorb(row, NotPolled(), NOW) == row


def good(row: Row) -> World:
    """KIE tells as many results as it told before, and each can be stored."""
    sources = tuple(f"{THEIRS}?{n}" for n in range(len(row.sources) or 2))
    return World(asked=lambda _: Ready(sources, NOW), delivered=lambda row: stored(len(row.sources)))


def until_delivered(row: Row, limits: Policy, now: datetime) -> list[datetime]:
    """The times of the passes in a good world, the last of which delivers; at most four."""
    visits = [now]
    for _ in range(4):
        row, _, decision = list(visit(row, good(row), visits[-1], limits))[-1]
        if isinstance(decision, Finish):
            assert row.delivered
            return visits
        row, until = written(row, decision)
        assert until is not None, f"left: {decision}"
        visits.append(until)
    raise AssertionError(f"still not delivered: {decision}")


@given(IN_FLIGHT, st.lists(st.tuples(BAD_ANSWERS, UNSTORED, UNIDENTIFIED), max_size=6), LIMITS)
def test_from_any_row_after_any_bad_visits_a_world_that_turns_good_delivers(
    row: Row, bad: list[tuple[Observation, Observation, Observation]], limits: Policy
):
    limits, now = replace(limits, observe=False, spare=True), NOW
    for answer, end, whose in bad:
        row, _, decision = list(visit(row, always(answer, end, whose), now, limits))[-1]
        if isinstance(decision, Finish):
            return
        row, until = written(row, decision)
        assert until is not None, f"left: {decision}"
        now = until

    until_delivered(row, limits, now)


def test_a_busy_budget_delays_a_first_look_but_not_for_ever():
    until_delivered(row_in_flight(polls=0, created_at=NOW), Policy(spare=False), NOW)


def test_a_completion_time_long_before_the_row_does_not_end_the_media():
    seen = Ready((THEIRS,), completed_at=datetime(1970, 1, 21, tzinfo=UTC))
    before = absorb(row_in_flight(), seen, NOW)
    lost = DeliveryFailed((), "fetch", "timeout")

    assert isinstance(decide(absorb(before, lost, NOW), lost, NOW, Policy()), Reschedule)


@given(WITH_TASK, st.data())
def test_a_crash_between_any_two_steps_of_a_visit_loses_nothing(row: Row, data: st.DataObject):
    """What was noted before the crash is the next visit's start."""
    steps = list(visit(row, good(row), NOW, Policy()))
    kept, seen, _ = data.draw(st.sampled_from(steps))

    end = list(visit(kept, good(kept), NOW, Policy()))[-1]

    assert isinstance(end[2], Finish)
    assert end[0].delivered
    assert seen in [step[1] for step in steps]
