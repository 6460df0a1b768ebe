"""What a dialect found, said in the house's words: Ready, Failed, Working or not understood.

Here the addresses of results are checked (form, length, count); whether their host may be asked
is decided where they are fetched. Called by the dialects only.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from urllib.parse import urlsplit

from reconciler.domain.model import Failed, Observation, Ready, Unreachable, Working
from reconciler.kie.dialects.parsing import (
    MALFORMED,
    SUCCESS_CODES,
    parse_nested,
    printable_line,
    timestamp,
    whole_number,
)

MAX_RESULTS = 64
MAX_ADDRESS = 4096
MAX_DURATION = timedelta(days=1)

# A poster or cover art comes beside the video or audio it belongs to: pictures are named last.
_ADDRESS_KEYS = (
    "resultUrl",
    "resultVideoUrl",
    "videoUrl",
    "video_url",
    "audioUrl",
    "audio_url",
    "url",
    "resultImageUrl",
    "imageUrl",
    "image_url",
)


def ready(record: Mapping[str, object], found: object) -> Ready | Unreachable:
    """A success with these results: a list or one of addresses, or of objects that hold one.

    One address that cannot be used makes the whole answer unusable: a part of the results would
    be taken for all of them. Absent entries are passed over, repeated ones kept once.
    """
    found = parse_nested(found)
    items = [] if found is None else found if isinstance(found, list) else [found]
    if len(items) > MAX_RESULTS:
        return Unreachable("bad_result", f"{len(items)} results")
    sources: dict[str, None] = {}
    for item in items:
        address = parse_nested(find_address(item) if isinstance(item, Mapping) else item)
        if address is None:
            continue
        if not isinstance(address, str) or not _usable(address):
            return Unreachable("bad_result", "a result without a usable address")
        sources[address] = None
    completed = timestamp(record.get("completeTime"))
    if completed is not None and completed.tzinfo is None:
        completed = None
    return Ready(tuple(sources), completed_at=completed, duration=_duration(record))


def find_address(item: Mapping[str, object]) -> object:
    """The address an object holds; None where its place is empty, MALFORMED where there is none."""
    for key in _ADDRESS_KEYS:
        if item.get(key) is not None:
            return item[key]
    return None if any(key in item for key in _ADDRESS_KEYS) else MALFORMED


def failed(message: object, code: object) -> Failed:
    """The provider's own word that the task failed; the message is never empty."""
    text = printable_line(message) or "KIE says that the task failed, without a reason"
    return Failed(text, code=error_code(code))


def error_code(code: object) -> str | None:
    """The code as text, None where it names no error."""
    return None if whole_number(code) in SUCCESS_CODES else printable_line(code) or None


def unknown_state(value: object) -> Unreachable:
    """A state that no page names: it may mean anything, so it means nothing yet."""
    return Unreachable("unknown_state", printable_line(value))


def from_success_flag(record: Mapping[str, object], found: object) -> Observation:
    """The families that count: successFlag 0, 1, 2 and 3.

    Their pages call 0 "generating" and have no word for queuing, so 0 is begun.
    """
    match whole_number(record.get("successFlag")):
        case 0:
            return Working("generating", generating=True)
        case 1:
            return ready(record, found)
        case 2 | 3:
            return failed(record.get("errorMessage"), record.get("errorCode"))
        case _:
            return unknown_state(record.get("successFlag"))


def _usable(address: str) -> bool:
    if len(address) > MAX_ADDRESS or " " in address or "\\" in address:
        return False
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and address.isprintable()


def _duration(record: Mapping[str, object]) -> timedelta | None:
    began, ended = timestamp(record.get("createTime")), timestamp(record.get("completeTime"))
    if began and ended and (began.tzinfo is None) == (ended.tzinfo is None):
        took = ended - began
    else:
        # Documented as milliseconds, seconds in every record seen.
        took = timedelta(seconds=max(0, min(whole_number(record.get("costTime")) or 0, 10**9)))
    return took if timedelta() < took <= MAX_DURATION else None
