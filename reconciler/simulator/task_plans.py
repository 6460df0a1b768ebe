"""Plans of tasks: what a task makes, how long it takes, and in which form it answers. Pure.

`draw_task` plans a task that is created over HTTP: its duration from a seed, its results as the request orders them
(`output_format`, `num_images`, `nVariants`, `return_last_frame` …). Times and counts follow KIE: images 12 to 112 s,
videos 56 to 313 s, six images from one text-to-image model. `default_results` and `default_wrap` are for tasks that a
test adds.

A test that wants something else says it, from the most to the least usual:

- `kie.add_task(life=…, results=[MediaSpec(…)], fate=…)`, and the other fields of `TaskSpec`: a task of that kind.
- `kie.orders.append({…})`, `kie.usual[model] = {…}`: the same fields for the next task, or for all tasks of a model,
  that a client creates over HTTP.
- `faults=[Fault("late.hole", seconds=75)]`, or `kie.strike(…)`: a named disturbance, see `faults.py`.
- `answers=[LiteralAnswer(…), …]`: the record page answers word for word, see `answers.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reconciler.simulator.faults import random_number
from reconciler.simulator.media.files import MediaSpec
from reconciler.simulator.records.dialects import WORD_DIALECTS
from reconciler.simulator.records.suno import SPLIT_STEMS
from reconciler.simulator.records.words import MUSIC_WRAP, WORDS_ONLY, WRAPS
from reconciler.simulator.tasks import TaskSpec, Wrap

VIDEO_WORDS = (
    "video", "seedance", "veo", "kling", "runway", "aleph", "luma", "sora", "hailuo", "r2v", "happyhorse", "omnihuman",
    "animate", "lip-sync", "avatar", "infinitalk", "motion-control", "pixverse", "minimax", "grok-imagine/extend",
    "grok-imagine/upscale",
)  # fmt: skip
AUDIO_WORDS = ("suno", "audio", "speech", "music", "elevenlabs", "sound", "tts")
DURATIONS = {"image": (12, 112), "video": (56, 313), "audio": (25, 140), "text": (6, 30)}
SIZES = {"image": (200_000, 2_000_000), "video": (2_000_000, 12_000_000), "audio": (3_000_000, 8_000_000)}
EXTS = {"image": ("png", "png", "jpg", "webp"), "video": ("mp4",), "audio": ("mp3",)}
KINDS = {
    **dict.fromkeys(("suno", "suno_wav", "suno_stems"), "audio"),
    **dict.fromkeys(("veo", "runway", "aleph", "luma", "suno_video"), "video"),
    **dict.fromkeys(WORD_DIALECTS, "text"),
}
COUNTS = {"suno": 2, "suno_stems": 2, "suno_cover": 2, "midjourney": 4}
MODEL_COUNTS = {"subject-detection": 2, "segment-map": 3, "layer-decomposition": 4}

FORMATS = {
    "image": {name: name for name in ("png", "jpg", "jpeg", "webp", "gif", "avif")},
    "video": {name: name for name in ("mp4", "mov", "webm")},
    "audio": {"opus": "ogg", **{name: name for name in ("mp3", "wav", "ogg", "flac", "aac", "m4a", "pcm")}},
}
"""The words of `output_format` up to the first underscore, and the extension that each means."""

COUNT_FIELDS = ("num_images", "nVariants", "n", "max_images", "num_layers")
MOST_RESULTS = 16
HD_SECONDS = 90.0


def kind_of_model(family: str, model: str) -> str:
    """Return the media kind of a model, by its dialect and name; `text` makes no file."""
    if family != "market":
        return KINDS.get(family, "image")
    name = model.lower()
    if _ending(name) in WRAPS:
        return "text" if _ending(name) in WORDS_ONLY else "image"
    if any(word in name for word in AUDIO_WORDS) and not name.endswith("video"):
        return "audio"
    return "video" if any(word in name for word in VIDEO_WORDS) else "image"


def default_results(family: str, model: str) -> tuple[MediaSpec, ...]:
    """Return small results of the right kind, for a task without a description."""
    kind = kind_of_model(family, model)
    if kind == "text":
        return ()
    return (MediaSpec(kind=kind, ext=_exts(family, kind)[0]),) * _usual_count(family, model)


def default_wrap(family: str, model: str) -> Wrap | None:
    """Return what builds the resultJson of a model that does not answer with a list of addresses."""
    if family != "market":
        return None
    if model.startswith("ai-music-api/"):
        return MUSIC_WRAP
    return WRAPS.get(_ending(model.lower()))


def draw_task(
    family: str, model: str, request: Mapping[str, object], draw_from: Sequence[object], size: int | None
) -> TaskSpec:
    """Return the plan of a new task, as the request orders it; `size` fixes the size of its files in bytes."""
    kind = kind_of_model(family, model)
    low, high = DURATIONS[kind]
    seconds = low * (high / low) ** random_number("time", *draw_from)
    plan: TaskSpec = {"life": _steps(seconds, random_number("steps", *draw_from)), "results": []}
    if kind != "text":
        exts = _ordered_exts(kind, request) or _exts(family, kind)
        ext = exts[int(random_number("ext", *draw_from) * len(exts))]
        count = _ordered_count(family, model, request)
        plan["results"] = [_file(kind, ext, size, (n, *draw_from)) for n in range(count)]
    if request.get("return_last_frame") is True and family == "market":
        plan["covers"] = [_file("image", "png", size, ("frame", *draw_from))]
    if family == "veo":
        plan["covers"] = [_file(kind, "mp4", size, ("hd", n, *draw_from)) for n in range(len(plan["results"]))]
        plan["hd_after"] = HD_SECONDS
    if request.get("type") == "split_stem_advanced":
        plan["variant"] = "advanced"
    return plan


def _ending(name: str) -> str:
    """Return the last part of a model's name: layer-decomposition of seedream/5-pro-layer-decomposition."""
    last = name.rpartition("/")[2]
    return next((one for one in WRAPS if last.endswith(one)), last)


