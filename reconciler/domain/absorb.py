"""Adds an observation to a row.

Pure and total. The visit calls `absorb` after every observation; what happens next is `decide`'s to say.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import assert_never

from reconciler.domain import results
from reconciler.domain.failures import series
from reconciler.domain.failures.party import FETCH, KIE, PROVE, STORE, Party, failed_party
from reconciler.domain.model import Result, Row
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

ADDRESS_LIFE = timedelta(hours=24)
"""How long result addresses work at least, according to the provider's page about tasks."""

EMPTY_LOOKS_APART = timedelta(minutes=2)
"""An empty success counts only this long after the last one that counted: asking often must not hurry a conclusion."""

MAX_KEPT = 1000
"""No more results than this are kept; a task with more waits, because no setting allows so many."""

_FINDINGS = {
    "host_unlisted": "host_unlisted",
    "too_large": "over_limit",
    "type_refused": "over_limit",
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
        case Working() | Ready() | Unreadable() | Failed():
            return _with_record(_with_answer(row, now), observation, now)
        case TaskUnknown():
            return replace(
                _with_failed_poll(row, now),
                # KIE has answered: it only does not know the task.
                failing=series.end(row.failing, "kie"),
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
            row = replace(row, failing=series.end(row.failing, "source", "storage"))
            return replace(_without_failures(row), assets=observation.assets, reason=None, finding=None)
        case DeliveryFailed():
            return _with_failed_delivery(row, observation, now)
        case DeliveryPostponed():
            reason = _sentence(FETCH, observation.reason, observation.detail)
            row = _with_series(row, FETCH, observation.reason, reason, now, at_least=series.SEVERAL)
            return replace(row, assets=observation.assets, reason=reason)
    assert_never(observation)


def _with_record(row: Row, observation: Working | Ready | Unreadable | Failed, now: datetime) -> Row:
    match observation:
        case Working():
            return replace(_without_failures(_without_empties(row)), reason=f"KIE says {observation.state}")
        case Ready():
            return _with_ready(row, observation, now)
        case Unreadable():
            return _with_unreadable(row, observation, now)
        case Failed():
            return replace(_without_failures(row), reason=failure_reason(observation))
    assert_never(observation)


def failure_reason(failed: Failed) -> str:
    """Return the provider's refusal as the user sees it: `failMsg (failCode)`."""
    return f"{failed.message} ({failed.code})" if failed.code else failed.message


def _count_poll(row: Row, now: datetime) -> Row:
    return replace(row, polled_at=now, polls=row.polls + 1)


def _with_answer(row: Row, now: datetime) -> Row:
    acknowledged = row.acknowledged_at or now
    return replace(
        _count_poll(row, now),
        acknowledged_at=acknowledged,
        answered_at=now,
        unknowns=0,
        failing=series.end(row.failing, "kie"),
        finding=None,
    )


def _with_failed_poll(row: Row, now: datetime) -> Row:
    return _with_failure(_count_poll(row, now), now)


def _with_failure(row: Row, now: datetime) -> Row:
    return replace(row, failures=row.failures + 1, failing_since=row.failing_since or now)


def _with_series(row: Row, stage: str, code: str, reason: str, now: datetime, *, at_least: int = 1) -> Row:
    """Return the row with one more failure in a row of the side that has failed, if that is one which is counted.

    Where a breaker refuses the attempt, other rows have just failed several times: `at_least` stands for those.
    """
    side = series.SIDES.get(failed_party(stage, code))
    return (
        row if side is None else replace(row, failing=series.extend(row.failing, side, reason, now, at_least=at_least))
    )


def _without_failures(row: Row) -> Row:
    return replace(row, failures=0, failing_since=None)


def _without_empties(row: Row) -> Row:
    return replace(row, empties=0, empty_since=None, empty_counted_at=None)


def _with_unreachable(row: Row, observation: Unreachable, now: datetime) -> Row:
    reason = _sentence(KIE, observation.reason, observation.detail)
    row = replace(row, reason=reason)
    if observation.silent_for is not None:
        return _with_series(row, KIE, observation.reason, reason, now, at_least=series.SEVERAL)
    if not observation.request_sent:
        return row
    if failed_party(KIE, observation.reason) is Party.KIE_API:
        row = _with_series(row, KIE, observation.reason, reason, now)
    else:
        row = replace(row, failing=series.end(row.failing, "kie"))
    return replace(
        _with_failed_poll(row, now),
        # Another of our API keys may have made the task.
        unknowns=row.unknowns + (observation.reason == "unauthorized"),
        finding=_FINDINGS.get(observation.reason),
    )


def _with_ready(row: Row, ready: Ready, now: datetime) -> Row:
    merged = results.merge(_known(row, ready), ready.results) if len(ready.results) <= MAX_KEPT else row.results
    # Ids that are new in each answer would add results without end.
    merged = merged if len(merged) <= MAX_KEPT else row.results
    first = not any(result.available for result in row.results)
    row = replace(
        _with_completion(row, ready.completed_at, now),
        results=merged,
        duration=row.duration or ready.duration,
        contradiction=ready.contradiction or row.contradiction,
    )
    row = replace(row, missing_since=(row.missing_since or now) if row.missing else None)
    if not ready.available:
        return _with_empty(row, now)
    return replace(
        # Failed deliveries keep slowing the next one: the end of the task says nothing about them.
        _without_failures(_without_empties(row)) if first else _without_empties(row),
        stale=False,
        media_deadline=row.media_deadline or (row.completed_at or now) + ADDRESS_LIFE,
        reason="KIE says success",
    )


def _known(row: Row, ready: Ready) -> tuple[Result, ...]:
    """Return the known results that still count.

    Where KIE's own record speaks, those that only a callback has named do not; where it reports a failure, those that
    have not arrived do not.
    """
    stored = {result.n for result in row.stored}
    by_record = all(result.confirmed for result in ready.results)
    return tuple(
        result
        for result in row.results
        if result.n in stored
        or ((result.confirmed or not by_record) and (result.available or ready.contradiction is None))
    )


def _with_completion(row: Row, completed_at: datetime | None, now: datetime) -> Row:
    # The provider's clock may be wrong: its time must neither extend the life of the media nor end it at once.
    return replace(row, completed_at=row.completed_at or min(max(completed_at or now, row.created_at), now))


def _with_empty(row: Row, now: datetime) -> Row:
    counts = row.empty_counted_at is None or now - row.empty_counted_at >= EMPTY_LOOKS_APART
    return replace(
        row,
        empties=row.empties + counts,
        empty_since=row.empty_since or now,
        empty_counted_at=now if counts else row.empty_counted_at,
        reason="KIE says success, without any output",
    )


def _with_unreadable(row: Row, unreadable: Unreadable, now: datetime) -> Row:
    row = _without_failures(_without_empties(_with_completion(row, unreadable.completed_at, now)))
    fields = ", ".join(unreadable.fields)
    return replace(
        row,
        media_deadline=row.media_deadline or (row.completed_at or now) + ADDRESS_LIFE,
        finding="unreadable_output",
        reason=f"KIE says success, with output that cannot be read (model {row.model or 'unknown'}, fields {fields})",
    )


def _with_identification(row: Row, observation: TaskIdentified | TaskNotIdentified, now: datetime) -> Row:
    if isinstance(observation, TaskNotIdentified):
        reason = f"no task id yet; a callback offers one, but {observation.reason}"
        ended = series.end(row.failing, "kie")
        failing = ended if observation.all_answered else series.extend(row.failing, "kie", reason, now)
        return replace(_with_failed_poll(row, now), reason=reason, failing=failing)
    reason = "a callback named the task, and KIE confirms it"
    return replace(_without_failures(_with_answer(row, now)), reason=reason)


def _with_callback_result(row: Row, observation: CallbackResult, now: datetime) -> Row:
    unreachable = absorb(row, observation.unreachable, now)
    if not observation.ready.available:
        return unreachable
    claimed = tuple(replace(result, confirmed=False) for result in observation.ready.results)
    return replace(
        _with_ready(unreachable, replace(observation.ready, results=claimed), now),
        # A callback's addresses are used for one delivery; after that KIE must confirm those that are left.
        stale=True,
        failures=unreachable.failures,
        failing_since=unreachable.failing_since,
        reason=f"{unreachable.reason}; a callback of the task says success",
    )


def _with_failed_delivery(row: Row, observation: DeliveryFailed, now: datetime) -> Row:
    stage, reason = observation.stage, _sentence(observation.stage, observation.reason, observation.detail)
    finding = _FINDINGS.get(observation.reason)
    if finding is None and observation.permanent and not observation.gone:
        storage = failed_party(stage, observation.reason) is Party.STORAGE
        finding = "storage_refuses" if storage else "row_waits"
    return replace(
        _with_series(_with_what_worked(row, observation), stage, observation.reason, reason, now),
        failures=row.failures + 1,
        failing_since=row.failing_since or now,
        results=_without_dead_addresses(row.results, observation),
        assets=observation.assets,
        stale=row.stale or observation.gone,
        reason=reason,
        finding=finding,
    )


def _with_what_worked(row: Row, failed: DeliveryFailed) -> Row:
    """Return the row without the series of the sides that have worked in this delivery, before it failed."""
    if sum(asset.stored for asset in failed.assets) > sum(asset.stored for asset in row.assets):
        return replace(row, failing=series.end(row.failing, "source", "storage"))
    if failed.stage in {STORE, PROVE}:
        return replace(row, failing=series.end(row.failing, "source"))
    return row


def _without_dead_addresses(known: tuple[Result, ...], failed: DeliveryFailed) -> tuple[Result, ...]:
    """Return the results; one that KIE no longer gives, and whose old address is dead or refused, is a hole."""
    useless = failed.stage == "fetch" and (failed.gone or failed.permanent)
    return tuple(
        replace(result, addresses=()) if useless and result.n == failed.n and not result.current else result
        for result in known
    )


def _sentence(subject: str, reason: str, detail: str) -> str:
    return f"{subject}: {reason}, {detail}" if detail else f"{subject}: {reason}"
