"""The twins of Suno's dialects: music, and what is made from it (WAV, stems, a music video, cover pictures).

Pure; see `records.py`. The first is known from recordings, the others from their pages alone.
"""

from __future__ import annotations

from reconciler.simulator.records.records import Json, Scene

STATES = {"waiting": "PENDING", "queuing": "TEXT_SUCCESS", "generating": "FIRST_SUCCESS", "success": "SUCCESS"}
REFUSALS = {"400": "SENSITIVE_WORD_ERROR", "500": "CREATE_TASK_FAILED"}


def music(scene: Scene) -> Json:
    """A status in capitals; text and the first track may be there before the others."""
    status = STATES.get(scene.state, "PENDING")
    if scene.failed:
        status = REFUSALS.get(scene.task.failure.code, "GENERATE_AUDIO_FAILED")
    if scene.done and scene.task.variant == "undelivered":
        status = "CALLBACK_EXCEPTION"
    response: Json | None = None
    if scene.state in {"queuing", "generating", "success"}:
        ready = {"success": len(scene.results), "generating": 1}.get(scene.state, 0)
        response = {"taskId": scene.task.id, "sunoData": _tracks(scene, ready)}
    return {
        "taskId": scene.task.id,
        "parentMusicId": "",
        "param": scene.task.param,
        "response": None if scene.fault in {"null", "invalid_json"} else response,
        "status": status,
        "type": "chirp-v4-5",
        "operationType": "generate",
        **scene.error,
        "createTime": scene.millis(scene.created),
    }


def _tracks(scene: Scene, ready: int) -> list[Json]:
    """The tracks; only the first `ready` have their sound."""
    return [
        {
            "id": f"{scene.task.id[:8]}-{n}",
            "audioUrl": url if n < ready else "",
            "streamAudioUrl": url if n < ready else "",
            "imageUrl": scene.covers[n] if n < len(scene.covers) else "",
            "prompt": "[Verse] a song",
            "modelName": "chirp-v4-5",
            "title": "A song",
            "tags": "calm",
            "createTime": scene.words(scene.created),
            "duration": 198.44 if n < ready else None,
        }
        for n, url in enumerate(scene.results)
    ]


def wav(scene: Scene) -> Json:
    """One WAV file; the flag is a word here."""
    return _made_of(scene, {"audioWavUrl": _nth(scene, 0)}, "GENERATE_WAV_FAILED")


def stems(scene: Scene) -> Json:
    """Voice and accompaniment apart; the song they come from lies beside them."""
    response: Json = {
        "originUrl": scene.still,
        "instrumentalUrl": _nth(scene, 0),
        "vocalUrl": _nth(scene, 1),
        "drumsUrl": None,
    }
    return _made_of(scene, response, "GENERATE_AUDIO_FAILED")


def video(scene: Scene) -> Json:
    """One music video."""
    return _made_of(scene, {"videoUrl": _nth(scene, 0)}, "GENERATE_MP4_FAILED")


def cover(scene: Scene) -> Json:
    """Pictures for a song; here the flag is a number, and unlike elsewhere 2 means running."""
    flags = {"waiting": 0, "queuing": 0, "success": 1, "fail": 3}
    record = _made_of(scene, {"images": list(scene.results)}, "")
    return {**record, "successFlag": flags.get(scene.state, 2)}


def _nth(scene: Scene, n: int) -> str | None:
    return scene.results[n] if n < len(scene.results) else None


def _made_of(scene: Scene, response: Json, failed: str) -> Json:
    flag = failed if scene.failed else "SUCCESS" if scene.done else "PENDING"
    return {
        "taskId": scene.task.id,
        "musicId": "m-1",
        "callbackUrl": scene.task.callback_url or "",
        "completeTime": scene.millis(scene.completed),
        "response": scene.when_done(response),
        "successFlag": flag,
        **scene.error,
        "createTime": scene.millis(scene.created),
    }
