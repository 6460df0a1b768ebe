"""The records of Suno's dialects: music, and what is made from it (WAV, stems, a music video, cover pictures).

Pure; see `records.py`. The first is known from recordings, the others from their pages alone. What is words or numbers
(lyrics, MIDI, voices) is in `words.py`.
"""

from __future__ import annotations

from types import MappingProxyType
from urllib.parse import urlsplit

from reconciler.simulator.records.records import Json, TaskSnapshot

STATES = {"waiting": "PENDING", "queuing": "TEXT_SUCCESS", "generating": "FIRST_SUCCESS", "success": "SUCCESS"}
FAILURE_STATES = {"400": "SENSITIVE_WORD_ERROR", "500": "CREATE_TASK_FAILED"}

SILENT_STREAM = "/stream/"
"""Below this path the file host answers 200 without a byte, as Suno's streams do for a while."""

STEMS = MappingProxyType(
    {
        "Instrumental": "instrumentalUrl", "Vocals": "vocalUrl", "Backing Vocals": "backingVocalsUrl",
        "Drums": "drumsUrl", "Bass": "bassUrl", "Guitar": "guitarUrl", "Piano": "pianoUrl", "Keyboard": "keyboardUrl",
        "Percussion": "percussionUrl", "Strings": "stringsUrl", "Synth": "synthUrl", "FX": "fxUrl", "Brass": "brassUrl",
        "Woodwinds": "woodwindsUrl",
    }
)  # fmt: skip
"""The stems by name, each with the field of its address."""

SPLIT_STEMS = tuple(name for name in STEMS if name not in {"Instrumental", "Piano"})
"""What `split_stem` makes."""


def music(snapshot: TaskSnapshot) -> Json:
    """A status in capitals; text and the first track may be there before the others."""
    status = STATES.get(snapshot.state, "PENDING")
    if snapshot.failed:
        status = FAILURE_STATES.get(snapshot.task.failure.code, "GENERATE_AUDIO_FAILED")
    if snapshot.done and snapshot.task.variant == "undelivered":
        status = "CALLBACK_EXCEPTION"
    response: Json | None = None
    if snapshot.state in {"queuing", "generating", "success"}:
        ready = {"success": len(snapshot.results), "generating": 1}.get(snapshot.state, 0)
        response = {"taskId": snapshot.task.id, "sunoData": _tracks(snapshot, ready)}
    return {
        "taskId": snapshot.task.id,
        "parentMusicId": "",
        "param": snapshot.task.param,
        "response": None if snapshot.fault in {"null", "invalid_json"} else response,
        "status": status,
        "type": "chirp-v4-5",
        "operationType": "generate",
        **snapshot.error,
        "createTime": snapshot.millis(snapshot.created),
    }


def _tracks(snapshot: TaskSnapshot, ready: int) -> list[Json]:
    """The tracks; only the first `ready` have their sound."""
    return [
        {
            "id": f"{snapshot.task.id[:8]}-{n}",
            **_sound(snapshot, url if n < ready else ""),
            "imageUrl": snapshot.covers[n] if n < len(snapshot.covers) else "",
            "prompt": "[Verse] a song",
            "modelName": "chirp-v4-5",
            "title": "A song",
            "tags": "calm",
            "createTime": snapshot.words(snapshot.created),
            "duration": 198.44 if n < ready and url else None,
        }
        for n, url in enumerate(snapshot.results)
    ]


def _sound(snapshot: TaskSnapshot, url: str) -> Json:
    if not url or snapshot.place != "source":
        return {"audioUrl": url, "streamAudioUrl": url}
    address = urlsplit(url)
    stream = f"{address.scheme}://{address.netloc}{SILENT_STREAM}{address.path.rpartition('/')[2]}"
    return {"audioUrl": stream, "streamAudioUrl": stream, "sourceAudioUrl": url}


def wav(snapshot: TaskSnapshot) -> Json:
    """One WAV file; the flag is a word here."""
    return _record(snapshot, {"audioWavUrl": _nth(snapshot, 0)}, "GENERATE_WAV_FAILED")


def stems(snapshot: TaskSnapshot) -> Json:
    """Voice and accompaniment apart, or every instrument; the song they come from lies beside them.

    `originData` lists every stem. The named fields repeat the usual ones, and none where only one stem was ordered.
    """
    names = stem_names(snapshot)
    named = snapshot.place != "origin" and snapshot.task.variant != "advanced"
    by_name = dict(zip(names, snapshot.entries, strict=True)) if named else {}
    response: Json = {
        "id": None,
        "originUrl": snapshot.still,
        "originData": [
            {"id": f"{snapshot.task.id[:8]}-{n}", "stem_type_group_name": name, "audio_url": url, "duration": 245.6}
            for n, (name, url) in enumerate(zip(names, snapshot.entries, strict=True))
        ],
        **{field: by_name.get(name) for name, field in STEMS.items()},
    }
    return _record(snapshot, response, "GENERATE_AUDIO_FAILED")


def stem_names(snapshot: TaskSnapshot) -> tuple[str, ...]:
    """Return the names of the stems that the record lists, one for each result."""
    count = len(snapshot.results)
    if snapshot.task.variant == "advanced":
        return tuple(f"Saxophone {n}" if n else "Saxophone" for n in range(count))
    names = SPLIT_STEMS if len(snapshot.task.results) > 2 else tuple(STEMS)
    return (*names[:count], *(f"Stem {n}" for n in range(len(names), count)))


def video(snapshot: TaskSnapshot) -> Json:
    """One music video."""
    return _record(snapshot, {"videoUrl": _nth(snapshot, 0)}, "GENERATE_MP4_FAILED")


def cover(snapshot: TaskSnapshot) -> Json:
    """Pictures for a song; here the flag is a number, and unlike elsewhere 2 means running."""
    flags = {"waiting": 0, "queuing": 0, "success": 1, "fail": 3}
    record = _record(snapshot, {"images": snapshot.entries}, "")
    return {**record, "successFlag": flags.get(snapshot.state, 2)}


def _nth(snapshot: TaskSnapshot, n: int) -> str | None:
    return snapshot.results[n] if n < len(snapshot.results) else None


def _record(snapshot: TaskSnapshot, response: Json, failed: str) -> Json:
    flag = failed if snapshot.failed else "SUCCESS" if snapshot.done else "PENDING"
    return {
        "taskId": snapshot.task.id,
        "musicId": "m-1",
        "callbackUrl": snapshot.task.callback_url or "",
        "completeTime": snapshot.millis(snapshot.completed),
        "response": snapshot.when_done(response),
        "successFlag": flag,
        **snapshot.error,
        "createTime": snapshot.millis(snapshot.created),
    }
