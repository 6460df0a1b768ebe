"""What a request must contain, and KIE's refusal where it does not. Pure.

Sources: the pages of docs.kie.ai for each path; the refusals of recorded traffic ("Please enter callBackUrl.",
"Record does not exist") and of other clients' reports. `creates.py` asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from reconciler.simulator.api.models import MODELS
from reconciler.simulator.records.dialects import SimulatedDialect

UNSUPPORTED = "The model name you specified is not supported. Please verify that you are using a supported model."
UNPUBLISHED = "Page does not exist or is not published"

_GENERATE = "/api/v1/generate"
REQUIRED: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "/api/v1/veo/generate": ("prompt",),
        "/api/v1/veo/extend": ("taskId", "prompt"),
        "/api/v1/veo/get-4k-video": ("taskId",),
        _GENERATE: ("customMode", "instrumental", "model"),
        f"{_GENERATE}/extend": ("audioId", "model"),
        f"{_GENERATE}/upload-cover": ("uploadUrl", "instrumental", "model"),
        f"{_GENERATE}/upload-extend": ("uploadUrl", "model"),
        f"{_GENERATE}/add-vocals": ("uploadUrl", "title", "style", "negativeTags"),
        f"{_GENERATE}/add-instrumental": ("uploadUrl", "title", "tags", "negativeTags"),
        f"{_GENERATE}/mashup": ("uploadUrlList", "model"),
        f"{_GENERATE}/sounds": ("prompt", "model"),
        f"{_GENERATE}/replace-section": (
            "taskId", "audioId", "prompt", "tags", "title", "infillStartS", "infillEndS",
        ),
        "/api/v1/lyrics": ("prompt",),
        "/api/v1/wav/generate": ("taskId", "audioId"),
        "/api/v1/vocal-removal/generate": ("taskId", "audioId"),
        "/api/v1/midi/generate": ("taskId",),
        "/api/v1/mp4/generate": ("taskId", "audioId"),
        "/api/v1/suno/cover/generate": ("taskId",),
        "/api/v1/style/generate": ("content",),
        "/api/v1/voice/validate": ("voiceUrl", "vocalStartS", "vocalEndS"),
        "/api/v1/voice/regenerate": ("taskId",),
        "/api/v1/voice/generate": ("taskId", "verifyUrl"),
        "/api/v1/runway/generate": ("prompt", "duration", "quality"),
        "/api/v1/runway/extend": ("taskId", "prompt", "quality"),
        "/api/v1/aleph/generate": ("prompt", "videoUrl"),
        "/api/v1/gpt4o-image/generate": ("size",),
        "/api/v1/flux/kontext/generate": ("prompt",),
        "/api/v1/mj/generate": ("taskType", "prompt"),
        "/api/v1/modify/generate": ("prompt", "videoUrl"),
    }
)  # fmt: skip
"""The fields that each dedicated path requires, besides callBackUrl."""

CALLBACK_PATHS = frozenset(
    path for path in REQUIRED if path.startswith(_GENERATE)
) | {"/api/v1/lyrics", "/api/v1/wav/generate", "/api/v1/vocal-removal/generate", "/api/v1/midi/generate",
     "/api/v1/mp4/generate", "/api/v1/suno/cover/generate"}  # fmt: skip
"""The paths that require callBackUrl."""

PARENTS = MappingProxyType(
    {
        "/api/v1/veo/extend": "veo",
        "/api/v1/veo/get-4k-video": "veo",
        "/api/v1/runway/extend": "runway",
        "/api/v1/wav/generate": "suno",
        "/api/v1/vocal-removal/generate": "suno",
        "/api/v1/mp4/generate": "suno",
        "/api/v1/suno/cover/generate": "suno",
        "/api/v1/midi/generate": "suno_stems",
        "/api/v1/voice/generate": "suno_voice_phrase",
        "/api/v1/voice/regenerate": "suno_voice_phrase",
    }
)
"""The dialect of the earlier task that a request of this path has to name."""


class Refusal(NamedTuple):
    """The code and the message of a refused request."""

    code: int
    message: str


def check_loosely(family: SimulatedDialect, body: Mapping[str, object]) -> Refusal | None:
    """Return the refusal of a request that names neither a model nor an input, None for all others."""
    if family.needs_callback and not body.get("callBackUrl"):
        return Refusal(422, "Please enter callBackUrl.")
    if family.name == "market":
        if not isinstance(body.get("model"), str):
            return Refusal(422, "model is required")
        return None if isinstance(body.get("input"), dict) else Refusal(422, "input is required")
    known = {field for fields in REQUIRED.values() for field in fields} - {"model"}
    return None if any(body.get(field) for field in known) else Refusal(422, "prompt is required")


def check_strictly(path: str, family: SimulatedDialect, body: Mapping[str, object]) -> Refusal | None:
    """Return KIE's refusal of a request that lacks what the page of its path or model requires."""
    if family.name == "market":
        return check_loosely(family, body) or _check_model(str(body["model"]), body["input"])
    if path in CALLBACK_PATHS and not body.get("callBackUrl"):
        return Refusal(422, "Please enter callBackUrl.")
    required = REQUIRED[path]
    if path == _GENERATE and not _missing(body, required):
        required = ("style", "title") if body.get("customMode") else ("prompt",)
    return _first_missing(body, required, 422)


def _check_model(model: str, inputs: object) -> Refusal | None:
    if model.startswith("sora-2"):
        return Refusal(422, UNPUBLISHED)
    if model not in MODELS:
        return Refusal(422, UNSUPPORTED)
    return _first_missing(inputs if isinstance(inputs, dict) else {}, MODELS[model], 500)


def _missing(body: Mapping[str, object], fields: tuple[str, ...]) -> list[str]:
    """Return the fields that are absent or empty; false and 0 are values."""
    return [field for field in fields if body.get(field) in (None, "", [])]


def _first_missing(body: Mapping[str, object], fields: tuple[str, ...], code: int) -> Refusal | None:
    missing = _missing(body, fields)
    return Refusal(code, f"{missing[0]} is required") if missing else None
