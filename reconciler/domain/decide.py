"""Decides what happens next with a row that has absorbed an observation.

Pure and total. Poll and IdentifyTask follow only NotPolled. Deliver follows only NotPolled, Ready or CallbackResult.
After a delivery comes Finish, Reschedule, Fail or Done, so a visit ends within three decisions. After AttachTask the
visit starts again, once, with a row that has a task. Only the visit calls `decide`, and it carries out every decision;
if the application's table or its hook rejects a write, it calls `retry_rejected_write`.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import assert_never

from reconciler.domain import poll_interval
from reconciler.domain.absorb import failure_reason
from reconciler.domain.elapsed import (
    EMPTY_BELIEVED_AFTER,
    EMPTY_LOOKS,
    MEDIA_LIFE,
    age,
    age_since_step,
    has_failed_long,
    has_passed,
    has_waited_for_missing,
    may_give_up,
    media_has_ended,
    task_start,
)
from reconciler.domain.ended_rows import (
    HEALED_WITHIN,
    HEALS,
    is_extension,
    is_overwritten,
    is_repair,
    may_move,
    next_heal,
)
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
    Row,
)
from reconciler.domain.observations import (
    CallbackResult,
    DeliveryFailed,
    DeliveryPostponed,
    Failed,
    NotPolled,
    Observation,
    Ready,
    Stored,
    TaskIdentified,
    TaskNotIdentified,
    TaskUnknown,
    Unreachable,
    Unreadable,
    Working,
)

UNKNOWN_AFTER = timedelta(seconds=60)
"""A task that KIE does not know at this age is a finding; KIE can be slow to know a new one."""

DELIVERY_ATTEMPTS = 5
"""A task that KIE finished is given up only after this many deliveries in a row have failed."""

REPOLL_AFTER_FAILURES = 3
"""After this many failures in a row, and after each further three, known addresses are requested again.

An address may be dead without an error that says so, and a task is given up only if KIE's last answer is recent.
"""

OUR_BOUNDS = frozenset({"too_large", "type_refused", "host_unlisted", "spool_full", "spool_error"})
"""Reasons of failed downloads that the operator can remove: a result is never given up for one of them."""

RECOVERY_SECONDS = 10.0
"""Seconds after a failure from which a spare request may retry, so that the end of an outage is noticed early.

A dead replica's lease and a silent connection take up to 50 s. With these 10 s a retry still comes within a minute.
"""

REPAIR_ATTEMPTS = 8
"""An object that is gone from storage is called lost only after this many failures in a row.

