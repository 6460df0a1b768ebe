"""Builds the bodies of callbacks: every dialect has its own form, and its own field for the task id. Pure.

`callbacks.py` sends them.
"""

from __future__ import annotations

import json
from types import MappingProxyType

from reconciler.simulator.records.records import Json, TaskSnapshot, market

CALLBACK_STAGES = MappingProxyType({"suno": (("text", 0.3), ("first", 0.6), ("complete", 1.0))})
"""Dialects with several callbacks: the stages, and the fraction of the life at which each is sent."""
SINGLE_CALLBACK = (("complete", 1.0),)
SUCCESS_MESSAGES = MappingProxyType(
    {
        "market": "Playground task completed successfully.",
        "veo": "Veo3.1 video generated successfully.",
        "suno": "All generated successfully.",
        "runway": "All generated successfully.",
    }
)
FAILURE_CODES = MappingProxyType({"market": 501, "luma": 501, "runway": 400, "aleph": 400, "gpt4o": 400})


def callback_body(snapshot: TaskSnapshot, stage: str = "complete") -> Json:
    """Return the body of one callback; `stage` matters for Suno only."""
    family = snapshot.task.family
    code, message = 200, SUCCESS_MESSAGES.get(family, "success")
    if snapshot.failed:
        code, message = FAILURE_CODES.get(family, 500), snapshot.task.failure.message
        message = "Playground task failed." if family == "market" else message
    if family == "aleph":
        return {"code": code, "msg": message, "taskId": snapshot.task.id, "data": _aleph(snapshot)}
    return {"code": code, "msg": message, "data": _data(snapshot, stage)}


def _data(snapshot: TaskSnapshot, stage: str) -> Json:
    named: Json = {"taskId": snapshot.task.id}
    prompted: Json = {**named, "promptJson": snapshot.task.param}
    urls = list(snapshot.results)
    match snapshot.task.family:
        case "market":
            return _market(snapshot)
        case "suno":
            return _suno(snapshot, stage)
        case "runway":
            return _runway(snapshot)
        case "veo":
            film = {"resultUrls": urls, "originUrls": [], "resolution": "720p"} if snapshot.done else None
            return {**prompted, "info": film, "fallbackFlag": False}
        case "gpt4o":
            return {**named, "info": {"result_urls": urls} if snapshot.done else None}
        case "flux_kontext":
            origin, result = (snapshot.still, snapshot.first) if snapshot.done else ("", "")
            return {**named, "info": {"originImageUrl": origin, "resultImageUrl": result}}
        case "suno_wav" | "suno_stems" | "suno_video" | "suno_cover":
            return {"task_id": snapshot.task.id, "results": urls if snapshot.done else []}
        case _:
            return {**prompted, "resultUrls": urls if snapshot.done else []}


def _market(snapshot: TaskSnapshot) -> Json:
    record = market(snapshot)
    if snapshot.failed:
        record["resultJson"] = None
    return {**record, "updateTime": record["completeTime"], "creditsConsumed": 4.25 if snapshot.done else 0}


def _runway(snapshot: TaskSnapshot) -> Json:
    film, still = (snapshot.first, snapshot.still) if snapshot.done else ("", "")
    return {
        "task_id": snapshot.task.id,
        "video_id": f"v-{snapshot.task.id}" if film else "",
        "video_url": film,
        "image_url": still,
    }


def _aleph(snapshot: TaskSnapshot) -> Json | None:
    if not snapshot.done:
        return None
    return {"result_video_url": snapshot.first, "result_image_url": snapshot.still}


def _suno(snapshot: TaskSnapshot, stage: str) -> Json:
    if snapshot.failed:
        return {"callbackType": "error", "task_id": snapshot.task.id, "data": None}
    ready = {"text": 0, "first": 1}.get(stage, len(snapshot.results))
    tracks: list[Json] = []
    for n, url in enumerate(snapshot.results):
        sound = url if n < ready else ""
        tracks.append(
            {
                "id": f"{snapshot.task.id[:8]}-{n}",
                "audio_url": sound,
                "source_audio_url": sound,
                "stream_audio_url": sound,
                "source_stream_audio_url": sound,
                "image_url": snapshot.covers[n],
                "source_image_url": snapshot.covers[n],
                "prompt": "[Verse] a song",
                "model_name": "chirp-v4-5",
                "title": "A song",
                "tags": "calm",
                "createTime": snapshot.words(snapshot.created),
                "duration": 198.44 if sound else None,
            }
        )
    return {"callbackType": stage, "task_id": snapshot.task.id, "data": tracks}


def tampered(body: Json) -> bytes:
    """Return the callback with every result at a foreign host; a signature over id and time still matches."""
    text = json.dumps(body, separators=(",", ":"))
    for scheme in ("http://127.0.0.1", "https://tempfile"):
        text = text.replace(scheme, "https://stranger.example/?was=")
    return text.encode()
