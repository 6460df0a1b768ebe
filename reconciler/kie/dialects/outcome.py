"""Builds the observation from what a record holds: Ready, Unreadable, Failed or Unreachable.

The known places of the dialect come first; other fields are searched only where those announce nothing. The form and
length of addresses are checked here, their hosts where they are fetched. Only the dialects call this.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from reconciler.domain.model import Result
from reconciler.domain.observations import Failed, Ready, Unreachable, Unreadable
from reconciler.kie.dialects.parsing import SUCCESS_CODES, integer, printable_line, timestamp
from reconciler.kie.dialects.places import NOTHING, Found, Place
from reconciler.kie.dialects.search import fields_with_addresses, search

MAX_DURATION = timedelta(days=1)

_LONGEST_FIELD = 120


def ready(
    record: Mapping[str, object], places: Sequence[Place], *, documents: Place | None = None, posters: bool = False
) -> Ready | Unreadable:
    """Return the success with what the record announces; `places` are its known places, the preferred first.

    `documents` reads the words that are a result beside the others. `posters`: see `search`.
    """
    found, words = _known(record, places), documents(record) if documents else NOTHING
    found = Found(found.results + words.results, found.unreadable + words.unreadable)
    if not (found.results or found.unreadable):
        found = search(record, posters=posters)
    elif not found.available:
        # An address elsewhere may be the one that the known place lacks: this is no success without output.
        found = replace(found, unreadable=found.unreadable or fields_with_addresses(record, posters=posters))
    return _success(record, found)


def ready_as_known(record: Mapping[str, object], places: Sequence[Place]) -> Ready | Unreadable:
    """Return the success with what these places announce, and with nothing else."""
    return _success(record, _known(record, places))


def failed_beside(record: Mapping[str, object], places: Sequence[Place], failure: Failed) -> Ready | Failed:
    """Return the failure; where the record holds finished results too, the success with these.

    What was made is delivered. A result that a failed record lacks will not come any more.
    """
    found = _known(record, places)
    if found.unreadable or not found.available:
        return failure
    made = _numbered(tuple(result for result in found.results if result.available))
    said = f"{failure.message} ({failure.code})" if failure.code else failure.message
    return Ready(made, _completed(record), _duration(record), contradiction=said)


def failed(message: object, code: object) -> Failed:
    """Return the failure that the provider reports; its message is never empty."""
    text = printable_line(message) or "KIE says that the task failed, without a reason"
    return Failed(text, code=error_code(code))


def error_code(code: object) -> str | None:
    """Return the code as text, None if it means no error."""
    return None if integer(code) in SUCCESS_CODES else printable_line(code) or None


def unknown_state(value: object) -> Unreachable:
    """Return the observation for an undocumented state, which settles nothing."""
    return Unreachable("unknown_state", printable_line(value))


def _known(record: Mapping[str, object], places: Sequence[Place]) -> Found:
    """Return what the first place with a result holds, else what the first place with a hole announces."""
    announced = NOTHING
    for place in places:
        found = place(record)
        if found.unreadable or found.available:
            return found
        announced = announced if announced.results else found
    return announced


def _success(record: Mapping[str, object], found: Found) -> Ready | Unreadable:
    if found.unreadable:
        # The names come from the record, and are shown to people.
        return Unreadable(
            tuple(printable_line(field)[:_LONGEST_FIELD] for field in found.unreadable), _completed(record)
        )
    return Ready(_numbered(found.results), _completed(record), _duration(record))


def _numbered(results: Sequence[Result]) -> tuple[Result, ...]:
    return tuple(replace(result, n=n) for n, result in enumerate(results))


def _completed(record: Mapping[str, object]) -> datetime | None:
    completed = timestamp(record.get("completeTime"))
    return completed if completed is not None and completed.tzinfo is not None else None


def _duration(record: Mapping[str, object]) -> timedelta | None:
    created, completed = timestamp(record.get("createTime")), timestamp(record.get("completeTime"))
    if created and completed and (created.tzinfo is None) == (completed.tzinfo is None):
        duration = completed - created
    else:
        # Documented as milliseconds, but seconds in every recorded answer.
        duration = timedelta(seconds=max(0, min(integer(record.get("costTime")) or 0, 10**9)))
    return duration if timedelta() < duration <= MAX_DURATION else None