The backoff between them adds up to 10 to 21 minutes; retries with spare requests come sooner.
"""


def decide(row: Row, observation: Observation, now: datetime, policy: Policy) -> Decision:
    """Return what happens next with a row that has absorbed this observation."""
    if not may_move(row, policy.address_rules):
        return Done(f"status {row.status} is not one that the daemon changes")
    if is_overwritten(row, policy.address_rules) and (later := next_heal(row, now)) > now:
        return _leave_overwritten(later, now)
    decision = _decide_eligible(row, observation, now, policy)
    if not isinstance(decision, Done) or not is_repair(row):
        return decision
    if policy.observe:
        hour = now + timedelta(hours=1)
        return Reschedule(hour, hour, decision.reason)
    return replace(decision, lost=True)


def _leave_overwritten(later: datetime, now: datetime) -> Reschedule:
    """The application keeps replacing our address: stop writing for a while, and let a person look."""
    due = min(later, now + timedelta(seconds=poll_interval.LONGEST_WAIT))
    within = HEALED_WITHIN.total_seconds() / 3600
    reason = f"asset_url was replaced by an address at the provider after {HEALS} repairs in {within:g} h"
    return Reschedule(due, due, reason, finding="asset_overwritten")


def retry_rejected_write(
    row: Row, decision: Decision, now: datetime, *, reason: str, finding: str
) -> tuple[Row, Reschedule]:
    """Return the row, and the Reschedule that replaces a decision whose write the table or the hook has rejected."""
    if isinstance(decision, Reschedule):
        # Only `generating` was rejected: that must not delay the result.
        return row, replace(decision, set_generating=False, reason=reason, finding=finding)
    rejections = 1
    if isinstance(decision, Finish):
        # Only the final write is left for this row, so its rejections are the row's failures.
        row = replace(row, failures=row.failures + 1)
        rejections = row.failures
    due = now + timedelta(seconds=poll_interval.rejected_write_wait(rejections))
    return row, Reschedule(due, due, reason, finding=finding)


def _decide_eligible(row: Row, observation: Observation, now: datetime, policy: Policy) -> Decision:
    match observation:
        case NotPolled():
            return _on_not_polled(row, now, policy)
        case Working() | Ready() | Unreadable() | Failed():
            return _on_record(row, observation, now, policy)
        case CallbackResult():
            return _on_callback_result(row, observation, now, policy)
        case TaskIdentified() | TaskNotIdentified():
            return _on_identification(row, observation, now, policy)
        case Stored():
            return _finish(row, now, policy)
        case TaskUnknown():
            return _on_task_unknown(row, now, policy)
        case Unreachable():
            return _on_unreachable(row, observation, now, policy)
        case DeliveryFailed():
            return _on_delivery_failed(row, observation, now, policy)
        case DeliveryPostponed():
            return _on_delivery_postponed(row, observation, now, policy)
    assert_never(observation)


def _on_record(row: Row, observation: Working | Ready | Unreadable | Failed, now: datetime, policy: Policy) -> Decision:
    match observation:
        case Working():
            return _on_working(row, observation, now, policy)
        case Ready():
            return _on_ready(row, observation, now, policy)
        case Unreadable():
            return _keep_waiting(row, now, policy)
        case Failed():
            return _on_failed(row, observation, now, policy)
    assert_never(observation)


def _on_not_polled(row: Row, now: datetime, policy: Policy) -> Decision:
    if row.task_id is None:
        return _without_task(row, now, policy)
    if policy.observe:
        return Poll()
    if row.delivered:
        return Finish()
    may_deliver = row.unstored and not row.stale and len(row.results) <= policy.max_results
    if may_deliver and (row.failures == 0 or row.failures % REPOLL_AFTER_FAILURES):
        return Deliver()
    if row.reason is None and row.polls == 0 and not policy.spare_request:
        return _first_poll(row, now, policy)
    return Poll()


def _first_poll(row: Row, now: datetime, policy: Policy) -> Decision:
    """Without a spare request, poll a new row for the first time when tasks of its model begin to end."""
    due = task_start(row) + timedelta(seconds=_poll_interval(row, 0.0, policy))
    if due <= now:
        return Poll()
    earliest = now + timedelta(seconds=poll_interval.MIN_INTERVAL)
    return Reschedule(due, earliest, "waiting for its first poll: the rate limit has no spare request")


def _without_task(row: Row, now: datetime, policy: Policy) -> Decision:
    if row.status not in OPEN:
        return Done("there is no task id to ask about")
    if row.create_refusal is not None and not policy.observe:
        return Fail(row.create_refusal)
    if row.offered and not policy.observe:
        return IdentifyTask()
    due = now + _parked_wait(row, now)
    return Reschedule(due, due, "no task id yet", finding=_no_task_finding(row, now))


def _no_task_finding(row: Row, now: datetime) -> str | None:
    return "no_task" if age(row, now) > timedelta(minutes=10) else None


def _on_identification(
    row: Row, observation: TaskIdentified | TaskNotIdentified, now: datetime, policy: Policy
) -> Decision:
    if isinstance(observation, TaskIdentified):
        return AttachTask(observation.task_id)
    wait = poll_interval.backoff(row.failures, policy.jitter, observation.retry_after)
    least = wait if observation.all_answered else _earliest_retry(wait, observation.retry_after)
    due, earliest = now + timedelta(seconds=wait), now + timedelta(seconds=least)
    return Reschedule(due, earliest, row.reason or "no task id yet", finding=_no_task_finding(row, now))


def _on_working(row: Row, working: Working, now: datetime, policy: Policy) -> Decision:
    if _may_show_without_missing(row, now, policy) and not policy.observe:
        return _finish(row, now, policy)
    if may_give_up(row, now, policy):
        return _give_up(row, now, policy)
    if row.status not in OPEN:
        return _wait_for_late_result(row, now, policy, f"KIE says {working.state}")
    set_generating = working.generating and row.status == "queued" and not policy.observe
    return _poll_again(row, now, policy, f"KIE says {working.state}", set_generating=set_generating)


def _wait_for_late_result(row: Row, now: datetime, policy: Policy, reason: str) -> Decision:
    """The application already shows this row as ended, so poll rarely; a late result is still delivered."""
    if media_has_ended(row, now, policy):
        return Done(f"nothing left to fetch after {MEDIA_LIFE.days} days; last: {reason}")
    if row.status in SUCCEEDED and age_since_step(row, now, policy) <= policy.give_up_after and not is_extension(row):
        # The application wrote success before KIE's record says so: its user waits for the asset.
        return _poll_again(row, now, policy, reason)
    due = now + _parked_wait(row, now)
    return Reschedule(due, due, reason)


def _on_ready(row: Row, ready: Ready, now: datetime, policy: Policy) -> Decision:
    if (count := max(len(ready.results), len(row.results))) > policy.max_results:
        reason = f"KIE gives {count} results, RECONCILER_MAX_RESULTS allows {policy.max_results}"
        return _keep_waiting(replace(row, reason=reason, finding="over_limit"), now, policy)
    if policy.observe:
        observed = "observing: KIE says success"
        return _poll_again(row, now, policy, observed) if ready.available else _on_empty(row, now, policy)
    if row.unstored:
        return Deliver()
    return _finish(row, now, policy) if row.stored else _on_empty(row, now, policy)


def _on_empty(row: Row, now: datetime, policy: Policy) -> Decision:
    """KIE says success and has given no output: ask again by the clock; only time and several looks conclude."""
    since = now - (row.empty_since or now)
    if not has_passed(EMPTY_BELIEVED_AFTER, row.empty_since, now, policy) or row.empties < EMPTY_LOOKS:
        return _look_again(now, since, row.reason or "", finding="empty_success")
    if row.status not in OPEN:
        return _wait_for_late_result(row, now, policy, row.reason or "")
    if policy.observe:
        return _poll_again(row, now, policy, "observing: KIE reports success without any output")
    return Fail("KIE reports success without any output", recheck_at=now + _parked_wait(row, now))


def _finish(row: Row, now: datetime, policy: Policy) -> Decision:
    """Write success once every result is stored, or without the missing ones once they have been waited for."""
    if row.delivered:
        return Finish()
    later = now + _parked_wait(row, now)
    whole = bool(row.stored) and len(row.stored) >= (row.shown or 0) and all(asset.stored for asset in row.assets)
    if is_repair(row) and whole:
        return Finish(later)
    if is_extension(row):
        return Finish(later) if len(row.stored) > (row.shown or 0) else _wait_for_missing(row, now, policy)
    seen = row.missing_since or now
    waited = has_waited_for_missing(row, now, policy)
    if waited and is_repair(row):
        return Done("KIE no longer gives every result")
    if waited and row.stored:
        return Finish(later)
    reason = f"{len(row.stored)} of {len(row.results)} results are stored; KIE has not given the others yet"
    return _look_again(now, now - seen, reason)


def _may_show_without_missing(row: Row, now: datetime, policy: Policy) -> bool:
    """Whether only missing results are left, and were waited for: that KIE is silent must not prolong the wait."""
    return row.status in OPEN and bool(row.stored) and not row.unstored and has_waited_for_missing(row, now, policy)


def _wait_for_missing(row: Row, now: datetime, policy: Policy) -> Decision:
    """The row shows what KIE has given; ask rarely for the rest, until its media is gone."""
    reason = f"{row.shown} of {len(row.results)} results are delivered; KIE has not given the others"
    if media_has_ended(row, now, policy):
        return Done(f"nothing left to fetch after {MEDIA_LIFE.days} days; last: {reason}")
    due = now + _parked_wait(row, now)
    return Reschedule(due, due, reason, finding="results_missing")


def _keep_waiting(row: Row, now: datetime, policy: Policy) -> Decision:
    """KIE has output that we cannot take yet: keep the row in flight, and say so, until its media is gone."""
    if media_has_ended(row, now, policy):
        return Done(f"nothing left to fetch after {MEDIA_LIFE.days} days; last: {row.reason}")
    return _look_again(now, now - (row.completed_at or now), row.reason or "", finding=row.finding)


def _look_again(now: datetime, since: timedelta, reason: str, *, finding: str | None = None) -> Reschedule:
    """Ask again at the next of the fixed times after `since`; visits in between change none of them."""
    wait = poll_interval.confirmation_wait(since.total_seconds())
    earliest = now + timedelta(seconds=max(poll_interval.MIN_INTERVAL, wait / 4))
    return Reschedule(now + timedelta(seconds=wait), earliest, reason, finding=finding)


def _on_callback_result(row: Row, observation: CallbackResult, now: datetime, policy: Policy) -> Decision:
    """A callback can bring results, but no failure and no empty success; only KIE's API can take a refusal back."""
    refused = row.status == "failed" and not row.gave_up
    if row.unstored and not refused and not policy.observe and len(row.results) <= policy.max_results:
        return Deliver()
    return _retry(row, now, policy, observation.unreachable.retry_after)


