"""Reads a callback: which task it is about, and what it reports about that task.

KIE signs only the task's id and the time, so the report counts only while KIE cannot be asked (see
`domain/callback_trust.py`). Source: the callback pages of docs.kie.ai, one for each dialect. The HTTP route reads the
ids, the visit the report.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from reconciler.domain.observations import Observation, Ready, Unreachable, Working
from reconciler.kie.dialects import outcome
from reconciler.kie.dialects.market import MARKET
from reconciler.kie.dialects.parsing import SUCCESS_CODES, TASK_ID_KEYS, integer, lower_text, parse_nested
from reconciler.kie.dialects.places import each_named, listed, tracks
from reconciler.kie.dialects.suno import is_stem

MAX_TASK_ID = 300

UNREADABLE: Final = Unreachable("callback_unreadable")

# The codes of failed tasks on the dialects' pages; 401, 402, 429 and 455 say nothing about a task.
_FAILURE_CODES = frozenset({400, 413, 422, 451, 500, 501, 531})

# Of Veo, 4o, Flux Kontext, Runway and music videos, Aleph, Midjourney and Luma, WAV in both spellings, covers, stems.
# Their neighbours (originUrls, image_url, result_image_url) are inputs or posters.
_PLACES = (
    listed("info", "resultUrls"), listed("info", "result_urls"), listed("info", "resultImageUrl"), listed("video_url"),
    listed("result_video_url"), listed("resultUrls"), listed("audioWavUrl"), listed("audio_wav_url"), listed("images"),
    listed("vocal_removal_info", "origin_data"), listed("vocal_removal_info", "originData"),
    each_named("vocal_removal_info", wanted=is_stem),
)  # fmt: skip
_TRACKS = (tracks("data"),)


def task_ids(body: object, keys: Sequence[str] = TASK_ID_KEYS) -> frozenset[str]:
    """Return every task id in the body, by default in the fields of all dialects; two mean a forged callback.

    Ids are opaque. A value that is no text, blank, unprintable or longer than MAX_TASK_ID is no id.
    """
    return frozenset(
        value
        for value in _task_id_values(body, keys)
        if isinstance(value, str) and value.strip() and len(value) <= MAX_TASK_ID and value.isprintable()
    )


def mentions_task_id(body: object, keys: Sequence[str] = TASK_ID_KEYS) -> bool:
    """Return whether the body has any value for a task's id, even an invalid one."""
    return any(value not in (None, "") for value in _task_id_values(body, keys))


def _task_id_values(body: object, keys: Sequence[str]) -> list[object]:
    if not isinstance(body, Mapping):
        return []
    objects = [each for each in (parse_nested(body.get("data")), body) if isinstance(each, Mapping)]
    return [each.get(key) for each in objects for key in keys]


def read(body: object) -> Observation:
    """Return what the callback reports; Unreachable (callback_unreadable) if it cannot be understood."""
    if not isinstance(body, Mapping):
        return UNREADABLE
    record = parse_nested(body.get("data"))
    record = {} if record is None else record
    if not isinstance(record, Mapping):
        return UNREADABLE
    code, message = integer(body.get("code")), body.get("msg") or body.get("message")
    if "state" in record:
        observation = MARKET.read(record)
    elif "callbackType" in record:
        observation = _read_suno(record, message, code)
    elif code in _FAILURE_CODES:
        observation = _find_results(record)
        if not (isinstance(observation, Ready) and observation.available):
            return outcome.failed(message, code)
    else:
        observation = _find_results(record)
    # A success that contradicts its own code is neither success nor failure.
    return UNREADABLE if isinstance(observation, Ready) and code not in SUCCESS_CODES else observation


def _read_suno(record: Mapping[str, object], message: object, code: int | None) -> Observation:
    """Suno sends up to three callbacks for a task: a text and a first track are intermediate states."""
    match stage := lower_text(record.get("callbackType")):
        case "text" | "first":
            return Working(stage, generating=True)
        case "complete":
            return outcome.ready_as_known(record, _TRACKS)
        case "error":
            return outcome.failed(message, code)
        case _:
            return UNREADABLE


def _find_results(record: Mapping[str, object]) -> Observation:
    observation = outcome.ready_as_known(record, _PLACES)
    return observation if isinstance(observation, Ready) and observation.results else UNREADABLE
