"""The endpoints at which KIE takes orders, one line each: the request, the task's dialect, the refusals.

Source: docs.kie.ai, the page of each endpoint. The market's request holds `model` and `input`; every other one is flat.
All take the address to call back in `callBackUrl`, and answer with the task's id in `data.taskId`. Pure. The createTask
route checks an order here, `worker/create/create_task.py` builds its request, `create_task.py` reads the answer.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.errors import Permanent
from reconciler.kie.dialects import candidates
from reconciler.kie.dialects.callback import MAX_TASK_ID
from reconciler.kie.dialects.veo_1080p import MAX_INDEX, VEO_1080P, is_task_id, task_id

CALLBACK_KEY = "callBackUrl"

_CALLBACK_SPELLINGS = frozenset({"callbackurl", "calbackurl"})
_REFUSALS = frozenset({400, 401, 402, 403, 404, 422, 429, 430, 433, 455, 500, 501, 505})
"""The codes that every family's pages list for a request that made no task."""


@dataclass(frozen=True, slots=True)
class CreateEndpoint:
    """One endpoint; `name` is its path below /api/v1/, `dialect` the name of the dialect of its tasks' records.

    `nested` is true if the request holds `model` and `input`, false if the input's fields are the request's. `models`
    matches the names that a flat request's `model` takes, empty if it has none. With a code in `refusals` KIE made no
    task. `spare_ids` are fields with the task's id that count where the usual ones are missing.
    """

    name: str
    dialect: str
    models: str = ""
    refusals: frozenset[int] = _REFUSALS
    nested: bool = False
    spare_ids: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The path below KIE's base address."""
        return f"/api/v1/{self.name}"

    def request(self, model: str, given: Mapping[str, object], callback: str) -> dict[str, object]:
        """Return the request's JSON; `callback` is the address to call back, empty without one."""
        if self.nested:
            body: dict[str, object] = {"model": model, "input": given}
        else:
            named = bool(self.models) and re.fullmatch(self.models, model) is not None
            body = {**({"model": model} if named else {}), **given}
        return {**body, CALLBACK_KEY: callback} if callback else body

    def known_task(self, given: Mapping[str, object]) -> str | None:
        """Return the id of the order's task if it is known beforehand, because KIE makes none; else None."""
        return _id_of_1080p(given) if self.dialect == VEO_1080P.name else None


# 451: the caller's image or film cannot be fetched. 413: a text is too long. 409: that file was made before. 550: the
# queue is full.
_FETCHING = _REFUSALS | {451}
_MARKET = _FETCHING | {413, 550}
_SUNO = _FETCHING | {409, 413}
_GPT4O = _FETCHING | {550}

_SUNO_MODELS = r"V[0-9]\w*"
_MUSIC = (
    *("generate", "generate/extend", "generate/upload-cover", "generate/upload-extend", "generate/add-vocals"),
    *("generate/add-instrumental", "generate/mashup", "generate/sounds", "generate/replace-section"),
)
_OTHER_SUNO = {
    "lyrics": "suno_lyrics", "wav/generate": "suno_wav", "vocal-removal/generate": "suno_stems",
    "midi/generate": "suno_midi", "mp4/generate": "suno_video", "suno/cover/generate": "suno_cover",
    "voice/generate": "suno_voice",
}  # fmt: skip

# The first endpoint of a dialect is the one that a model's name chooses.
ENDPOINTS = (
    CreateEndpoint("jobs/createTask", "market", refusals=_MARKET, nested=True, spare_ids=("recordId",)),
    CreateEndpoint("veo/generate", "veo", r"veo3\w*", _FETCHING),
    CreateEndpoint("veo/extend", "veo", refusals=_FETCHING),
    CreateEndpoint("veo/get-4k-video", "veo", refusals=_FETCHING),
    CreateEndpoint("veo/get-1080p-video", VEO_1080P.name),
    *(CreateEndpoint(name, "suno", _SUNO_MODELS, _SUNO) for name in _MUSIC),
    *(CreateEndpoint(name, dialect, refusals=_SUNO) for name, dialect in _OTHER_SUNO.items()),
    CreateEndpoint("runway/generate", "runway", refusals=_FETCHING),
    CreateEndpoint("runway/extend", "runway", refusals=_FETCHING),
    CreateEndpoint("aleph/generate", "aleph", refusals=_FETCHING),
    CreateEndpoint("gpt4o-image/generate", "gpt4o", refusals=_GPT4O),
    CreateEndpoint("flux/kontext/generate", "flux_kontext", r"flux-kontext-(pro|max)"),
    CreateEndpoint("mj/generate", "midjourney"),
    CreateEndpoint("modify/generate", "luma"),
)

_BY_NAME = {endpoint.name: endpoint for endpoint in ENDPOINTS}
_WITHOUT_TASK = frozenset({"style/generate", "generate/generate-persona", "generate/get-timestamped-lyrics"})
"""Endpoints that answer with the result itself: there is no task to follow, and a lost answer could never be found."""


def choose(model: str, name: str | None, given: Mapping[str, object]) -> CreateEndpoint:
    """Return the endpoint for an order: the one with this name, or the one that the model's name means.

    Raises Permanent if there is no such endpoint, it contradicts the model, or it does not take this input.
    """
    dialects = candidates(model, "")
    if name is None:
        endpoint = next(endpoint for endpoint in ENDPOINTS if endpoint.dialect == dialects[0].name)
    elif name in _WITHOUT_TASK:
        message = f"{name} answers at once and makes no task that could be followed: send it to KIE yourself"
        raise Permanent(message, code="endpoint_without_task")
    elif (found := _BY_NAME.get(name)) is None:
        raise Permanent(f"{name} is no endpoint; there are {', '.join(_BY_NAME)}", code="endpoint_unknown")
    else:
        endpoint = found
    # The dialects of one family begin with its name.
    if not any(endpoint.dialect.startswith(dialect.name) for dialect in dialects):
        message = f"{endpoint.name} does not make {model}, which is ordered at {choose(model, None, {}).name}"
        raise Permanent(message, code="endpoint_contradicts_model")
    _check_input(endpoint, given)
    return endpoint


def _check_input(endpoint: CreateEndpoint, given: Mapping[str, object]) -> None:
    if not endpoint.nested and any(key.lower() in _CALLBACK_SPELLINGS for key in given):
        raise Permanent("input: the address to call back is given by the server", code="invalid_request")
    endpoint.known_task(given)


def _id_of_1080p(given: Mapping[str, object]) -> str:
    film, index = given.get("taskId"), given.get("index", 0)
    if not isinstance(film, str) or not film.strip() or not film.isprintable() or is_task_id(film):
        raise Permanent("input.taskId: the id of the Veo task is missing", code="invalid_request")
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index <= MAX_INDEX:
        raise Permanent(f"input.index: a whole number from 0 to {MAX_INDEX}", code="invalid_request")
    if len(found := task_id(film.strip(), index)) > MAX_TASK_ID:
        raise Permanent("input.taskId: too long", code="invalid_request")
    return found