def _on_failed(row: Row, failed: Failed, now: datetime, policy: Policy) -> Decision:
    reason = failure_reason(failed)
    if row.status in OPEN and policy.observe:
        return _poll_again(row, now, policy, f"observing: KIE refused the task: {reason}")
    return Fail(reason) if row.status in OPEN else Done(f"KIE refused the task: {reason}")


def _on_task_unknown(row: Row, now: datetime, policy: Policy) -> Decision:
    if row.unknowns < policy.key_count:
        return _try_next_key(row, now)
    overdue = row.status in OPEN and age(row, now) > UNKNOWN_AFTER
    return _retry(replace(row, finding="task_unknown" if overdue else None), now, policy, None)


def _try_next_key(row: Row, now: datetime) -> Reschedule:
    """Poll again at once: another API key may have made the task."""
    due = now + timedelta(seconds=poll_interval.MIN_INTERVAL)
    return Reschedule(due, due, row.reason or "KIE does not know the task with this key", finding=row.finding)


def _on_unreachable(row: Row, observation: Unreachable, now: datetime, policy: Policy) -> Decision:
    # Once a key has known the task, every request uses that key, and would be rejected again.
    rejected = observation.reason == "unauthorized" and row.acknowledged_at is None
    if rejected and row.unknowns < policy.key_count and not observation.retry_after:
        return _try_next_key(row, now)
    if observation.request_sent:
        return _retry(row, now, policy, observation.retry_after)
    # No request was sent, so nothing has failed: the row only waits for its key.
    wait = min(max(observation.retry_after or 0.0, poll_interval.MIN_INTERVAL), poll_interval.MAX_RETRY_AFTER)
    due = now + timedelta(seconds=wait)
    return Reschedule(due, due, row.reason or "KIE was not asked", finding=row.finding)


