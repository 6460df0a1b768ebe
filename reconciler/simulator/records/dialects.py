"""The routes of every dialect: those that create tasks, the one for records, and the function that writes them.

Pure. Read by `api/api.py` to lay out its routes and by `callbacks.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from reconciler.simulator.records import images, records, suno, words
from reconciler.simulator.records.records import Json, TaskSnapshot


@dataclass(frozen=True, slots=True)
class SimulatedDialect:
    """One dialect. `stranger` is the code and message for a task that this dialect does not know.

    `grows` marks a dialect whose tasks are made from an earlier task, which the request names.
    """

    name: str
    status: str
    creates: tuple[str, ...]
    record: Callable[[TaskSnapshot], Json]
    model: str = ""
    stranger: tuple[int, str] = (422, "record is null")
    needs_callback: bool = False
    grows: bool = False


_ALL = (
    SimulatedDialect(
        name="market",
        status="/api/v1/jobs/recordInfo",
        creates=("/api/v1/jobs/createTask",),
        record=records.market,
        stranger=(422, "recordInfo is null"),
    ),
    SimulatedDialect(
        name="veo",
        status="/api/v1/veo/record-info",
        creates=("/api/v1/veo/generate", "/api/v1/veo/extend", "/api/v1/veo/get-4k-video"),
        record=records.veo,
        model="veo3_fast",
    ),
    SimulatedDialect(
        name="suno",
        status="/api/v1/generate/record-info",
        creates=(
            "/api/v1/generate",
            "/api/v1/generate/extend",
            "/api/v1/generate/upload-cover",
            "/api/v1/generate/upload-extend",
            "/api/v1/generate/add-vocals",
            "/api/v1/generate/add-instrumental",
            "/api/v1/generate/mashup",
            "/api/v1/generate/sounds",
            "/api/v1/generate/replace-section",
        ),
        record=suno.music,
        model="V4_5",
        stranger=(200, "success"),
        needs_callback=True,
    ),
    SimulatedDialect(
        name="runway",
        status="/api/v1/runway/record-detail",
        creates=("/api/v1/runway/generate", "/api/v1/runway/extend"),
        record=records.runway,
        model="runway",
    ),
    SimulatedDialect(
        name="aleph",
        status="/api/v1/aleph/record-info",
        creates=("/api/v1/aleph/generate",),
        record=records.aleph,
        model="runway-aleph",
    ),
    SimulatedDialect(
        name="gpt4o",
        status="/api/v1/gpt4o-image/record-info",
        creates=("/api/v1/gpt4o-image/generate",),
        record=images.gpt4o,
        model="gpt-4o-image",
    ),
    SimulatedDialect(
        name="flux_kontext",
        status="/api/v1/flux/kontext/record-info",
        creates=("/api/v1/flux/kontext/generate",),
        record=images.flux_kontext,
        model="flux-kontext-pro",
    ),
    SimulatedDialect(
        name="midjourney",
        status="/api/v1/mj/record-info",
        creates=("/api/v1/mj/generate",),
        record=images.midjourney,
        model="midjourney",
    ),
    SimulatedDialect(
        name="luma",
        status="/api/v1/modify/record-info",
        creates=("/api/v1/modify/generate",),
        record=images.luma,
        model="luma-modify",
    ),
    SimulatedDialect(
        name="suno_wav",
        status="/api/v1/wav/record-info",
        creates=("/api/v1/wav/generate",),
        record=suno.wav,
        grows=True,
    ),
    SimulatedDialect(
        name="suno_stems",
        status="/api/v1/vocal-removal/record-info",
        creates=("/api/v1/vocal-removal/generate",),
        record=suno.stems,
        grows=True,
    ),
    SimulatedDialect(
        name="suno_video",
        status="/api/v1/mp4/record-info",
        creates=("/api/v1/mp4/generate",),
        record=suno.video,
        grows=True,
    ),
    SimulatedDialect(
        name="suno_cover",
        status="/api/v1/suno/cover/record-info",
        creates=("/api/v1/suno/cover/generate",),
        record=suno.cover,
        grows=True,
    ),
    SimulatedDialect(
        name="suno_lyrics",
        status="/api/v1/lyrics/record-info",
        creates=("/api/v1/lyrics",),
        record=words.lyrics,
        needs_callback=True,
    ),
    SimulatedDialect(
        name="suno_midi",
        status="/api/v1/midi/record-info",
        creates=("/api/v1/midi/generate",),
        record=words.midi,
        grows=True,
    ),
    SimulatedDialect(
        name="suno_voice",
        status="/api/v1/voice/record-info",
        creates=("/api/v1/voice/generate",),
        record=words.voice,
    ),
    SimulatedDialect(
        name="suno_voice_phrase",
        status="/api/v1/voice/validate-info",
        creates=("/api/v1/voice/validate", "/api/v1/voice/regenerate"),
        record=words.voice_phrase,
    ),
)
WORD_DIALECTS = frozenset({"suno_lyrics", "suno_midi", "suno_voice", "suno_voice_phrase"})
"""Dialects whose results are words or numbers, without a file."""

DIALECTS = MappingProxyType({family.name: family for family in _ALL})
