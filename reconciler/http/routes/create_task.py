"""`POST /api/kie/createTask`: an order comes in, and what became of it goes out in KIE's meaning.

What is checked here is who asks and that the order can be written down; the rest is
`worker/create/create_task.py`'s. Called by the web door.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, assert_never

from fastapi import APIRouter, Depends, Header, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from reconciler.errors import Permanent
from reconciler.http.auth import Authenticator, Caller
from reconciler.http.problems import RETRY, Problem, wait
from reconciler.http.readiness_gate import ReadinessGate
from reconciler.postgres.create_requests import WINDOW, Order, Requester
from reconciler.worker.create.create_task import (
    CreateAnswer,
    CreateRateExceeded,
    GenerationDeleted,
    IdempotencyKeyReused,
    OutcomeUnknown,
    TaskCreated,
    TaskDeclined,
)

LARGEST_INPUT = 256 << 10
"""Characters of an order's input as JSON; KIE takes files by address, not in here."""

DEEPEST = 64
"""Lists and objects in one another in an order's input; what reads and writes them calls itself for each."""

_NO_CONTROLS = r"^[^\x00-\x1f\x7f]+$"
_EXAMPLE: dict[str, JsonValue] = {
    "model": "nano-banana-2",
    "input": {"prompt": "a lighthouse at dawn", "resolution": "1K"},
    "kind": "image",
    "modelKey": "nano-banana-2",
}
_MADE: dict[str, JsonValue] = {
    "generationId": "8f9c1c6e-2f0b-4c39-9d1b-6a1a0f9d2b11",
    "taskId": "0f3a5b1c9d7e4f60a1b2c3d4e5f60718",
    "status": "generating",
}