def _on_delivery_failed(row: Row, failed: DeliveryFailed, now: datetime, policy: Policy) -> Decision:
    """A dead address or an error page is given up in the end; a bound of ours or our storage never fails a result."""
    provider_failed = failed.stage == "fetch" and failed.reason not in OUR_BOUNDS
    lasting = row.failures >= DELIVERY_ATTEMPTS and has_failed_long(row, now, policy)
    if provider_failed and lasting and may_give_up(row, now, policy):
        return _give_up(row, now, policy)
    return _retry(row, now, policy, failed.retry_after, permanent=failed.permanent and not failed.gone)


def _on_delivery_postponed(row: Row, postponed: DeliveryPostponed, now: datetime, policy: Policy) -> Decision:
    """Come again when there may be room, before the addresses expire; a spare request to KIE would not help."""
    if media_has_ended(row, now, policy) and not is_repair(row):
        return Done(f"nothing left to fetch after {MEDIA_LIFE.days} days; last: {row.reason}")
    due = now + timedelta(seconds=min(max(postponed.wait, poll_interval.MIN_INTERVAL), poll_interval.LONGEST_WAIT))
    if row.media_deadline is not None:
        due = min(due, max(row.media_deadline, now + timedelta(seconds=RECOVERY_SECONDS)))
    return Reschedule(due, due, row.reason or postponed.reason, finding=row.finding)