def _exts(family: str, kind: str) -> tuple[str, ...]:
    return ("wav",) if family == "suno_wav" else EXTS[kind]


def _ordered_exts(kind: str, request: Mapping[str, object]) -> tuple[str, ...]:
    """Return the extension that the request orders, nothing where it orders none of this kind."""
    wanted = str(request.get("output_format") or request.get("outputFormat") or "").lower()
    ext = FORMATS[kind].get(wanted.partition("_")[0])
    return () if ext is None else (ext,)


def _usual_count(family: str, model: str) -> int:
    return MODEL_COUNTS.get(_ending(model.lower()), COUNTS.get(family, 1))


def _ordered_count(family: str, model: str, request: Mapping[str, object]) -> int:
    if family == "suno_stems":
        return {"split_stem": len(SPLIT_STEMS), "split_stem_advanced": 1}.get(str(request.get("type")), 2)
    counts = (_whole(request.get(field)) for field in COUNT_FIELDS)
    usual = 6 if model == "grok-imagine/text-to-image" else _usual_count(family, model)
    return min(next((count for count in counts if count), usual), MOST_RESULTS)


def _whole(value: object) -> int:
    """Return a count that is a number or, as on some pages, a string of digits; 0 for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 4:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _steps(seconds: float, chance: float) -> list[tuple[str, float]]:
    """Return the states of a life: most tasks wait to the end, some generate from the start, few use every state."""
    if chance < 0.6:
        return [("waiting", seconds)]
    if chance < 0.85:
        return [("generating", seconds)]
    return [("waiting", seconds * 0.1), ("queuing", seconds * 0.2), ("generating", seconds * 0.7)]


def _file(kind: str, ext: str, size: int | None, draw_from: Sequence[object]) -> MediaSpec:
    low, high = SIZES[kind]
    random_size = int(low + (high - low) * random_number("size", *draw_from))
    return MediaSpec(kind=kind, ext=ext, size=random_size if size is None else size)
