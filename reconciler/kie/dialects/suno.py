"""The dialects of Suno: music, and its WAV files, separated stems, music videos and cover images.

Source: docs.kie.ai, suno-api/get-music-details, get-wav-details, get-vocal-separation-details,
get-music-video-details, get-cover-suno-details. They share the same states, in `status` or in
`successFlag`. Lyrics, MIDI notes and voices are words and numbers: a document each, from pages that are only known by
their paths and states (docs.kie.ai, suno-api, and other clients' code). `originData` lists every stem; the named fields
beside it are a selection, and new names come without notice.
"""

from collections.abc import Mapping

from reconciler.domain.observations import Observation, Ready, Working
from reconciler.kie.dialects import outcome
from reconciler.kie.dialects.documents import document, has_words
from reconciler.kie.dialects.parsing import get_path, integer, lower_text
from reconciler.kie.dialects.places import NOTHING, Found, Place, Record, each_named, listed, tracks
from reconciler.kie.dialects.search import can_be_result
from reconciler.kie.dialects.success_flag import SuccessFlagDialect

_FAILURE_STATES = frozenset({
    "create_task_failed", "generate_audio_failed", "generate_wav_failed", "generate_mp4_failed",
    "generate_cover_failed", "generate_lyrics_failed", "sensitive_word_error",
})  # fmt: skip
# Only the page about covers uses numbers, and unlike in every other dialect 2 is still running.
_COVER_FLAGS = {0: "pending", 1: "success", 2: "generating", 3: "generate_cover_failed"}


class SunoDialect:
    """One of Suno's records; `places` are those of its results, `documents` reads results that are words.

    `posters` is false where the results are images.
    """

    def __init__(
        self, name: str, path: str, *places: Place, documents: Place | None = None, posters: bool = True
    ) -> None:
        self.name = name
        self.path = path
        self._places = places
        self._documents = documents
        self._posters = posters

    def read(self, record: Mapping[str, object]) -> Observation:
        """Return the observation in the record; a text and a first track are intermediate states."""
        match state := _state(record):
            case "pending" | "wait_processing":
                return Working(state)
            case "generating" | "processing" | "processing_validate" | "text_success" | "first_success":
                return Working(state, generating=True)
            case "success":
                return self._ready(record)
            case "callback_exception":
                return self._callback_failed(record)
            case _ if state in _FAILURE_STATES:
                failure = outcome.failed(_message(record), record.get("errorCode"))
                return outcome.failed_beside(record, self._places, failure)
            case _:
                return outcome.unknown_state(record.get("status") or record.get("successFlag"))

    def _ready(self, record: Mapping[str, object]) -> Observation:
        return outcome.ready(record, self._places, documents=self._documents, posters=self._posters)

    def _callback_failed(self, record: Mapping[str, object]) -> Observation:
        """KIE could not deliver its callback, which says nothing about the music."""
        observation = self._ready(record)
        if isinstance(observation, Ready) and not observation.available:
            return Working("callback_exception", generating=True)
        return observation


def _state(record: Mapping[str, object]) -> str:
    if status := lower_text(record.get("status")):
        return status
    flag = integer(record.get("successFlag"))
    return lower_text(record.get("successFlag")) if flag is None else _COVER_FLAGS.get(flag, "")


def _message(record: Mapping[str, object]) -> object:
    return record.get("errorMessage") or get_path(record, "response", "errorMessage")


def is_stem(name: str) -> bool:
    """Return whether a field of this name holds a stem: not the song that it was taken from, a stream or a cover."""
    return name.lower().endswith("url") and can_be_result(name, posters=True)


def _lyrics(record: Record) -> Found:
    """The texts with their titles, and the words of all of them."""
    texts = get_path(record, "response", "data")
    if not isinstance(texts, list) or not has_words(texts):
        return NOTHING
    return document(texts, [item.get("text") for item in texts if isinstance(item, Mapping)])


def _notes(record: Record) -> Found:
    """The instruments and their notes."""
    notes = get_path(record, "midiData", "instruments")
    return document(notes) if isinstance(notes, list) and has_words(notes) else NOTHING


def _voice(record: Record) -> Found:
    voice = record.get("voiceId")
    return document({"voiceId": voice} if voice else None)


class _Voice(SunoDialect):
    def read(self, record: Mapping[str, object]) -> Observation:
        """Return the observation in the record; only a voice has "fail"."""
        if _state(record) == "fail":
            return outcome.failed(_message(record), record.get("errorCode"))
        return super().read(record)


MUSIC = SunoDialect("suno", "/api/v1/generate/record-info", tracks("response", "sunoData"))
WAV = SunoDialect("suno_wav", "/api/v1/wav/record-info", listed("response", "audioWavUrl"))
STEMS = SunoDialect(
    "suno_stems",
    "/api/v1/vocal-removal/record-info",
    listed("response", "originData"),
    each_named("response", wanted=is_stem),
)
VIDEO = SunoDialect("suno_video", "/api/v1/mp4/record-info", listed("response", "videoUrl"))
COVER = SunoDialect("suno_cover", "/api/v1/suno/cover/record-info", listed("response", "images"), posters=False)
LYRICS = SunoDialect("suno_lyrics", "/api/v1/lyrics/record-info", documents=_lyrics)
MIDI = SuccessFlagDialect("suno_midi", "/api/v1/midi/record-info", documents=_notes)
VOICE = _Voice("suno_voice", "/api/v1/voice/record-info", documents=_voice)