def _retry(row: Row, now: datetime, policy: Policy, retry_after: float | None, *, permanent: bool = False) -> Decision:
    if _may_show_without_missing(row, now, policy) and not policy.observe:
        return _finish(row, now, policy)
    # One missed poll says nothing about output that KIE has reported, be it unreadable or not there yet.
    ended = bool(row.results) or row.completed_at is not None
    if may_give_up(row, now, policy) and not ended:
        return _give_up(row, now, policy)
    lost = row.failures >= REPAIR_ATTEMPTS and has_failed_long(row, now, policy)
    if media_has_ended(row, now, policy) and (lost or not is_repair(row)):
        return Done(f"nothing left to fetch after {MEDIA_LIFE.days} days; last: {row.reason}")
    wait = poll_interval.backoff(row.failures, policy.jitter, retry_after)
    # Neither a task that has ended is parked, nor a failure: there the user waits only for our success.
    parked = age_since_step(row, now, policy) > policy.give_up_after and row.status in OPEN and not ended
    if parked:
        wait = max(wait, _parked_wait(row, now).total_seconds())
    # A permanent failure ends only when a person changes something, and each retry may be a whole transfer.
    least = wait if parked or permanent else _earliest_retry(wait, retry_after)
    return Reschedule(
        now + timedelta(seconds=wait),
        now + timedelta(seconds=least),
        row.reason or "no answer yet",
        finding="parked" if parked and row.finding in {None, "task_unknown"} else row.finding,
    )


def _earliest_retry(wait: float, retry_after: float | None) -> float:
    """Return the seconds of a wait after which a spare request may retry."""
    return min(wait, max(RECOVERY_SECONDS, min(retry_after or 0.0, poll_interval.MAX_RETRY_AFTER)))


def _give_up(row: Row, now: datetime, policy: Policy) -> Fail:
    hours = policy.give_up_after.total_seconds() / 3600
    return Fail(f"gave up after {hours:g} h; last: {row.reason}", recheck_at=now + _parked_wait(row, now))


def _poll_again(row: Row, now: datetime, policy: Policy, reason: str, *, set_generating: bool = False) -> Reschedule:
    interval = _poll_interval(row, age_since_step(row, now, policy).total_seconds(), policy)
    earliest = now + timedelta(seconds=max(poll_interval.MIN_INTERVAL, interval / 4))
    return Reschedule(now + timedelta(seconds=interval), earliest, reason, set_generating=set_generating)


def _poll_interval(row: Row, age: float, policy: Policy) -> float:
    duration_model = poll_interval.duration_model(row.model, row.kind, policy.duration_models)
    return poll_interval.interval(duration_model, age, policy.poll_price)


def _parked_wait(row: Row, now: datetime) -> timedelta:
    return timedelta(seconds=poll_interval.parked_wait(age(row, now).total_seconds()))
