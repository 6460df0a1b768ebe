"""The opinion: what happens next with a row that has absorbed what was seen.

Pure and total. Poll and IdentifyTask follow only NotPolled. Deliver follows only NotPolled, Ready or CallbackResult.
After a delivery comes Finish, Reschedule, Fail or Done, so a visit ends within three decisions. After AttachTask the
visit begins again, once, with a row that has a task. The visit is the only caller, and does what each decision says.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import assert_never

from reconciler.domain import poll_interval
from reconciler.domain.absorb import reason
from reconciler.domain.eligibility import ours, repairing
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
    Failed,
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
    TaskNotIdentified,
    TaskUnknown,
    Unreachable,
    Working,
)

MEDIA_LIFE = timedelta(days=14)
"""How long the provider keeps media at most; after that nothing can be fetched."""

EMPTY_LOOKS = 5
"""A success without output is believed only after this many looks that agree, 40 minutes apart in all.

Some families are reported to show their addresses later than their success."""

DELIVERY_TRIES = 5
"""A task that KIE finished is given up only after this many deliveries in a row have failed."""

ASK_AGAIN = 3
"""After so many misses in a row known addresses are asked for again, and after so many more.

One may be dead without saying so, and a task is given up only where KIE's last word about it is fresh.
"""

RECOVERY = 10.0
"""Seconds after a miss from which a spare request may try again: an outage that ends must not be slept through.

