"""Draws the duration and the results of tasks that are created over HTTP, from a seed. Pure.

Times and counts follow KIE: images 12 to 112 s, videos 56 to 313 s, six images from one text-to-image model.
"""

from __future__ import annotations

from collections.abc import Sequence

from reconciler.simulator.faults import random_number
from reconciler.simulator.media.files import MediaSpec
from reconciler.simulator.tasks import TaskSpec

VIDEO_WORDS = ("video", "seedance", "veo", "kling", "runway", "aleph", "luma", "sora", "hailuo", "r2v", "happyhorse")
AUDIO_WORDS = ("suno", "audio", "speech", "music", "elevenlabs", "sound", "tts")
DURATIONS = {"image": (12, 112), "video": (56, 313), "audio": (25, 140)}
SIZES = {"image": (200_000, 2_000_000), "video": (2_000_000, 12_000_000), "audio": (3_000_000, 8_000_000)}
EXTS = {"image": ("png", "png", "jpg", "webp"), "video": ("mp4",), "audio": ("mp3",)}
KINDS = {
    **dict.fromkeys(("suno", "suno_wav", "suno_stems"), "audio"),
    **dict.fromkeys(("veo", "runway", "aleph", "luma", "suno_video"), "video"),
}
COUNTS = {"suno": 2, "suno_stems": 2, "suno_cover": 2, "midjourney": 4}


def kind_of_model(family: str, model: str) -> str:
    """Return the media kind of a model, by its dialect and name."""
    if family != "market":
        return KINDS.get(family, "image")
    name = model.lower()
    if any(word in name for word in AUDIO_WORDS):
        return "audio"
    return "video" if any(word in name for word in VIDEO_WORDS) else "image"


def draw_task(family: str, model: str, draw_from: Sequence[object], size: int | None) -> TaskSpec:
    """Return the life and the results of a new task; `size` fixes the size of its files."""
    kind = kind_of_model(family, model)
    low, high = DURATIONS[kind]
    seconds = low * (high / low) ** random_number("time", *draw_from)
    return {
        "life": _steps(seconds, random_number("steps", *draw_from)),
        "results": _results(family, model, draw_from, size),
    }


def _exts(family: str, kind: str) -> tuple[str, ...]:
    return ("wav",) if family == "suno_wav" else EXTS[kind]


def default_results(family: str, model: str) -> tuple[MediaSpec, ...]:
    """Return small results of the right kind, for a task without a description."""
    kind = kind_of_model(family, model)
    return (MediaSpec(kind=kind, ext=_exts(family, kind)[0]),) * COUNTS.get(family, 1)


def _steps(seconds: float, chance: float) -> list[tuple[str, float]]:
    """Return the states of a life: most tasks wait to the end, some generate from the start, few use every state."""
    if chance < 0.6:
        return [("waiting", seconds)]
    if chance < 0.85:
        return [("generating", seconds)]
    return [("waiting", seconds * 0.1), ("queuing", seconds * 0.2), ("generating", seconds * 0.7)]


def _results(family: str, model: str, draw_from: Sequence[object], size: int | None) -> list[MediaSpec]:
    kind = kind_of_model(family, model)
    count = 6 if model == "grok-imagine/text-to-image" else COUNTS.get(family, 1)
    low, high = SIZES[kind]
    exts = _exts(family, kind)
    results = []
    for n in range(count):
        random_size = int(low + (high - low) * random_number("size", n, *draw_from))
        ext = exts[int(random_number("ext", *draw_from) * len(exts))]
        results.append(MediaSpec(kind=kind, ext=ext, size=random_size if size is None else size))
    return results
