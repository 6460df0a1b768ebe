"""The dialects that say in `state` how a task ended: the market, one path for most models, and Runway video.

Source: docs.kie.ai, market/common/get-task-detail, and recorded traffic. The market's results are JSON in the string
`resultJson`. `firstFrameUrl` and `lastFrameUrl` are not results: they are frames of the video, for the start of another
video. `resultWaterMarkUrls` are the same results with a watermark.

Source for Runway and its extensions: docs.kie.ai, runway-api/get-ai-video-details. In the page's example of a waiting
task `failCode` and `failMsg` are set: only `state` says that a task failed. `imageUrl` is a poster.
"""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from urllib.parse import parse_qsl, urlsplit

from reconciler.domain.model import Observation, Working
from reconciler.kie.dialects import outcome
from reconciler.kie.dialects.parsing import MALFORMED, get_path, lower_text, parse_nested

_Record = Mapping[str, object]

_MAX_NODES = 10_000


class StateDialect:
    """`state` is the state of the task; waiting and queuing come before generating, or not at all."""

    def __init__(self, name: str, path: str, queued: frozenset[str], results: Callable[[_Record], object]) -> None:
        self.name = name
        self.path = path
        self._queued = queued
        self._results = results

    def read(self, record: Mapping[str, object]) -> Observation:
        """Return the observation in the record."""
        match state := lower_text(record.get("state")):
            case _ if state in self._queued:
                return Working(state)
            case "generating":
                return Working(state, generating=True)
            case "success":
                return outcome.ready(record, self._results(record))
            case "fail":
                return outcome.failed(record.get("failMsg"), record.get("failCode"))
            case _:
                return outcome.unknown_state(record.get("state"))


def find_results(result: object) -> object:
    """Return the results in any form of `resultJson`, unchecked.

    An unknown form is MALFORMED and not empty: a success with output that we cannot read is no success without output.
    """
    result = parse_nested(result)
    if not isinstance(result, Mapping):
        return result
    found = [read(result[key]) for key, read in _READERS.items() if key in result]
    for addresses in found:
        if addresses not in (None, []):
            return addresses
    return [] if found or not result else outcome.find_address(result)


def generation_named(record: object) -> str | None:
    """Return the generation id in the task's callback address; None if there is none, or more than one.

    `param` is the createTask request as JSON text. Only its top-level `callBackUrl` is read, because deeper fields hold
    users' input.
    """
    param = record.get("param") if isinstance(record, Mapping) else None
    if not isinstance(param, str):
        return None
    try:
        request = json.loads(param)
        address = request.get("callBackUrl") if isinstance(request, dict) else None
        query = urlsplit(address).query if isinstance(address, str) else ""
        named = [value for name, value in parse_qsl(query, keep_blank_values=True) if name == "generation"]
    except (ValueError, RecursionError):
        return None
    return named[0] if len(named) == 1 and named[0] else None


def audio_addresses(tracks: object) -> object:
    """Return the addresses of Suno's tracks; the image and the stream of a track are no results."""
    tracks = parse_nested(tracks)
    if not isinstance(tracks, list):
        return None if tracks is None else MALFORMED
    keys = ("audioUrl", "audio_url", "sourceAudioUrl", "source_audio_url")
    return [next((url for key in keys if (url := get_path(track, key))), None) for track in tracks]


def _address_list(value: object) -> object:
    value = parse_nested(value)
    return value if value is None or isinstance(value, list | str) else MALFORMED


def _addresses_in_object(value: object) -> object:
    value = parse_nested(value)
    if (masks := get_path(value, "mask_urls")) is not None:
        return _address_list(masks)
    if isinstance(segments := get_path(value, "segments"), list):
        return [get_path(segment, "maskUrl") for segment in segments]
    if isinstance(value, Mapping) and isinstance(url := outcome.find_address(value), str):
        return url
    # Text models answer here; text without an address is a success without media.
    return MALFORMED if _mentions_address(value) else []


def _mentions_address(value: object) -> bool:
    nodes = [value]
    for _ in range(_MAX_NODES):
        if not nodes:
            return False
        node = nodes.pop()
        if isinstance(node, Mapping):
            nodes.extend(node.values())
        elif isinstance(node, list):
            nodes.extend(node)
        elif isinstance(node, str) and node.startswith(("http://", "https://")):
            return True
    return True


# Documented: resultUrls, resultObject. The market uses `data` for ai-music-api models (measured by others, September
# 2026). The rest is known only from other clients' code.
_READERS: Mapping[str, Callable[[object], object]] = MappingProxyType(
    {
        "resultUrls": _address_list,
        "result_urls": _address_list,
        "resultObject": _addresses_in_object,
        "data": audio_addresses,
        "sunoData": audio_addresses,
        "outputs": _address_list,
        "videoInfo": lambda value: get_path(value, "videoUrl"),
    }
)

_QUEUED = frozenset({"waiting", "queuing", "queueing"})
_VIDEO = ("videoInfo", "videoUrl")

MARKET = StateDialect(
    "market", "/api/v1/jobs/recordInfo", _QUEUED, lambda record: find_results(record.get("resultJson"))
)
RUNWAY = StateDialect(
    "runway", "/api/v1/runway/record-detail", _QUEUED | {"wait"}, lambda record: get_path(record, *_VIDEO)
)