Behind a lease that has to run out and a line that has gone silent it still leaves the row within a minute.
"""

REPAIR_TRIES = 8
"""What is gone from storage is called lost only after so many misses in a row, however old its media: about an hour."""


def decide(row: Row, seen: Observation, now: datetime, limits: Policy) -> Decision:
    """Return what happens next with a row that has absorbed what was seen."""
    if not ours(row, limits.their_hosts):
        return Done(f"status {row.status} is not ours to move")
    decision = _opinion(row, seen, now, limits)
    if not isinstance(decision, Done) or not repairing(row):
        return decision
    if limits.observe:
        hour = now + timedelta(hours=1)
        return Reschedule(hour, hour, decision.reason)
    return replace(decision, lost=True)


def _opinion(row: Row, seen: Observation, now: datetime, limits: Policy) -> Decision:
    match seen:
        case NotPolled():
            return _begin(row, now, limits)
        case Working():
            return _working(row, seen, now, limits)
        case Ready():
            return _done_there(row, seen, now, limits)
        case CallbackResult():
            return _told(row, seen, now, limits)
        case Failed():
            return _refused(row, seen, now, limits)
        case TaskIdentified() | TaskNotIdentified():
            return _offered(row, seen, now, limits)
        case Stored():
            return Finish()
        case TaskUnknown():
            return _unknown(row, now, limits)
        case Unreachable():
            return _unheard(row, seen, now, limits)
        case DeliveryFailed():
            return _missing(row, now, limits, seen.retry_after, settled=seen.settled and not seen.gone)
    assert_never(seen)


def _begin(row: Row, now: datetime, limits: Policy) -> Decision:
    if row.task_id is None:
        return _without_task(row, now, limits)
    if limits.observe:
        return Poll()
    if row.delivered:
        return Finish()
    if row.sources and not row.stale and (row.failures == 0 or row.failures % ASK_AGAIN):
        return Deliver()
    if row.reason is None and row.polls == 0 and not limits.spare:
        return _first_look(row, now, limits)
    return Poll()


def _first_look(row: Row, now: datetime, limits: Policy) -> Decision:
    """Where no request is to spare, a fresh row is looked at when tasks of its model begin to end."""
    curve = poll_interval.curve_for(row.model, row.kind, limits.curves)
    due = _task_began(row) + timedelta(seconds=poll_interval.gap(curve, 0.0, limits.theta))
    if due <= now:
        return Poll()
    return Reschedule(
        due, now + timedelta(seconds=poll_interval.FASTEST), "waiting for its first look: no request is to spare"
    )


def _without_task(row: Row, now: datetime, limits: Policy) -> Decision:
    if row.status not in OPEN:
        return Done("there is no task id to ask about")
    if row.create_refusal is not None and not limits.observe:
        return Fail(row.create_refusal)
    if row.offered and not limits.observe:
        return IdentifyTask()
    wait = timedelta(seconds=poll_interval.parked(_age(row, now).total_seconds()))
    return Reschedule(now + wait, now + wait, "no task id yet", finding=_no_task(row, now))


def _no_task(row: Row, now: datetime) -> str | None:
    return "no_task" if _age(row, now) > timedelta(minutes=10) else None


def _offered(row: Row, seen: TaskIdentified | TaskNotIdentified, now: datetime, limits: Policy) -> Decision:
    if isinstance(seen, TaskIdentified):
        return AttachTask(seen.task_id)
    seconds = poll_interval.backoff(row.failures, limits.jitter, seen.retry_after)
    early = seconds if seen.heard else _recovery(seconds, seen.retry_after)
    until, soon = now + timedelta(seconds=seconds), now + timedelta(seconds=early)
    return Reschedule(until, soon, row.reason or "no task id yet", finding=_no_task(row, now))


def _working(row: Row, seen: Working, now: datetime, limits: Policy) -> Decision:
    if _may_give_up(row, now, limits):
        return _give_up(row, now, limits)
    if row.status not in OPEN:
        return _slowly(row, now, limits, f"KIE says {seen.state}")
    begun = seen.begun and row.status == "queued" and not limits.observe
    return _paced(row, now, limits, f"KIE says {seen.state}", begun=begun)


def _slowly(row: Row, now: datetime, limits: Policy, why: str) -> Decision:
    """A row that the user already sees as ended: a late result is welcome, and costs few looks once it is late."""
    if now > _media_ends(row):
        return Done(f"nothing left to fetch after {MEDIA_LIFE.days} days; last: {why}")
    if row.status in SUCCEEDED and _age(row, now) <= limits.give_up_after:
        # The application heard of the success before KIE's record did: its user waits for the asset.
        return _paced(row, now, limits, why)
    wait = timedelta(seconds=poll_interval.parked(_age(row, now).total_seconds()))
    return Reschedule(now + wait, now + wait, why)


def _done_there(row: Row, seen: Ready, now: datetime, limits: Policy) -> Decision:
    if seen.sources:
        return _paced(row, now, limits, "observing: KIE says success") if limits.observe else Deliver()
    if row.empties < EMPTY_LOOKS:
        wait = timedelta(seconds=30 * 4 ** (row.empties - 1))
        return Reschedule(now + wait, now + wait, "KIE says success, without any output", finding="empty_success")
    if row.sources and not limits.observe:
        # It has told them before: what is known is delivered, or told to be gone by its own host.
        return Deliver()
    if row.status in OPEN and limits.observe:
        return _paced(row, now, limits, "observing: KIE reports success without any output")
    if row.status in OPEN:
        return Fail("KIE reports success without any output")
    return Done("KIE reports success without any output")


def _told(row: Row, seen: CallbackResult, now: datetime, limits: Policy) -> Decision:
    """A payload may bring results, no failure and no success without output; KIE alone takes a refusal back."""
    refused = row.status == "failed" and not row.gave_up
    if seen.said.sources and not refused and not limits.observe:
        return Deliver()
    return _missing(row, now, limits, seen.unheard.retry_after)


def _refused(row: Row, seen: Failed, now: datetime, limits: Policy) -> Decision:
    if row.status in OPEN and limits.observe:
        return _paced(row, now, limits, f"observing: KIE refused the task: {reason(seen)}")
    if row.status in OPEN:
        return Fail(reason(seen))
    return Done(f"KIE refused the task: {reason(seen)}")


def _unknown(row: Row, now: datetime, limits: Policy) -> Decision:
    return _next_key(row, now) if row.unknowns < limits.keys else _missing(row, now, limits, None)


def _next_key(row: Row, now: datetime) -> Reschedule:
    """Another key of the ring may have made the task: that is no reason to wait."""
    soon = now + timedelta(seconds=poll_interval.FASTEST)
    return Reschedule(soon, soon, row.reason or "not heard of with this key", finding=row.finding)


def _unheard(row: Row, seen: Unreachable, now: datetime, limits: Policy) -> Decision:
    # Once a key has known the task, every request goes out with that key, and would be rejected again.
    rejected = seen.reason == "unauthorized" and row.acknowledged_at is None
    if rejected and row.unknowns < limits.keys and not seen.retry_after:
        return _next_key(row, now)
    if seen.asked:
        return _missing(row, now, limits, seen.retry_after)
    # Nothing was tried, so nothing has failed: the row waits for its key.
    until = now + timedelta(seconds=min(max(seen.retry_after or 0.0, poll_interval.FASTEST), poll_interval.HEEDED))
    return Reschedule(until, until, row.reason or "not asked", finding=row.finding)


def _missing(row: Row, now: datetime, limits: Policy, retry_after: float | None, *, settled: bool = False) -> Decision:
    if _may_give_up(row, now, limits) and (not row.sources or row.failures >= DELIVERY_TRIES):
        return _give_up(row, now, limits)
    if now > _media_ends(row) and (row.failures >= REPAIR_TRIES or not repairing(row)):
        return Done(f"nothing left to fetch after {MEDIA_LIFE.days} days; last: {row.reason}")
    seconds = poll_interval.backoff(row.failures, limits.jitter, retry_after)
    age = _age(row, now)
    # Where the task has ended, or the user sees a failure, there is nothing to wait for but our own success.
    parked = age > limits.give_up_after and row.status in OPEN and not row.sources
    if parked:
        seconds = max(seconds, poll_interval.parked(age.total_seconds()))
    # What is settled ends by somebody's hand, not by itself, and each try may be a whole transfer.
    early = seconds if parked or settled else _recovery(seconds, retry_after)
    return Reschedule(
        now + timedelta(seconds=seconds),
        now + timedelta(seconds=early),
        row.reason or "nothing heard",
        finding=row.finding or ("parked" if parked else None),
    )


def _recovery(seconds: float, retry_after: float | None) -> float:
    """Return the seconds of a wait after which a spare request may try."""
    return min(seconds, max(RECOVERY, min(retry_after or 0.0, poll_interval.HEEDED)))


def _may_give_up(row: Row, now: datetime, limits: Policy) -> bool:
    """Whether KIE knows the task, has answered about it lately, and the time is up."""
    if row.status not in OPEN or limits.observe or row.acknowledged_at is None or row.answered_at is None:
        return False
    return _age(row, now) > limits.give_up_after and now - row.answered_at <= timedelta(hours=1)


def _give_up(row: Row, now: datetime, limits: Policy) -> Fail:
    hours = limits.give_up_after.total_seconds() / 3600
    wait = timedelta(seconds=poll_interval.parked(_age(row, now).total_seconds()))
    return Fail(f"gave up after {hours:g} h; last: {row.reason}", until=now + wait)


def _paced(row: Row, now: datetime, limits: Policy, why: str, *, begun: bool = False) -> Reschedule:
    age = _age(row, now).total_seconds()
    gap = poll_interval.gap(poll_interval.curve_for(row.model, row.kind, limits.curves), age, limits.theta)
    early = max(poll_interval.FASTEST, gap / 4)
    return Reschedule(now + timedelta(seconds=gap), now + timedelta(seconds=early), why, begun=begun)


def _age(row: Row, now: datetime) -> timedelta:
    return max(now - _task_began(row), timedelta())


def _task_began(row: Row) -> datetime:
    """When the row got its present task, as far as is known: with a new one it begins anew."""
    return max(row.created_at, row.task_since or row.created_at)


def _media_ends(row: Row) -> datetime:
    return (row.completed_at or _task_began(row)) + MEDIA_LIFE
