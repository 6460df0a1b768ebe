"""What KIE posts to a callback address, family by family: the body, and where in it the task's id sits. Pure.

Called by `callbacks.py`, which sends it.
"""

from __future__ import annotations

import json
from types import MappingProxyType

from reconciler.simulator.records.records import Json, Scene, market

STAGES = MappingProxyType({"suno": (("text", 0.3), ("first", 0.6), ("complete", 1.0))})
"""Families that call more than once: the stages and at what part of the life each is called."""
ONCE = (("complete", 1.0),)
SPOKEN = MappingProxyType(
    {
        "market": "Playground task completed successfully.",
        "veo": "Veo3.1 video generated successfully.",
        "suno": "All generated successfully.",
        "runway": "All generated successfully.",
    }
)
REFUSALS = MappingProxyType({"market": 501, "luma": 501, "runway": 400, "aleph": 400, "gpt4o": 400})


def body_of(scene: Scene, stage: str = "complete") -> Json:
    """The body of one callback; `stage` matters to Suno only."""
    family = scene.task.family
    code, message = 200, SPOKEN.get(family, "success")
    if scene.failed:
        code, message = REFUSALS.get(family, 500), scene.task.failure.message
        message = "Playground task failed." if family == "market" else message
    if family == "aleph":
        return {"code": code, "msg": message, "taskId": scene.task.id, "data": _aleph(scene)}
    return {"code": code, "msg": message, "data": _inner(scene, stage)}


def _inner(scene: Scene, stage: str) -> Json:
    named: Json = {"taskId": scene.task.id}
    prompted: Json = {**named, "promptJson": scene.task.param}
    urls = list(scene.results)
    match scene.task.family:
        case "market":
            return _market(scene)
        case "suno":
            return _suno(scene, stage)
        case "runway":
            return _runway(scene)
        case "veo":
            film = {"resultUrls": urls, "originUrls": [], "resolution": "720p"} if scene.done else None
            return {**prompted, "info": film, "fallbackFlag": False}
        case "gpt4o":
            return {**named, "info": {"result_urls": urls} if scene.done else None}
        case "flux_kontext":
            origin, result = (scene.still, scene.first) if scene.done else ("", "")
            return {**named, "info": {"originImageUrl": origin, "resultImageUrl": result}}
        case "suno_wav" | "suno_stems" | "suno_video" | "suno_cover":
            return {"task_id": scene.task.id, "results": urls if scene.done else []}
        case _:
            return {**prompted, "resultUrls": urls if scene.done else []}


def _market(scene: Scene) -> Json:
    record = market(scene)
    if scene.failed:
        record["resultJson"] = None
    return {**record, "updateTime": record["completeTime"], "creditsConsumed": 4.25 if scene.done else 0}


def _runway(scene: Scene) -> Json:
    film, still = (scene.first, scene.still) if scene.done else ("", "")
    return {
        "task_id": scene.task.id,
        "video_id": f"v-{scene.task.id}" if film else "",
        "video_url": film,
        "image_url": still,
    }


def _aleph(scene: Scene) -> Json | None:
    if not scene.done:
        return None
    return {"result_video_url": scene.first, "result_image_url": scene.still}


def _suno(scene: Scene, stage: str) -> Json:
    if scene.failed:
        return {"callbackType": "error", "task_id": scene.task.id, "data": None}
    ready = {"text": 0, "first": 1}.get(stage, len(scene.results))
    tracks: list[Json] = []
    for n, url in enumerate(scene.results):
        sound = url if n < ready else ""
        tracks.append(
            {
                "id": f"{scene.task.id[:8]}-{n}",
                "audio_url": sound,
                "source_audio_url": sound,
                "stream_audio_url": sound,
                "source_stream_audio_url": sound,
                "image_url": scene.covers[n],
                "source_image_url": scene.covers[n],
                "prompt": "[Verse] a song",
                "model_name": "chirp-v4-5",
                "title": "A song",
                "tags": "calm",
                "createTime": scene.words(scene.created),
                "duration": 198.44 if sound else None,
            }
        )
    return {"callbackType": stage, "task_id": scene.task.id, "data": tracks}


def tampered(body: Json) -> bytes:
    """The same callback with every result moved to a stranger's host; a signature over id and time still holds."""
    text = json.dumps(body, separators=(",", ":"))
    for scheme in ("http://127.0.0.1", "https://tempfile"):
        text = text.replace(scheme, "https://stranger.example/?was=")
    return text.encode()
