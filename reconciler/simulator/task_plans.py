"""What becomes of a task that was made over HTTP: how long it takes and what it brings, drawn from a seed. Pure.

Times and counts follow what was seen: pictures 12 to 112 s, films 56 to 313 s, six from one text-to-image model.
"""

from __future__ import annotations

from collections.abc import Sequence

from reconciler.simulator.faults import draw
from reconciler.simulator.media.files import MediaSpec
from reconciler.simulator.tasks import TaskSpec

FILMS = ("video", "seedance", "veo", "kling", "runway", "aleph", "luma", "sora", "hailuo", "r2v", "happyhorse")
SOUNDS = ("suno", "audio", "speech", "music", "elevenlabs", "sound", "tts")
TIMES = {"image": (12, 112), "video": (56, 313), "audio": (25, 140)}
SIZES = {"image": (200_000, 2_000_000), "video": (2_000_000, 12_000_000), "audio": (3_000_000, 8_000_000)}
EXTS = {"image": ("png", "png", "jpg", "webp"), "video": ("mp4",), "audio": ("mp3",)}
KINDS = {
    **dict.fromkeys(("suno", "suno_wav", "suno_stems"), "audio"),
    **dict.fromkeys(("veo", "runway", "aleph", "luma", "suno_video"), "video"),
}
COUNTS = {"suno": 2, "suno_stems": 2, "suno_cover": 2, "midjourney": 4}


def kind_of(family: str, model: str) -> str:
    """Whether a model makes images, video or audio, by its name."""
    if family != "market":
        return KINDS.get(family, "image")
    name = model.lower()
    if any(word in name for word in SOUNDS):
        return "audio"
    return "video" if any(word in name for word in FILMS) else "image"


def plan(family: str, model: str, draw_from: Sequence[object], size: int | None) -> TaskSpec:
    """Life and results of a new task; `size` fixes the size of its files."""
    kind = kind_of(family, model)
    low, high = TIMES[kind]
    seconds = low * (high / low) ** draw("time", *draw_from)
    return {"life": _steps(seconds, draw("steps", *draw_from)), "results": _results(family, model, draw_from, size)}


def _exts(family: str, kind: str) -> tuple[str, ...]:
    return ("wav",) if family == "suno_wav" else EXTS[kind]


def ordinary(family: str, model: str) -> tuple[MediaSpec, ...]:
    """Small results of the right kind, for a task nobody described."""
    kind = kind_of(family, model)
    return (MediaSpec(kind=kind, ext=_exts(family, kind)[0]),) * COUNTS.get(family, 1)


def _steps(seconds: float, chance: float) -> list[tuple[str, float]]:
    """Most models wait until they are done, some generate from the start, few go through every state."""
    if chance < 0.6:
        return [("waiting", seconds)]
    if chance < 0.85:
        return [("generating", seconds)]
    return [("waiting", seconds * 0.1), ("queuing", seconds * 0.2), ("generating", seconds * 0.7)]


def _results(family: str, model: str, draw_from: Sequence[object], size: int | None) -> list[MediaSpec]:
    kind = kind_of(family, model)
    count = 6 if model == "grok-imagine/text-to-image" else COUNTS.get(family, 1)
    low, high = SIZES[kind]
    exts = _exts(family, kind)
    results = []
    for n in range(count):
        drawn = int(low + (high - low) * draw("size", n, *draw_from))
        ext = exts[int(draw("ext", *draw_from) * len(exts))]
        results.append(MediaSpec(kind=kind, ext=ext, size=drawn if size is None else size))
    return results
