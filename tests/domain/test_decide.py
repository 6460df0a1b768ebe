"""Properties of `absorb` and `decide` over arbitrary rows, observations and policies."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from reconciler.domain.absorb import absorb
from reconciler.domain.decide import decide
from reconciler.domain.ended_rows import is_extension
from reconciler.domain.findings.findings import NAMES
from reconciler.domain.model import (
    OPEN,
    SUCCEEDED,
    AttachTask,
    Decision,
    Deliver,
    Done,
    Fail,
    Finish,
    IdentifyTask,
    Policy,
    Poll,
    Reschedule,
    Result,
    Row,
)
from reconciler.domain.observations import (
    CallbackResult,
    DeliveryFailed,
    DeliveryPostponed,
    NotPolled,
    Observation,
    Ready,
    Stored,
    TaskIdentified,
    Unreachable,
)
from testkit.answers import ready
from tests.domain.worlds import (
    CALLBACK_RESULT,
    DELIVERY_FAILED,
    FAILED,
    IDENTIFIED,
    NOT_IDENTIFIED,
    NOT_SENT,
    NOW,
    OBSERVATIONS,
    POLICIES,
    POSTPONED,
    READY,
    RESULTS,
    STORED,
    TASK_UNKNOWN,
    THEIRS,
    UNREACHABLE,
    UNREADABLE,
    WORKING,
    World,
    ago,
    always,
    row_after_write,
    row_in_flight,
    rows,
    stored,
    visit,
)

ANSWERS = WORKING | READY | UNREADABLE | FAILED | TASK_UNKNOWN | UNREACHABLE | NOT_SENT | CALLBACK_RESULT
WORLDS = st.builds(always, ANSWERS, STORED | DELIVERY_FAILED | POSTPONED, IDENTIFIED | NOT_IDENTIFIED)
GIVEN = st.builds(Ready, RESULTS.filter(lambda results: any(result.available for result in results)))
BAD_ANSWERS = WORKING | TASK_UNKNOWN | UNREACHABLE | NOT_SENT | UNREADABLE | GIVEN | CALLBACK_RESULT
RECENT = timedelta(days=9)
STARTED = {
    "status": st.sampled_from(OPEN),
    "asset_url": st.none(),
    "gave_up": st.just(False),
    "shown": st.none(),
    "completed_at": st.none() | ago(RECENT),
}
WITH_TASK = rows(RECENT, task_id=st.just("t"), **STARTED)
OFFERED = rows(RECENT, task_id=st.none(), offered=st.just(("t",)), results=st.just(()), assets=st.just(()), **STARTED)
IN_FLIGHT = WITH_TASK | OFFERED


def decided(row: Row, observation: Observation, policy: Policy) -> Decision:
    return decide(absorb(row, observation, NOW), observation, NOW, policy)


def may_change_after_end(row: Row) -> bool:
    """Whether one of the exceptions applies in which a row that ended may still change."""
    healed = row.status in SUCCEEDED and row.asset_url in {None, "", THEIRS}
    return healed or is_extension(row) or (row.status == "failed" and (row.gave_up or row.reopened))


@given(rows(), OBSERVATIONS, POLICIES)
def test_there_is_a_decision_for_every_row_and_every_observation(row: Row, observation: Observation, policy: Policy):
    assert isinstance(decided(row, observation, policy), Decision)


@given(rows(), OBSERVATIONS, POLICIES)
def test_a_poll_follows_only_the_start_of_a_visit(row: Row, observation: Observation, policy: Policy):
    if isinstance(decided(row, observation, policy), Poll | IdentifyTask):
        assert isinstance(observation, NotPolled)


@given(rows(), OBSERVATIONS, POLICIES)
def test_a_delivery_follows_only_the_start_of_a_visit_or_a_success(row: Row, observation: Observation, policy: Policy):
    if isinstance(decided(row, observation, policy), Deliver):
        assert isinstance(observation, NotPolled | Ready | CallbackResult)
        assert absorb(row, observation, NOW).unstored


@given(rows(), STORED | DELIVERY_FAILED | POSTPONED, POLICIES)
def test_after_a_delivery_the_visit_ends(row: Row, observation: Observation, policy: Policy):
    assert isinstance(decided(row, observation, policy), Finish | Reschedule | Fail | Done)


@given(rows(), WORLDS, POLICIES)
def test_a_visit_ends_within_three_decisions(row: Row, world: World, policy: Policy):
    steps = list(visit(row, world, NOW, policy))

    assert len(steps) <= 3
    assert isinstance(steps[-1][2], Finish | Reschedule | Fail | Done | AttachTask)


@given(rows(), OBSERVATIONS, POLICIES)
def test_a_task_is_attached_only_if_kie_names_the_row(row: Row, observation: Observation, policy: Policy):
    if isinstance(decided(row, observation, policy), AttachTask):
        assert isinstance(observation, TaskIdentified)


@given(rows(), WORLDS, POLICIES)
def test_only_a_row_in_flight_without_a_task_gets_one(row: Row, world: World, policy: Policy):
    if any(isinstance(decision, IdentifyTask | AttachTask) for _, _, decision in visit(row, world, NOW, policy)):
        assert row.task_id is None
        assert row.offered
        assert row.status in OPEN


@given(rows(), CALLBACK_RESULT, POLICIES)
def test_a_callback_alone_fails_no_row_and_acknowledges_nothing(row: Row, observation: CallbackResult, policy: Policy):
    after = absorb(row, observation, NOW)

    assert (after.acknowledged_at, after.answered_at) == (row.acknowledged_at, row.answered_at)
    decision = decide(after, observation, NOW, policy)
    if isinstance(decision, Fail):
        assert decision == decided(row, observation.unreachable, policy)


@given(rows(), OBSERVATIONS, POLICIES.filter(lambda policy: policy.address_rules.provider_hosts != ("example.com",)))
def test_a_row_that_ended_does_not_change_but_for_the_exceptions(row: Row, observation: Observation, policy: Policy):
    absorbed = absorb(row, observation, NOW)
    decision = decide(absorbed, observation, NOW, policy)

    if row.status not in OPEN:
        assert not isinstance(decision, Fail)
        # A repair stores the object again at the address that the row shows: the row itself does not change.
        repaired = row.status in SUCCEEDED and row.reopened
        assert may_change_after_end(absorbed) or repaired or isinstance(decision, Done)


@given(rows(), OBSERVATIONS, POLICIES)
def test_only_a_queued_row_is_set_to_generating_and_never_in_observe_mode(
    row: Row, observation: Observation, policy: Policy
):
    decision = decided(row, observation, policy)

    if isinstance(decision, Reschedule) and decision.set_generating:
        assert row.status == "queued"
        assert not policy.observe


@given(rows(), WORLDS, POLICIES)
def test_observe_mode_stores_and_writes_nothing(row: Row, world: World, policy: Policy):
    for _, _, decision in visit(row, world, NOW, replace(policy, observe=True)):
        assert isinstance(decision, Poll | Reschedule | Done)


@given(rows(), OBSERVATIONS, POLICIES)
def test_a_row_is_due_again_within_six_hours(row: Row, observation: Observation, policy: Policy):
    decision = decided(row, observation, policy)

    if isinstance(decision, Fail) and decision.recheck_at is not None:
        assert NOW < decision.recheck_at <= NOW + timedelta(hours=6)
    if isinstance(decision, Reschedule):
        assert decision.due_at <= NOW + timedelta(hours=6)
        assert NOW < decision.earliest <= decision.due_at


@given(IN_FLIGHT, UNREACHABLE, POLICIES)
def test_a_row_waits_for_the_providers_retry_after(row: Row, observation: Unreachable, policy: Policy):
    decision = decided(row, observation, policy)

    if isinstance(decision, Reschedule):
        asked = timedelta(seconds=min(observation.retry_after or 0, 6 * 3600))
        assert decision.due_at - NOW >= asked - timedelta(milliseconds=1)
        # A Retry-After from an outage may outlast the outage: a spare request need not wait for all of it.
        assert decision.earliest - NOW >= min(asked, timedelta(minutes=1)) - timedelta(milliseconds=1)


@given(IN_FLIGHT.filter(lambda row: row.task_id), NOT_SENT, POLICIES)
def test_a_row_that_was_not_polled_waits_a_minute_at_most_and_counts_no_failure(
    row: Row, observation: Unreachable, policy: Policy
):
    after = absorb(row, observation, NOW)
    decision = decide(after, observation, NOW, policy)

    assert replace(after, reason=row.reason) == row
    assert isinstance(decision, Reschedule)
    assert timedelta(seconds=2) <= decision.earliest - NOW <= timedelta(minutes=1)
    assert (decision.due_at, decision.finding) == (decision.earliest, row.finding)


@given(rows(), OBSERVATIONS, POLICIES)
def test_every_finding_of_a_row_has_a_documented_name(row: Row, observation: Observation, policy: Policy):
    after = absorb(row, observation, NOW)
    decision = decide(after, observation, NOW, policy)

    assert after.finding is None or after.finding in NAMES
    if isinstance(decision, Reschedule):
        assert decision.finding is None or decision.finding in NAMES


@given(rows(), OBSERVATIONS)
def test_absorb_does_not_change_the_applications_columns(row: Row, observation: Observation):
    after = absorb(row, observation, NOW)

    for name in ("id", "user_id", "task_id", "status", "kind", "model", "asset_url", "created_at"):
        assert getattr(after, name) == getattr(row, name)


@given(rows(), OBSERVATIONS)
def test_only_deliveries_change_assets_and_only_requests_count_as_polls(row: Row, observation: Observation):
    after = absorb(row, observation, NOW)
    delivery = isinstance(observation, Stored | DeliveryFailed | DeliveryPostponed)
    counts = not (delivery or isinstance(observation, NotPolled)) and getattr(observation, "request_sent", True)

    assert after.assets == (observation.assets if delivery else row.assets)
    assert after.polls == row.polls + counts
    assert after.polled_at == (NOW if counts else row.polled_at)


@given(rows(), OBSERVATIONS)
def test_a_result_that_was_announced_stays_announced_under_its_number(row: Row, observation: Observation):
    after = absorb(row, observation, NOW)

    assert {result.n for result in after.results} >= {result.n for result in row.results}
    assert len({result.n for result in after.results}) == len(after.results)


@given(rows(), OBSERVATIONS, POLICIES)
def test_success_is_written_only_with_every_result_or_with_a_time_to_ask_for_the_rest(
    row: Row, observation: Observation, policy: Policy
):
    after = absorb(row, observation, NOW)
    decision = decide(after, observation, NOW, policy)

    if isinstance(decision, Finish):
        assert after.delivered or decision.recheck_at is not None
        assert after.stored


@given(rows(), OBSERVATIONS)
def test_an_acknowledged_task_stays_so_and_polls_do_not_extend_the_life_of_the_media(
    row: Row, observation: Observation
):
    after = absorb(row, observation, NOW)

    assert row.acknowledged_at is None or after.acknowledged_at == row.acknowledged_at
    assert row.media_deadline is None or after.media_deadline == row.media_deadline
    assert row.completed_at is not None or after.completed_at is None or after.completed_at <= NOW
    assert after.media_deadline is None or after.media_deadline <= max(
        NOW + timedelta(hours=24), row.media_deadline or NOW, (row.completed_at or NOW) + timedelta(hours=24)
    )


@given(rows())
def test_absorbing_not_polled_changes_nothing(row: Row):
    assert absorb(row, NotPolled(), NOW) == row


def good(row: Row) -> World:
    """Return a world in which KIE reports as many results as before, and each can be stored."""
    answer = Ready(tuple(with_address(result) for result in row.results) or ready((THEIRS, f"{THEIRS}?1")).results, NOW)
    return World(poll=lambda _: answer, deliver=lambda row: stored(*(result.n for result in row.results)))


def with_address(result: Result) -> Result:
    return result if result.available else replace(result, addresses=(f"{THEIRS}?{result.n}",))


def until_delivered(row: Row, policy: Policy, now: datetime) -> list[datetime]:
    """Return the times of the visits in a good world, at most four; the last one delivers."""
    visits = [now]
    for _ in range(4):
        row, _, decision = list(visit(row, good(row), visits[-1], policy))[-1]
        if isinstance(decision, Finish):
            assert row.delivered
            return visits
        row, next_visit = row_after_write(row, decision)
        assert next_visit is not None, f"done: {decision}"
        visits.append(next_visit)
    raise AssertionError(f"still not delivered: {decision}")


@given(IN_FLIGHT, st.lists(st.tuples(BAD_ANSWERS, DELIVERY_FAILED, NOT_IDENTIFIED), max_size=6), POLICIES)
def test_any_row_is_delivered_after_any_failed_visits_once_everything_works(
    row: Row, bad: list[tuple[Observation, Observation, Observation]], policy: Policy
):
    policy, now = replace(policy, observe=False, spare_request=True), NOW
    for answer, end, identification in bad:
        row, _, decision = list(visit(row, always(answer, end, identification), now, policy))[-1]
        if isinstance(decision, Finish):
            return
        row, next_visit = row_after_write(row, decision)
        assert next_visit is not None, f"done: {decision}"
        now = next_visit

    until_delivered(row, policy, now)


def test_a_busy_rate_limit_delays_a_first_poll_but_not_forever():
    until_delivered(row_in_flight(polls=0, created_at=NOW), Policy(spare_request=False), NOW)


def test_a_completion_time_long_before_the_row_does_not_end_the_life_of_the_media():
    observation = ready((THEIRS,), completed_at=datetime(1970, 1, 21, tzinfo=UTC))
    before = absorb(row_in_flight(), observation, NOW)
    lost = DeliveryFailed((), "fetch", "timeout")

    assert isinstance(decide(absorb(before, lost, NOW), lost, NOW, Policy()), Reschedule)


@given(WITH_TASK, st.data())
def test_a_crash_between_any_two_steps_of_a_visit_loses_nothing(row: Row, data: st.DataObject):
    """The next visit starts from what was saved before the crash."""
    steps = list(visit(row, good(row), NOW, Policy()))
    row_at_crash, observation, _ = data.draw(st.sampled_from(steps))

    end = list(visit(row_at_crash, good(row_at_crash), NOW, Policy()))[-1]

    assert isinstance(end[2], Finish)
    assert end[0].delivered
    assert observation in [step[1] for step in steps]
