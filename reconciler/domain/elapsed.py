"""How old a row is, and what elapsed time proves about it.

`decide` concludes what cannot be taken back only from these functions, and never from a clock that may have stepped.
Times are the database's. Pure.
"""

from datetime import datetime, timedelta

from reconciler.domain.model import OPEN, Policy, Row

MEDIA_LIFE = timedelta(days=14)
"""How long the provider keeps media at most; after that nothing can be fetched."""

EMPTY_BELIEVED_AFTER = timedelta(minutes=40)
"""A success without output is believed this long after KIE first reported it.

Some dialects are reported to show their addresses later than their success."""

EMPTY_LOOKS = 4
"""At least this many looks, each two minutes after the one before, must have found the success without output.

A daemon that stood still for 40 minutes has looked only twice."""

MISSING_AFTER_COMPLETION = timedelta(minutes=20)
"""A result that KIE announced without an address is waited for until this long after KIE completed the task."""

MISSING_AFTER_SEEN = timedelta(minutes=10)
"""A result without an address is waited for at least this long after we first saw that it is missing."""

UNPROVEN_AGE = timedelta(minutes=50)
"""No row is older by a clock that is not trusted: below this age every row is polled at least every five minutes."""

FAILING_FOR = timedelta(minutes=10)
"""Conclusions from failures in a row need this much time since the first one: requested visits must not hurry them."""


def has_failed_long(row: Row, now: datetime, policy: Policy) -> bool:
    """Return whether the failures in a row have lasted for FAILING_FOR."""
    return has_passed(FAILING_FOR, row.failing_since, now, policy)


def has_passed(span: timedelta, since: datetime | None, now: datetime, policy: Policy) -> bool:
    """Return whether so much time has passed since then, as far as the clock is trusted.

    A time from before the clock's last step proves nothing about the time until that step.
    """
    if since is None or not policy.clock_trusted:
        return False
    return now - max(since, policy.clock_stepped_at or since) >= span


def has_waited_for_missing(row: Row, now: datetime, policy: Policy) -> bool:
    """Return whether results without an address have been waited for long enough."""
    completed = has_passed(MISSING_AFTER_COMPLETION, row.completed_at, now, policy)
    return completed and has_passed(MISSING_AFTER_SEEN, row.missing_since, now, policy)


def may_give_up(row: Row, now: datetime, policy: Policy) -> bool:
    """Return whether KIE knows the task, has answered within the last hour, and `give_up_after` has passed."""
    if row.status not in OPEN or policy.observe or row.acknowledged_at is None or row.answered_at is None:
        return False
    overdue = has_passed(policy.give_up_after, task_start(row), now, policy)
    return overdue and now - row.answered_at <= timedelta(hours=1)


def age(row: Row, now: datetime) -> timedelta:
    """Return how long the row has had its present task."""
    return max(now - task_start(row), timedelta())


def age_since_step(row: Row, now: datetime, policy: Policy) -> timedelta:
    """Return the age for the next poll: a row from before the clock's last step may be as young as the step.

    A clock that is not trusted may have stepped before this process started.
    """
    start = task_start(row)
    passed = max(now - max(start, policy.clock_stepped_at or start), timedelta())
    return passed if policy.clock_trusted else min(passed, UNPROVEN_AGE)


def task_start(row: Row) -> datetime:
    """Return when the row got its present task, as far as is known."""
    return max(row.created_at, row.task_since or row.created_at)


def media_has_ended(row: Row, now: datetime, policy: Policy) -> bool:
    """Return whether KIE has deleted the media."""
    return has_passed(MEDIA_LIFE, row.completed_at or task_start(row), now, policy)
