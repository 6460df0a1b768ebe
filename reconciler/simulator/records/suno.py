"""The records of Suno's dialects: music, and what is made from it (WAV, stems, a music video, cover pictures).

Pure; see `records.py`. The first is known from recordings, the others from their pages alone.
"""

from __future__ import annotations

from reconciler.simulator.records.records import Json, TaskSnapshot

STATES = {"waiting": "PENDING", "queuing": "TEXT_SUCCESS", "generating": "FIRST_SUCCESS", "success": "SUCCESS"}
FAILURE_STATES = {"400": "SENSITIVE_WORD_ERROR", "500": "CREATE_TASK_FAILED"}


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
            "audioUrl": url if n < ready else "",
            "streamAudioUrl": url if n < ready else "",
            "imageUrl": snapshot.covers[n] if n < len(snapshot.covers) else "",
            "prompt": "[Verse] a song",
            "modelName": "chirp-v4-5",
            "title": "A song",
            "tags": "calm",
            "createTime": snapshot.words(snapshot.created),
            "duration": 198.44 if n < ready else None,
        }
        for n, url in enumerate(snapshot.results)
    ]


def wav(snapshot: TaskSnapshot) -> Json:
    """One WAV file; the flag is a word here."""
    return _record(snapshot, {"audioWavUrl": _nth(snapshot, 0)}, "GENERATE_WAV_FAILED")


def stems(snapshot: TaskSnapshot) -> Json:
    """Voice and accompaniment apart; the song they come from lies beside them."""
    response: Json = {
        "originUrl": snapshot.still,
        "instrumentalUrl": _nth(snapshot, 0),
        "vocalUrl": _nth(snapshot, 1),
        "drumsUrl": None,
    }
    return _record(snapshot, response, "GENERATE_AUDIO_FAILED")


def video(snapshot: TaskSnapshot) -> Json:
    """One music video."""
    return _record(snapshot, {"videoUrl": _nth(snapshot, 0)}, "GENERATE_MP4_FAILED")


def cover(snapshot: TaskSnapshot) -> Json:
    """Pictures for a song; here the flag is a number, and unlike elsewhere 2 means running."""
    flags = {"waiting": 0, "queuing": 0, "success": 1, "fail": 3}
    record = _record(snapshot, {"images": list(snapshot.results)}, "")
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
