"""The dialects of Suno: music, and its WAV files, separated stems, music videos and cover images.

Source: docs.kie.ai, suno-api/get-music-details, get-wav-details, get-vocal-separation-details,
get-music-video-details, get-cover-suno-details. They share the same states, in `status` or in
`successFlag`. Lyrics, MIDI and voices have no dialect: they are text and data, not media, and cannot be stored.
"""

from collections.abc import Callable, Mapping

from reconciler.domain.model import Observation, Ready, Working
from reconciler.kie.dialects import outcome
from reconciler.kie.dialects.market import audio_addresses
from reconciler.kie.dialects.parsing import MALFORMED, get_path, integer, lower_text, parse_nested

_FAILURE_STATES = frozenset({
    "create_task_failed", "generate_audio_failed", "generate_wav_failed", "generate_mp4_failed",
    "generate_cover_failed", "sensitive_word_error",
})  # fmt: skip
_STEM_KEYS = (
    "instrumentalUrl", "vocalUrl", "backingVocalsUrl", "drumsUrl", "bassUrl", "guitarUrl", "pianoUrl", "keyboardUrl",
    "percussionUrl", "stringsUrl", "synthUrl", "fxUrl", "brassUrl", "woodwindsUrl",
)  # fmt: skip
# Only the page about covers uses numbers, and unlike in every other dialect 2 is still running.
_COVER_FLAGS = {0: "pending", 1: "success", 2: "generating", 3: "generate_cover_failed"}


class SunoDialect:
    """One of Suno's records; `results` finds the results in its `response`."""

    def __init__(self, name: str, path: str, results: Callable[[object], object]) -> None:
        self.name = name
        self.path = path
        self._results = results

    def read(self, record: Mapping[str, object]) -> Observation:
        """Return the observation in the record; a text and a first track are intermediate states."""
        match state := _state(record):
            case "pending":
                return Working(state)
            case "generating" | "text_success" | "first_success":
                return Working(state, generating=True)
            case "success":
                return outcome.ready(record, self._results(record.get("response")))
            case "callback_exception":
                return self._callback_failed(record)
            case _ if state in _FAILURE_STATES:
                return outcome.failed(_message(record), record.get("errorCode"))
            case _:
                return outcome.unknown_state(record.get("status") or record.get("successFlag"))

    def _callback_failed(self, record: Mapping[str, object]) -> Observation:
        """KIE could not deliver its callback, which says nothing about the music."""
        observation = outcome.ready(record, self._results(record.get("response")))
        if isinstance(observation, Ready) and not observation.sources:
            return Working("callback_exception", generating=True)
        return observation


def _state(record: Mapping[str, object]) -> str:
    if status := lower_text(record.get("status")):
        return status
    flag = integer(record.get("successFlag"))
    return lower_text(record.get("successFlag")) if flag is None else _COVER_FLAGS.get(flag, "")


def _message(record: Mapping[str, object]) -> object:
    return record.get("errorMessage") or get_path(record, "response", "errorMessage")


def _find_stems(response: object) -> object:
    response = parse_nested(response)
    if not isinstance(response, Mapping):
        return None if response is None else MALFORMED
    return [response.get(stem) for stem in _STEM_KEYS]


MUSIC = SunoDialect("suno", "/api/v1/generate/record-info", lambda value: audio_addresses(get_path(value, "sunoData")))
WAV = SunoDialect("suno_wav", "/api/v1/wav/record-info", lambda value: get_path(value, "audioWavUrl"))
STEMS = SunoDialect("suno_stems", "/api/v1/vocal-removal/record-info", _find_stems)
VIDEO = SunoDialect("suno_video", "/api/v1/mp4/record-info", lambda value: get_path(value, "videoUrl"))
COVER = SunoDialect("suno_cover", "/api/v1/suno/cover/record-info", lambda value: get_path(value, "images"))
