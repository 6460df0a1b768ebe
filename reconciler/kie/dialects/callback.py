"""What a callback says: which task it is about, and what its payload claims has become of that task.

Only a claim: KIE signs the task's id and the time and nothing else, so the payload counts only where KIE cannot be
asked. Source: the callback pages of docs.kie.ai, one for each family. The door takes the ids, the visit the claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from reconciler.domain.model import Observation, Ready, Unreachable, Working
from reconciler.kie.dialects import outcome
from reconciler.kie.dialects.market import MarketDialect, audio
from reconciler.kie.dialects.parsing import FINE, TASK_KEYS, at, number, unfold, word

LONGEST_TASK_ID = 300

UNREADABLE: Final = Unreachable("callback_unreadable")

# What the pages of the families list for a task that failed; 401, 402, 429 and 455 say nothing about a task.
_FAILED = frozenset({400, 413, 422, 451, 500, 501, 531})
_MARKET = MarketDialect()

# Of Veo, 4o, Flux Kontext, Runway and music videos, Aleph, Midjourney and Luma, WAV in both spellings, covers. What
# lies beside them (originUrls, image_url, result_image_url) is what was given in, or a poster.
_PLACES: tuple[tuple[str, ...], ...] = (
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
        for value in _said(body)
        if isinstance(value, str) and value.strip() and len(value) <= LONGEST_TASK_ID and value.isprintable()
    )


def names_task(body: object) -> bool:
    """Whether the body says anything for a task's id, even what can be none."""
    return any(value not in (None, "") for value in _said(body))


def _said(body: object) -> list[object]:
    if not isinstance(body, Mapping):
        return []
    places = [place for place in (unfold(body.get("data")), body) if isinstance(place, Mapping)]
    return [place.get(key) for place in places for key in TASK_KEYS]


def read(body: object) -> Observation:
    """Return what the payload claims; `callback_unreadable` where it claims nothing that can be understood."""
    if not isinstance(body, Mapping):
        return UNREADABLE
    record = unfold(body.get("data"))
    record = {} if record is None else record
    if not isinstance(record, Mapping):
        return UNREADABLE
    code, message = number(body.get("code")), body.get("msg") or body.get("message")
    if "state" in record:
        seen = _MARKET.read(record)
    elif "callbackType" in record:
        seen = _suno(record, message, code)
    elif code in _FAILED:
        made = _made(record)
        seen = UNREADABLE if isinstance(made, Ready) and made.sources else outcome.refused(message, code)
    else:
        seen = _made(record)
    # A success that its own code contradicts is neither.
    return UNREADABLE if isinstance(seen, Ready) and code not in FINE else seen


def _suno(record: Mapping[str, object], message: object, code: int | None) -> Observation:
    """Suno calls up to three times for one task: text and the first track are steps on the way."""
    match stage := word(record.get("callbackType")):
        case "text" | "first":
            return Working(stage, generating=True)
        case "complete":
            return outcome.ready(record, audio(record.get("data")))
        case "error":
            return outcome.refused(message, code)
        case _:
            return UNREADABLE


def _made(record: Mapping[str, object]) -> Observation:
    for place in _PLACES:
        if (found := at(record, *place)) is not None:
            return outcome.ready(record, found)
    return UNREADABLE
