"""The dialects that say in `state` how a task ended: the market, one path for most models, and Runway video.

Source: docs.kie.ai, market/common/get-task-detail, and recorded traffic. The market's results are JSON in the string
`resultJson`. `firstFrameUrl` and `lastFrameUrl` are not results: they are frames of the video, for the start of another
video. `resultWaterMarkUrls` are the same results with a watermark, and count only where there is nothing unmarked.
`resultObject` is what text models and models of masks and layers answer: words and numbers in it are a result too.

Source for Runway and its extensions: docs.kie.ai, runway-api/get-ai-video-details. In the page's example of a waiting
task `failCode` and `failMsg` are set: only `state` says that a task failed. `imageUrl` is a poster.
"""

from collections.abc import Callable, Mapping

from reconciler.domain.observations import Observation, Working
from reconciler.kie.dialects import outcome
from reconciler.kie.dialects.documents import document, has_words
from reconciler.kie.dialects.parsing import MALFORMED, get_path, lower_text, parse_nested
from reconciler.kie.dialects.places import ADDRESS_KEYS, NOTHING, Found, Place, Record, listed, read_entries, tracks
from reconciler.kie.dialects.search import search


class StateDialect:
    """`state` is the state of the task; waiting and queuing come before generating, or not at all."""

    def __init__(self, name: str, path: str, queued: frozenset[str], *places: Place, posters: bool) -> None:
        self.name = name
        self.path = path
        self._queued = queued
        self._places = places
        self._posters = posters

    def read(self, record: Mapping[str, object]) -> Observation:
        """Return the observation in the record."""
        match state := lower_text(record.get("state")):
            case _ if state in self._queued:
                return Working(state)
            case "generating" | "processing":
                return Working(state, generating=True)
            case "success":
                return outcome.ready(_parsed(record), self._places, documents=_words, posters=self._posters)
            case "fail":
                failure = outcome.failed(record.get("failMsg"), record.get("failCode"))
                return outcome.failed_beside(_parsed(record), self._places, failure)
            case _:
                return outcome.unknown_state(record.get("state"))


def _parsed(record: Record) -> Record:
    """Return the record with `resultJson` parsed, so that the places do not parse it again."""
    return {**record, "resultJson": parse_nested(record.get("resultJson"))}


def _bare(record: Record) -> Found:
    """Results without an object around them, or a `resultJson` that cannot be read."""
    result = record.get("resultJson")
    if isinstance(result, list):
        return read_entries(result, "resultJson")
    if result is None or isinstance(result, Mapping):
        return NOTHING
    return Found(unreadable=("resultJson",)) if result is MALFORMED else read_entries([result], "resultJson")


def _inside(*path: str, read: Callable[..., Place] = listed) -> Place:
    """A place in `resultJson`, where that is an object."""
    place = read("resultJson", *path)
    return lambda record: place(record) if isinstance(record.get("resultJson"), Mapping) else NOTHING


def _object(record: Record) -> Found:
    """The addresses in `resultObject`: masks, segments, one result, or any other form."""
    value = parse_nested(get_path(record, "resultJson", "resultObject"))
    if not isinstance(value, Mapping):
        return NOTHING
    for place in _IN_OBJECT:
        found = place(value)
        if found.results or found.unreadable:
            return found
    found = search({"resultObject": value}, posters=False)
    return Found(found.results) if found.results else NOTHING


def _words(record: Record) -> Found:
    """The words and numbers in `resultObject`, which stand there for themselves or beside addresses."""
    result = record.get("resultJson")
    value = result.get("resultObject") if isinstance(result, Mapping) else None
    parsed = parse_nested(value)
    value = value if parsed is MALFORMED else parsed
    said = _beyond_status(value) if isinstance(value, Mapping) and _object(record).results else value
    if not has_words(said):
        return NOTHING
    return document(value, [value.get("text") if isinstance(value, Mapping) else value])


def _beyond_status(value: Record) -> Record:
    """Return what an object says besides its addresses and its own status, which is no result."""
    return {name: inner for name, inner in value.items() if name not in {"status", "code", "msg", "message", "state"}}


def _object_itself(record: Record) -> Found:
    """An address directly in `resultJson`, under one of the usual names."""
    result = record.get("resultJson")
    return listed("resultJson")(record) if isinstance(result, Mapping) and _has_address(result) else NOTHING


def _has_address(result: Mapping[str, object]) -> bool:
    return any(result.get(key) is not None for group in ADDRESS_KEYS for key in group)


_IN_OBJECT = (listed("mask_urls"), listed("segments"), lambda value: listed("object")({"object": value}))

_QUEUED = frozenset({"waiting", "queuing", "queueing"})

# Documented: resultUrls, resultObject. The market uses `data` for ai-music-api models (measured by others, September
# 2026). The rest is known only from other clients' code.
MARKET = StateDialect(
    "market",
    "/api/v1/jobs/recordInfo",
    _QUEUED,
    _bare,
    _inside("resultUrls"),
    _inside("result_urls"),
    _object,
    _inside("data", read=tracks),
    _inside("sunoData", read=tracks),
    _inside("outputs"),
    _inside("videoInfo", "videoUrl"),
    _object_itself,
    _inside("resultWaterMarkUrls"),
    posters=False,
)
RUNWAY = StateDialect(
    "runway",
    "/api/v1/runway/record-detail",
    _QUEUED | {"wait"},
    listed("videoInfo", "videoUrl"),
    posters=True,
)
