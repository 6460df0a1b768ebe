"""Adds an observation to a row.

Pure and total. The visit calls `absorb` after every observation; what happens next is `decide`'s to say.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import assert_never

from reconciler.domain.model import (
    CallbackResult,
    DeliveryFailed,
    Failed,
    NotPolled,
    Observation,
    Ready,
    Row,
    Stored,
    TaskIdentified,
    TaskNotIdentified,
    TaskUnknown,
    Unreachable,
    Working,
)

ADDRESS_LIFE = timedelta(hours=24)
"""How long result addresses work at least, according to the provider's page about tasks."""

_FINDINGS = {
    "host_unlisted": "host_unlisted",
    "unauthorized": "key_rejected",
    "key_missing": "key_rejected",
    "no_credits": "unpaid_account",
    "key_capped": "unpaid_account",
}


def absorb(row: Row, observation: Observation, now: datetime) -> Row:
    """Return the row with this observation added."""
    match observation:
        case NotPolled():
            return row
        case Working():
            return replace(_with_answer(row, now), empties=0, failures=0, reason=f"KIE says {observation.state}")
        case Ready():
            return _with_ready(_with_answer(row, now), observation, now)
        case Failed():
            return replace(_with_answer(row, now), failures=0, reason=failure_reason(observation))
        case TaskUnknown():
            return replace(
                _with_failed_poll(row, now),
                unknowns=row.unknowns + 1,
                finding=None,
                reason=f"KIE does not know the task: {observation.reason}",
            )
        case Unreachable():
            return _with_unreachable(row, observation, now)
        case CallbackResult():
            return _with_callback_result(row, observation, now)
        case TaskIdentified() | TaskNotIdentified():
            return _with_identification(row, observation, now)
        case Stored():
            return replace(row, assets=observation.assets, failures=0, reason=None, finding=None)
        case DeliveryFailed():
            return _with_failed_delivery(row, observation)
    assert_never(observation)


def failure_reason(failed: Failed) -> str:
    """Return the provider's refusal as the user sees it: `failMsg (failCode)`."""
    return f"{failed.message} ({failed.code})" if failed.code else failed.message


def _count_poll(row: Row, now: datetime) -> Row:
    return replace(row, polled_at=now, polls=row.polls + 1)


def _with_answer(row: Row, now: datetime) -> Row:
    acknowledged = row.acknowledged_at or now
    return replace(_count_poll(row, now), acknowledged_at=acknowledged, answered_at=now, unknowns=0, finding=None)


def _with_failed_poll(row: Row, now: datetime) -> Row:
    return replace(_count_poll(row, now), failures=row.failures + 1)


def _with_unreachable(row: Row, observation: Unreachable, now: datetime) -> Row:
    row = replace(row, reason=_sentence("KIE", observation.reason, observation.detail))
    if not observation.request_sent:
        return row
    return replace(
        _with_failed_poll(row, now),
        # Another of our API keys may have made the task.
        unknowns=row.unknowns + (observation.reason == "unauthorized"),
        finding=_FINDINGS.get(observation.reason),
    )


def _with_ready(row: Row, ready: Ready, now: datetime) -> Row:
    if not ready.sources:
        return replace(row, empties=row.empties + 1, reason="KIE says success, without any output")
    # The provider's clock may be wrong: its time must neither extend the life of the media nor end it at once.
    completed = row.completed_at or min(max(ready.completed_at or now, row.created_at), now)
    partly_stored = bool(row.sources) and any(asset.stored for asset in row.assets)
    return replace(
        row,
        # A receipt belongs to a position: in a list of another length the stored objects would mean other results.
        sources=row.sources if partly_stored and len(ready.sources) != len(row.sources) else ready.sources,
        stale=False,
        empties=0,
        # Failed deliveries keep slowing the next one: the end of the task says nothing about them.
        failures=row.failures if row.sources else 0,
        completed_at=completed,
        duration=row.duration or ready.duration,
        media_deadline=row.media_deadline or completed + ADDRESS_LIFE,
        reason="KIE says success",
    )


def _with_identification(row: Row, observation: TaskIdentified | TaskNotIdentified, now: datetime) -> Row:
    if isinstance(observation, TaskNotIdentified):
        reason = f"no task id yet; a callback offers one, but {observation.reason}"
        return replace(_with_failed_poll(row, now), reason=reason)
    reason = "a callback named the task, and KIE confirms it"
    return replace(_with_answer(row, now), failures=0, reason=reason)


def _with_callback_result(row: Row, observation: CallbackResult, now: datetime) -> Row:
    unreachable = absorb(row, observation.unreachable, now)
    if not observation.ready.sources:
        return unreachable
    return replace(
        _with_ready(unreachable, observation.ready, now),
        # A callback's addresses are used for one delivery; after that KIE must confirm those that are left.
        stale=True,
        failures=unreachable.failures,
        reason=f"{unreachable.reason}; a callback of the task says success",
    )


def _with_failed_delivery(row: Row, observation: DeliveryFailed) -> Row:
    blocked = "storage_refuses" if observation.stage == "store" else "row_waits"
    finding = _FINDINGS.get(observation.reason)
    if finding is None and observation.permanent and not observation.gone:
        finding = blocked
    return replace(
        row,
        assets=observation.assets,
        stale=row.stale or observation.gone,
        failures=row.failures + 1,
        reason=_sentence(observation.stage, observation.reason, observation.detail),
        finding=finding,
    )


def _sentence(subject: str, reason: str, detail: str) -> str:
    return f"{subject}: {reason}, {detail}" if detail else f"{subject}: {reason}"
