"""The facts: what was seen, added to a row.

Pure and total; no opinion about it, which is `decide`'s. The visit calls this after everything it sees.
"""

from __future__ import annotations

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
"""How long result addresses are good at least, by the provider's task page."""

_FINDINGS = {
    "host_unlisted": "host_unlisted",
    "unauthorized": "key_rejected",
    "key_missing": "key_rejected",
    "no_credits": "unpaid_account",
    "key_capped": "unpaid_account",
}


def absorb(row: Row, seen: Observation, now: datetime) -> Row:
    """Return the row with what was seen added to it."""
    match seen:
        case NotPolled():
            return row
        case Working():
            return replace(_answered(row, now), empties=0, failures=0, reason=f"KIE says {seen.state}")
        case Ready():
            return _ready(_answered(row, now), seen, now)
        case Failed():
            return replace(_answered(row, now), failures=0, reason=reason(seen))
        case TaskUnknown():
            return replace(
                _missed(row, now),
                unknowns=row.unknowns + 1,
                finding=None,
                reason=f"KIE does not know the task: {seen.reason}",
            )
        case Unreachable():
            return _unheard(row, seen, now)
        case CallbackResult():
            return _told(row, seen, now)
        case TaskIdentified() | TaskNotIdentified():
            return _offered(row, seen, now)
        case Stored():
            return replace(row, assets=seen.assets, failures=0, reason=None, finding=None)
        case DeliveryFailed():
            return _unstored(row, seen)
    assert_never(seen)


def reason(seen: Failed) -> str:
    """Return the provider's refusal as the user sees it: `failMsg (failCode)`."""
    return f"{seen.message} ({seen.code})" if seen.code else seen.message


def _looked(row: Row, now: datetime) -> Row:
    return replace(row, polled_at=now, polls=row.polls + 1)


def _answered(row: Row, now: datetime) -> Row:
    acknowledged = row.acknowledged_at or now
    return replace(
        _looked(row, now),
        acknowledged_at=acknowledged,
        answered_at=now,
        unknowns=0,
        finding=None,
    )


def _missed(row: Row, now: datetime) -> Row:
    return replace(_looked(row, now), failures=row.failures + 1)


def _unheard(row: Row, seen: Unreachable, now: datetime) -> Row:
    row = replace(row, reason=_said("KIE", seen.reason, seen.detail))
    if not seen.asked:
        return row
    return replace(
        _missed(row, now),
        # Another key of the ring may be the one that made the task.
        unknowns=row.unknowns + (seen.reason == "unauthorized"),
        finding=_FINDINGS.get(seen.reason),
    )


def _ready(row: Row, seen: Ready, now: datetime) -> Row:
    if not seen.sources:
        return replace(row, empties=row.empties + 1, reason="KIE says success, without any output")
    # The provider's clock is not ours: what it says must neither lengthen the media's life nor end it at once.
    completed = row.completed_at or min(max(seen.completed_at or now, row.created_at), now)
    begun = bool(row.sources) and any(asset.stored for asset in row.assets)
    return replace(
        row,
        # Receipts belong to numbers: another count would give the stored objects other meanings.
        sources=row.sources if begun and len(seen.sources) != len(row.sources) else seen.sources,
        stale=False,
        empties=0,
        # That the task is done says nothing of the deliveries that failed: they keep slowing the next.
        failures=row.failures if row.sources else 0,
        completed_at=completed,
        duration=row.duration or seen.duration,
        media_deadline=row.media_deadline or completed + ADDRESS_LIFE,
        reason="KIE says success",
    )


def _offered(row: Row, seen: TaskIdentified | TaskNotIdentified, now: datetime) -> Row:
    if isinstance(seen, TaskNotIdentified):
        return replace(_missed(row, now), reason=f"no task id yet; a callback offers one, but {seen.reason}")
    return replace(_answered(row, now), failures=0, reason="a callback told which task it is, and KIE agrees")


def _told(row: Row, seen: CallbackResult, now: datetime) -> Row:
    missed = absorb(row, seen.unheard, now)
    if not seen.said.sources:
        return missed
    return replace(
        _ready(missed, seen.said, now),
        # A callback's word is good for one delivery: whatever is left of it afterwards is KIE's to confirm.
        stale=True,
        failures=missed.failures,
        reason=f"{missed.reason}; a callback of the task says success",
    )


def _unstored(row: Row, seen: DeliveryFailed) -> Row:
    refused = "storage_refuses" if seen.stage == "store" else "row_waits"
    finding = _FINDINGS.get(seen.reason) or (refused if seen.settled and not seen.gone else None)
    return replace(
        row,
        assets=seen.assets,
        stale=row.stale or seen.gone,
        failures=row.failures + 1,
        reason=_said(seen.stage, seen.reason, seen.detail),
        finding=finding,
    )


def _said(who: str, word: str, detail: str) -> str:
    return f"{who}: {word}, {detail}" if detail else f"{who}: {word}"
