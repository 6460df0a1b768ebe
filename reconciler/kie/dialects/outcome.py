"""Builds the observation from the fields that a dialect found: Ready, Failed or Unreachable.

The form, length and number of result addresses are checked here; their hosts are checked where they are fetched. Only
the dialects call this.
"""

from collections.abc import Mapping
from datetime import timedelta
from urllib.parse import urlsplit

from reconciler.domain.model import Failed, Ready, Unreachable
from reconciler.kie.dialects.parsing import MALFORMED, SUCCESS_CODES, integer, parse_nested, printable_line, timestamp

MAX_RESULTS = 64
MAX_ADDRESS = 4096
MAX_DURATION = timedelta(days=1)

# An object can hold a poster next to its video or audio: the image keys come last.
_ADDRESS_KEYS = (
    "resultUrl", "resultVideoUrl", "videoUrl", "video_url", "audioUrl", "audio_url", "url", "resultImageUrl",
    "imageUrl", "image_url",
)  # fmt: skip


def ready(record: Mapping[str, object], found: object) -> Ready | Unreachable:
    """Return the success with these results: one or a list of addresses, or of objects that hold one.

    One invalid address makes the whole answer unusable, because a part of the results would be taken for all. Absent
    entries are skipped, repeated ones count once.
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
    """Return the address in an object; None if its field is null, MALFORMED if it has no such field."""
    for key in _ADDRESS_KEYS:
        if item.get(key) is not None:
            return item[key]
    return None if any(key in item for key in _ADDRESS_KEYS) else MALFORMED


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


def _usable(address: str) -> bool:
    if len(address) > MAX_ADDRESS or " " in address or "\\" in address:
        return False
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and address.isprintable()


def _duration(record: Mapping[str, object]) -> timedelta | None:
    created, completed = timestamp(record.get("createTime")), timestamp(record.get("completeTime"))
    if created and completed and (created.tzinfo is None) == (completed.tzinfo is None):
        duration = completed - created
    else:
        # Documented as milliseconds, but seconds in every recorded answer.
        duration = timedelta(seconds=max(0, min(integer(record.get("costTime")) or 0, 10**9)))
    return duration if timedelta() < duration <= MAX_DURATION else None
