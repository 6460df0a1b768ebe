"""The facts: what was seen, added to a row.

Pure and total; no opinion about it, which is `decide`'s. The visit calls this after everything it sees.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import assert_never

from reconciler.domain.model import (
    Identified,
    Observation,
    Ready,
    Refused,
    Row,
    Silence,
    Stored,
    Told,
    Unheard,
    Unidentified,
    Unknown,
    Unstored,
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
        case Silence():
            return row
        case Working():
            return replace(_answered(row, now), empties=0, misses=0, why=f"KIE says {seen.state}")
        case Ready():
            return _ready(_answered(row, now), seen, now)
        case Refused():
            return replace(_answered(row, now), misses=0, why=reason(seen))
        case Unknown():
            return replace(
                _missed(row, now),
                unknowns=row.unknowns + 1,
                finding=None,
                why=f"KIE does not know the task: {seen.reason}",
            )
        case Unheard():
            return _unheard(row, seen, now)
        case Told():
            return _told(row, seen, now)
        case Identified() | Unidentified():
            return _offered(row, seen, now)
        case Stored():
            return replace(row, assets=seen.assets, misses=0, why=None, finding=None)
        case Unstored():
            return _unstored(row, seen)
    assert_never(seen)


def reason(seen: Refused) -> str:
    """Return the provider's refusal as the user sees it: `failMsg (failCode)`."""
    return f"{seen.message} ({seen.code})" if seen.code else seen.message


def _looked(row: Row, now: datetime) -> Row:
    return replace(row, looked_at=now, looks=row.looks + 1)


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
    return replace(_looked(row, now), misses=row.misses + 1)


def _unheard(row: Row, seen: Unheard, now: datetime) -> Row:
    row = replace(row, why=_said("KIE", seen.reason, seen.detail))
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
        return replace(row, empties=row.empties + 1, why="KIE says success, without any output")
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
        misses=row.misses if row.sources else 0,
        completed_at=completed,
        took=row.took or seen.took,
        media_deadline=row.media_deadline or completed + ADDRESS_LIFE,
        why="KIE says success",
    )


def _offered(row: Row, seen: Identified | Unidentified, now: datetime) -> Row:
    if isinstance(seen, Unidentified):
        return replace(_missed(row, now), why=f"no task id yet; a callback offers one, but {seen.reason}")
    return replace(_answered(row, now), misses=0, why="a callback told which task it is, and KIE agrees")


def _told(row: Row, seen: Told, now: datetime) -> Row:
    missed = absorb(row, seen.unheard, now)
    if not seen.said.sources:
        return missed
    return replace(
        _ready(missed, seen.said, now),
        # A callback's word is good for one delivery: whatever is left of it afterwards is KIE's to confirm.
        stale=True,
        misses=missed.misses,
        why=f"{missed.why}; a callback of the task says success",
    )


def _unstored(row: Row, seen: Unstored) -> Row:
    refused = "storage_refuses" if seen.stage == "store" else "row_waits"
    finding = _FINDINGS.get(seen.reason) or (refused if seen.settled and not seen.gone else None)
    return replace(
        row,
        assets=seen.assets,
        stale=row.stale or seen.gone,
        misses=row.misses + 1,
        why=_said(seen.stage, seen.reason, seen.detail),
        finding=finding,
    )


def _said(who: str, word: str, detail: str) -> str:
    return f"{who}: {word}, {detail}" if detail else f"{who}: {word}"