class CreateTaskBody(BaseModel):
    """What is to be made."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]}, protected_namespaces=())

    model: str = Field(min_length=1, max_length=200, pattern=_NO_CONTROLS, description="KIE's name of the model")
    input: dict[str, Any] = Field(description="what this model takes, as KIE's page of the model says")
    kind: Literal["image", "video", "audio"] = Field(description="what it makes; it chooses the key, too")
    prompt: str | None = Field(None, max_length=20_000, description="what the history shows; by default input.prompt")
    model_key: str | None = Field(
        None, alias="modelKey", min_length=1, max_length=200, pattern=_NO_CONTROLS,
        description="the application's name of the model; by default KIE's",
    )  # fmt: skip
    user_id: str | None = Field(
        None, alias="userId", min_length=1, max_length=200, pattern=_NO_CONTROLS,
        description="whose generation it is; for the operator only, an end user's are their own",
    )  # fmt: skip


class CreateTaskAnswer(BaseModel):
    """The generation."""

    model_config = ConfigDict(json_schema_extra={"examples": [_MADE]})

    generationId: str = Field(description="the row's id")  # noqa: N815 - the API speaks camelCase
    taskId: str | None = Field(description="KIE's id of the task; null only in repeats")  # noqa: N815
    status: str = Field(description="the row's status; `deleted` where the application has deleted it meanwhile")


_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "model": CreateTaskAnswer,
        "description": "A repeat of this Idempotency-Key: the same generation as it stands now.",
    },
    402: {"description": "KIE's word: not enough credits. The generation failed."},
    404: {"description": "The generation of this Idempotency-Key was deleted."},
    422: {"description": "KIE or the table refuses the order, or the Idempotency-Key was used for another one."},
    429: {"description": "Too fast, by our own rate (nothing was written) or by KIE's (it failed).", "headers": RETRY},
    502: {"description": "KIE refuses us, or cannot be reached. The generation failed."},
    503: {"description": "Starting, ending, the database is away, or KIE is under maintenance.", "headers": RETRY},
    504: {"description": "KIE may have made the task. It is not ordered again; its callback settles the generation."},
}

Repeatable = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x20-\x7e]+$",
        description="repeats with this key give the same generation, for three days",
    ),
]


def routes(gate: Authenticator, entrance: ReadinessGate) -> APIRouter:
    """Return the route."""
    router = APIRouter(prefix="/api/kie", tags=["kie"])

    @router.post("/createTask", status_code=201, response_model=CreateTaskAnswer, responses=_RESPONSES)
    async def create(
        wanted: CreateTaskBody,
        response: Response,
        key: Repeatable = None,
        caller: Caller = Depends(gate.caller),
    ) -> CreateTaskAnswer:
        """Order a generation: the row is written first, KIE is asked second, and never twice."""
        order = _order(wanted, caller)
        try:
            answer = await entrance.go().creation.create(order, Requester(caller.user_id or "", key))
        except Permanent as error:
            raise Problem(422, error.code, str(error)) from error
        made = _told(answer)
        response.status_code = 201 if made.fresh else 200
        return CreateTaskAnswer(generationId=made.generation_id, taskId=made.task_id, status=made.status)

    return router


def _order(wanted: CreateTaskBody, caller: Caller) -> Order:
    user_id = wanted.user_id
    if not caller.operator:
        if user_id not in (None, caller.user_id):
            raise Problem(422, "user_not_yours", "userId is for the operator only")
        user_id = caller.user_id
    _check_text(wanted)
    return Order(wanted.model, wanted.input, wanted.kind, wanted.prompt, wanted.model_key, user_id)


def _check_text(wanted: CreateTaskBody) -> None:
    """Refuse what JSON can carry and the database or KIE cannot: half characters, NUL, numbers that are none."""
    try:
        text = json.dumps([wanted.input, wanted.model_dump(exclude={"input"})], ensure_ascii=False, allow_nan=False)
        text.encode()
    except ValueError:
        raise Problem(400, "invalid_request", "body: holds a number or a character that cannot be written") from None
    except RecursionError:
        raise _too_deep() from None
    if _depth(wanted.input) > DEEPEST:
        raise _too_deep()
    if "\\u0000" in text:
        raise Problem(400, "invalid_request", "body: holds a NUL character")
    if len(text) > LARGEST_INPUT:
        raise Problem(413, "too_large", f"no more than {LARGEST_INPUT} characters are taken")


def _too_deep() -> Problem:
    return Problem(400, "invalid_request", f"body: input is nested deeper than {DEEPEST}")


def _depth(held: object) -> int:
    """How deep it is nested, without a call for each depth; counted no further than is taken."""
    depth, level = 0, [held]
    while depth <= DEEPEST and (level := [one for one in level if isinstance(one, dict | list)]):
        depth += 1
        level = [one for each in level for one in (each.values() if isinstance(each, dict) else each)]
    return depth


def _told(answer: CreateAnswer) -> TaskCreated:
    """Return what was created; every other answer is a Problem."""
    match answer:
        case TaskCreated():
            return answer
        case CreateRateExceeded(seconds):
            raise Problem(429, "create_rate", "too many orders just now; nothing was written", headers=wait(seconds))
        case IdempotencyKeyReused():
            raise Problem(422, "idempotency_key_reused", "this Idempotency-Key was used for another order")
        case GenerationDeleted():
            raise Problem(404, "not_found", "the generation of this Idempotency-Key was deleted; take another key")
        case OutcomeUnknown(generation_id, reason):
            told = f"{reason}; it is not ordered again, and its callback settles the generation"
            raise Problem(504, "outcome_unknown", told, generationId=generation_id)
        case TaskDeclined():
            raise _declined(answer)
        case _:
            assert_never(answer)


def _declined(declined: TaskDeclined) -> Problem:
    if declined.code is None:
        return Problem(502, "kie_unavailable", declined.message, generationId=declined.generation_id)
    status, word = _MEANINGS.get(declined.code, (502, "kie_refused"))
    headers = wait(declined.retry_after or WINDOW) if status in {429, 503} else {}
    more = {"generationId": declined.generation_id, "code": declined.code}
    return Problem(status, word, declined.message, headers=headers, **more)


_MEANINGS = {
    400: (422, "refused"),
    401: (502, "kie_unauthorized"),
    402: (402, "no_credits"),
    403: (502, "kie_unauthorized"),
    404: (422, "refused"),
    422: (422, "refused"),
    429: (429, "rate_limited"),
    433: (429, "key_capped"),
    451: (422, "refused"),
    455: (503, "kie_maintenance"),
}
"""KIE's codes as HTTP statuses and stable words; every other one is 502 `kie_refused`."""
