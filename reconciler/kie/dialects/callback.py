"""What a callback says: which task it is about, and what its payload claims has become of that task.

Only a claim: KIE signs the task's id and the time and nothing else, so the payload counts only where KIE cannot be
asked. Source: the callback pages of docs.kie.ai, one for each family. The door takes the ids, the visit the claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from reconciler.domain.model import Observation, Ready, Unreachable, Working
from reconciler.kie.dialects import outcome
from reconciler.kie.dialects.market import MarketDialect, audio_addresses
from reconciler.kie.dialects.parsing import (
    SUCCESS_CODES,
    TASK_ID_KEYS,
    get_path,
    lower_text,
    parse_nested,
    whole_number,
)

MAX_TASK_ID = 300

UNREADABLE: Final = Unreachable("callback_unreadable")

# What the pages of the families list for a task that failed; 401, 402, 429 and 455 say nothing about a task.
_FAILURE_CODES = frozenset({400, 413, 422, 451, 500, 501, 531})
_MARKET = MarketDialect()

# Of Veo, 4o, Flux Kontext, Runway and music videos, Aleph, Midjourney and Luma, WAV in both spellings, covers. What
# lies beside them (originUrls, image_url, result_image_url) is what was given in, or a poster.
_RESULT_PATHS: tuple[tuple[str, ...], ...] = (
    ("info", "resultUrls"),
    ("info", "result_urls"),
    ("info", "resultImageUrl"),
    ("video_url",),
    ("result_video_url",),
    ("resultUrls",),
    ("audioWavUrl",),
    ("audio_wav_url",),
    ("images",),
)


def task_ids(body: object) -> frozenset[str]:
    """Return every task id that the body carries, wherever a family puts it; more than one means a lie.

    Ids are opaque; what is no text, blank, unprintable (no database could hold it) or longer than 300 is none.
    """
    return frozenset(
        value
        for value in _task_id_values(body)
        if isinstance(value, str) and value.strip() and len(value) <= MAX_TASK_ID and value.isprintable()
    )


def mentions_task_id(body: object) -> bool:
    """Whether the body says anything for a task's id, even what can be none."""
    return any(value not in (None, "") for value in _task_id_values(body))


def _task_id_values(body: object) -> list[object]:
    if not isinstance(body, Mapping):
        return []
    places = [place for place in (parse_nested(body.get("data")), body) if isinstance(place, Mapping)]
    return [place.get(key) for place in places for key in TASK_ID_KEYS]


def read(body: object) -> Observation:
    """Return what the payload claims; `callback_unreadable` where it claims nothing that can be understood."""
    if not isinstance(body, Mapping):
        return UNREADABLE
    record = parse_nested(body.get("data"))
    record = {} if record is None else record
    if not isinstance(record, Mapping):
        return UNREADABLE
    code, message = whole_number(body.get("code")), body.get("msg") or body.get("message")
    if "state" in record:
        seen = _MARKET.read(record)
    elif "callbackType" in record:
        seen = _read_suno(record, message, code)
    elif code in _FAILURE_CODES:
        made = _find_results(record)
        seen = UNREADABLE if isinstance(made, Ready) and made.sources else outcome.failed(message, code)
    else:
        seen = _find_results(record)
    # A success that its own code contradicts is neither.
    return UNREADABLE if isinstance(seen, Ready) and code not in SUCCESS_CODES else seen


def _read_suno(record: Mapping[str, object], message: object, code: int | None) -> Observation:
    """Suno calls up to three times for one task: text and the first track are steps on the way."""
    match stage := lower_text(record.get("callbackType")):
        case "text" | "first":
            return Working(stage, generating=True)
        case "complete":
            return outcome.ready(record, audio_addresses(record.get("data")))
        case "error":
            return outcome.failed(message, code)
        case _:
            return UNREADABLE


def _find_results(record: Mapping[str, object]) -> Observation:
    for place in _RESULT_PATHS:
        if (found := get_path(record, *place)) is not None:
            return outcome.ready(record, found)
    return UNREADABLE
