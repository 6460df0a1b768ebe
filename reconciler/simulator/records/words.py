"""Results that are words or numbers: lyrics, MIDI notes, voices, and what text models of the market write. Pure.

Sources: docs.kie.ai, suno-api/get-lyrics-details, generate-lyrics-callbacks, get-midi-details, generate-midi-callbacks,
suno-voice-record-info, suno-voice-validate-info and their callbacks. The market's page names `resultObject` only; what
stands in it is known from clients (`mask_urls`, `segments`), else composed (identification, layers).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from reconciler.simulator.records.records import Json, TaskSnapshot
from reconciler.simulator.tasks import Wrap

LYRICS = (
    ("Harbour lights", "[Verse]\nThe harbour sleeps in silver rain\n\n[Chorus]\nCarry me over again"),
    ("Low tide", "[Verse]\nWe counted boats till morning came\n\n[Chorus]\nAnd none of them had a name"),
)
NOTES: tuple[tuple[str, tuple[Json, ...]], ...] = (
    (
        "Drums",
        (
            {"pitch": 73, "start": "0.036458333333333336", "end": "0.18229166666666666", "velocity": 1},
            {"pitch": 61, "start": 0.046875, "end": "0.19270833333333334", "velocity": 1},
        ),
    ),
    ("Electric Bass (finger)", ({"pitch": 44, "start": 7.6875, "end": 7.911458333333333, "velocity": 0.5},)),
)
"""Instruments and their notes; KIE writes some times as strings and some as numbers."""

PHRASE = "Harmonies fill the air with joyful melodies tonight"


def lyrics(snapshot: TaskSnapshot) -> Json:
    """Two texts; statuses as for music."""
    status = "SUCCESS" if snapshot.done else "PENDING"
    if snapshot.failed:
        status = "SENSITIVE_WORD_ERROR" if snapshot.task.failure.code == "400" else "GENERATE_LYRICS_FAILED"
    return {
        "taskId": snapshot.task.id,
        "param": snapshot.task.param,
        "response": snapshot.when_done({"taskId": snapshot.task.id, "data": lyric_texts("errorMessage")}),
        "status": status,
        "type": "LYRICS",
        **snapshot.error,
        "createTime": snapshot.millis(snapshot.created),
    }


def lyric_texts(error_key: str) -> list[Json]:
    """Return the texts; the record and the callback spell the name of the error differently."""
    return [{"text": text, "title": title, "status": "complete", error_key: ""} for title, text in LYRICS]


def midi(snapshot: TaskSnapshot) -> Json:
    """The notes of every instrument; the flag is a number."""
    return {
        "taskId": snapshot.task.id,
        "recordTaskId": -1,
        "audioId": "",
        "callbackUrl": snapshot.task.callback_url or "",
        "completeTime": snapshot.millis(snapshot.completed),
        "midiData": snapshot.when_done(midi_notes()),
        "successFlag": snapshot.flag,
        "createTime": snapshot.millis(snapshot.created),
        **snapshot.error,
    }


def midi_notes() -> Json:
    """Return the notes as the record and the callback hold them."""
    instruments = [{"name": name, "notes": list(notes)} for name, notes in NOTES]
    return {"state": "complete", "instruments": instruments}


def voice(snapshot: TaskSnapshot) -> Json:
    """The id of a voice that other requests can name."""
    status = "success" if snapshot.done else "fail" if snapshot.failed else _voice_status(snapshot)
    return {
        "taskId": snapshot.task.id,
        "voiceId": f"voice_{snapshot.task.id[:16]}" if snapshot.done else "",
        "status": status,
        **_voice_error(snapshot),
    }


def voice_phrase(snapshot: TaskSnapshot) -> Json:
    """The phrase that the owner of the voice has to record."""
    ended = "wait_validating" if snapshot.done else "processing_validate_fail" if snapshot.failed else None
    return {
        "taskId": snapshot.task.id,
        "validateInfo": PHRASE if snapshot.done else "",
        "status": ended or _voice_status(snapshot),
        **_voice_error(snapshot),
    }


def _voice_status(snapshot: TaskSnapshot) -> str:
    return "processing_validate" if snapshot.state in {"queuing", "generating"} else "wait_processing"


def _voice_error(snapshot: TaskSnapshot) -> Json:
    if not snapshot.failed:
        return {"errorCode": 0, "errorMessage": ""}
    return {"errorCode": snapshot.error["errorCode"], "errorMessage": snapshot.error["errorMessage"]}


def _transcript(_: Sequence[str]) -> Json:
    words = [
        {"text": "good", "start": 0.1, "end": 0.4, "type": "word", "speaker_id": "speaker_0"},
        {"text": "evening", "start": 0.5, "end": 1.1, "type": "word", "speaker_id": "speaker_0"},
    ]
    text: Json = {"language_code": "en", "language_probability": 0.98, "text": "good evening", "words": words}
    return {"resultObject": text}


def _identification(_: Sequence[str]) -> Json:
    return {"resultObject": {"status": 1, "contains_human": True}}


def _masks(urls: Sequence[str]) -> Json:
    return {"resultObject": {"status": 1, "mask_urls": list(urls)}}


def _segments(urls: Sequence[str]) -> Json:
    return {
        "resultObject": {"segments": [{"id": n, "name": f"part {n}", "maskUrl": url} for n, url in enumerate(urls)]}
    }


def _layers(urls: Sequence[str]) -> Json:
    layers = [
        {
            "order": n,
            "name": f"layer {n}" if n else "background",
            "box": [8 * n, 8 * n, 96 - 8 * n, 96 - 8 * n],
            "url": url,
        }
        for n, url in enumerate(urls)
    ]
    return {"resultUrls": list(urls), "resultObject": {"layers": layers}}


def _tracks(urls: Sequence[str]) -> Json:
    """The form that the market's own music models answer with."""
    tracks = [
        {"id": f"track-{n}", "audio_url": url, "title": "A song", "duration": 198.44} for n, url in enumerate(urls)
    ]
    return {"data": tracks}


WRAPS: MappingProxyType[str, Wrap] = MappingProxyType(
    {
        "speech-to-text": _transcript,
        "human-identification": _identification,
        "subject-detection": _masks,
        "segment-map": _segments,
        "layer-decomposition": _layers,
    }
)
"""How the market's models answer that make words or words beside files, by the end of their names."""

WORDS_ONLY = frozenset({"speech-to-text", "human-identification"})
"""Those without a file."""

MUSIC_WRAP: Wrap = _tracks
