"""Builds the bodies of callbacks: every dialect has its own form, and its own field for the task id. Pure.

`callbacks.py` sends them.
"""

from __future__ import annotations

import json
import re
from types import MappingProxyType

from reconciler.simulator.records import words
from reconciler.simulator.records.records import Json, TaskSnapshot, market
from reconciler.simulator.records.suno import STEMS, stem_names

_SNAKE_STEMS = {name: re.sub("([A-Z])", r"_\1", field).lower() for name, field in STEMS.items()}
CALLBACK_STAGES = MappingProxyType({"suno": (("text", 0.3), ("first", 0.6), ("complete", 1.0))})
"""Dialects with several callbacks: the stages, and the fraction of the life at which each is sent."""
SINGLE_CALLBACK = (("complete", 1.0),)
SUCCESS_MESSAGES = MappingProxyType(
    {
        "market": "Playground task completed successfully.",
        "veo": "Veo3.1 video generated successfully.",
        "suno": "All generated successfully.",
        "suno_lyrics": "All generated successfully.",
        "suno_video": "MP4 generated successfully.",
        "suno_stems": "vocal Removal generated successfully.",
        "runway": "All generated successfully.",
        "luma": "Modify record generated successfully.",
    }
)
FAILURE_CODES = MappingProxyType(
    {
        "market": 501, "luma": 501, "runway": 400, "aleph": 400, "gpt4o": 400, "suno_cover": 501, "suno_lyrics": 400,
        "suno_voice": 400, "suno_voice_phrase": 400,
    }
)  # fmt: skip


def callback_body(snapshot: TaskSnapshot, stage: str = "complete") -> Json:
    """Return the body of one callback; `stage` matters for Suno only."""
    family = snapshot.task.family
    code, message = 200, SUCCESS_MESSAGES.get(family, "success")
    if snapshot.failed:
        code, message = FAILURE_CODES.get(family, 500), snapshot.task.failure.message
        message = "Playground task failed." if family == "market" else message
    if family == "veo" and snapshot.task.variant == "4k" and snapshot.done:
        message = "4K Video generated successfully."
    if family == "aleph":
        return {"code": code, "msg": message, "taskId": snapshot.task.id, "data": _aleph(snapshot)}
    if family == "suno_midi":
        notes = words.midi_notes() if snapshot.done else None
        return {"task_id": snapshot.task.id, "code": code, "msg": message, "data": notes}
    return {"code": code, "msg": message, "data": _data(snapshot, stage)}


def _data(snapshot: TaskSnapshot, stage: str) -> Json:
    named: Json = {"taskId": snapshot.task.id}
    prompted: Json = {**named, "promptJson": snapshot.task.param}
    urls = snapshot.entries
    match snapshot.task.family:
        case "market":
            return _market(snapshot)
        case "suno":
            return _suno(snapshot, stage)
        case "runway":
            return _runway(snapshot)
        case "veo":
            return _veo(snapshot)
        case "gpt4o":
            return {**named, "info": {"result_urls": urls} if snapshot.done else None}
        case "flux_kontext":
            origin, result = (snapshot.still, snapshot.first) if snapshot.done else ("", "")
            return {**named, "info": {"originImageUrl": origin, "resultImageUrl": result}}
        case "suno_cover":
            return {**named, "images": urls if snapshot.done else None}
        case family if family.startswith("suno_"):
            return _from_song(snapshot)
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


def _veo(snapshot: TaskSnapshot) -> Json:
    urls = snapshot.entries
    if snapshot.task.variant == "4k":
        info = {"resultUrls": urls, "imageUrls": []} if snapshot.done else None
        return {"taskId": snapshot.task.id, "info": info, "creditsConsumed": 120 if snapshot.done else 0}
    film = {"resultUrls": urls, "originUrls": [], "resolution": "720p"} if snapshot.done else None
    return {"taskId": snapshot.task.id, "promptJson": snapshot.task.param, "info": film, "fallbackFlag": False}


def _from_song(snapshot: TaskSnapshot) -> Json:
    """The bodies of what is made from a song or a voice: each page names its fields differently."""
    named: Json = {"task_id": snapshot.task.id}
    match snapshot.task.family:
        case "suno_wav":
            return {**named, "audioWavUrl": snapshot.first if snapshot.done else None}
        case "suno_video":
            return {**named, "video_url": snapshot.first if snapshot.done else None}
        case "suno_stems":
            return {**named, "vocal_removal_info": _stems(snapshot) if snapshot.done else None}
        case "suno_lyrics":
            texts = words.lyric_texts("error_message") if snapshot.done else None
            return {"callbackType": "complete" if snapshot.done else "error", **named, "data": texts}
        case "suno_voice":
            return words.voice(snapshot)
        case _:
            return words.voice_phrase(snapshot)


def _stems(snapshot: TaskSnapshot) -> Json:
    """The named stems in the spelling of callbacks, and none but origin_data where one stem was ordered."""
    names, urls = stem_names(snapshot), snapshot.entries
    data = [
        {"id": f"{snapshot.task.id[:8]}-{n}", "stem_type_group_name": name, "audio_url": url, "duration": 245.6}
        for n, (name, url) in enumerate(zip(names, urls, strict=True))
    ]
    named = {_SNAKE_STEMS[name]: url for name, url in zip(names, urls, strict=True) if name in _SNAKE_STEMS}
    hidden = snapshot.place == "origin" or snapshot.task.variant == "advanced"
    return {"origin_url": snapshot.still, **({} if hidden else named), "origin_data": data}


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
                "image_url": snapshot.covers[n] if n < len(snapshot.covers) else "",
                "source_image_url": snapshot.covers[n] if n < len(snapshot.covers) else "",
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
