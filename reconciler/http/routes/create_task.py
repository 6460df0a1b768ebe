"""`POST /api/kie/createTask`: takes an order, and answers with its outcome in KIE's meaning.

The route checks the caller and that the order can be stored; `worker/create/create_task.py` does the rest.
"""

import asyncio
import json
from typing import Annotated, Any, Literal, assert_never

from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from reconciler.errors import Permanent
from reconciler.http.auth import Authenticator, Caller
from reconciler.http.bodies import BodyRouter, BodyRule, RequestBody
from reconciler.http.problems import RETRY, Problem, wait
from reconciler.http.readiness_gate import ReadinessGate
from reconciler.kie.create_endpoints import ENDPOINTS, choose
from reconciler.postgres.create_rates import WINDOW
from reconciler.postgres.create_requests import Order, RateExceeded, Requester
from reconciler.worker.create.create_task import (
    CreateAnswer,
    GenerationDeleted,
    IdempotencyKeyReused,
    OrderRefused,
    OutcomeUnknown,
    TaskCreated,
    TaskDeclined,
)

LARGEST_INPUT = 256 << 10
"""The most characters of an order's input as JSON; KIE takes files by address, not in the input."""

MAX_DEPTH = 64
"""The most nested lists and objects in an order's input; the code that reads and writes them is recursive."""

_PATH = "/api/kie/createTask"
_ENDPOINT_NAMES = [endpoint.name for endpoint in ENDPOINTS]
_NO_CONTROLS = r"^[^\x00-\x1f\x7f]+$"
_BODY_EXAMPLE: dict[str, JsonValue] = {
    "model": "nano-banana-2",
    "input": {"prompt": "a lighthouse at dawn", "resolution": "1K"},
    "kind": "image",
    "modelKey": "nano-banana-2",
}
_ANSWER_EXAMPLE: dict[str, JsonValue] = {
    "generationId": "8f9c1c6e-2f0b-4c39-9d1b-6a1a0f9d2b11",
    "taskId": "0f3a5b1c9d7e4f60a1b2c3d4e5f60718",
    "status": "generating",
}


class CreateTaskBody(RequestBody):
    """An order."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_BODY_EXAMPLE]}, protected_namespaces=())

    model: str = Field(min_length=1, max_length=200, pattern=_NO_CONTROLS, description="KIE's name of the model")
    endpoint: str | None = Field(
        None, max_length=100, pattern=r"^[A-Za-z0-9/-]+$", json_schema_extra={"enum": [*_ENDPOINT_NAMES, None]},
        description="KIE's endpoint, as its path below /api/v1/; by default the one that the model's name means",
    )  # fmt: skip
    input: dict[str, Any] = Field(description="the fields of KIE's request, as the endpoint's page documents them")
    kind: Literal["image", "video", "audio"] = Field(description="what the model makes; it also chooses the API key")
    prompt: str | None = Field(
        None, max_length=20_000, description="the prompt that the history shows; by default input.prompt"
    )
    model_key: str | None = Field(
        None, alias="modelKey", min_length=1, max_length=200, pattern=_NO_CONTROLS,
        description="the application's name of the model; by default KIE's",
    )  # fmt: skip
    user_id: str | None = Field(
        None, alias="userId", min_length=1, max_length=200, pattern=_NO_CONTROLS,
        description="the owner of the generation; for the operator only",
    )  # fmt: skip


class CreateTaskAnswer(BaseModel):
    """The generation that was ordered."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ANSWER_EXAMPLE]})

    generationId: str = Field(description="the row's id")  # noqa: N815 - the API speaks camelCase
    taskId: str | None = Field(description="KIE's id of the task; null only in repeats")  # noqa: N815
    status: str = Field(description="the row's status; `deleted` where the application has deleted it meanwhile")


_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"description": "Malformed, or an endpoint that is unknown, makes no task, or contradicts the model."},
    200: {
        "model": CreateTaskAnswer,
        "description": "A repeat of this Idempotency-Key: the same generation in its present state.",
    },
    402: {
        "description": "The shop refuses the order (`order_refused`), and nothing was written; or KIE says that the "
        "shop has not enough credits, and the generation failed.",
    },
    403: {"description": "End users may not order here, or this one is anonymous."},
    404: {"description": "The generation of this Idempotency-Key was deleted."},
    422: {"description": "KIE or the table refuses the order, or the Idempotency-Key was used for another order."},
    429: {
        "description": "Too many orders, by our own rate or the user's (nothing was written) or by KIE's (the "
        "generation failed).",
        "headers": RETRY,
    },
    502: {"description": "KIE refuses us, or cannot be reached. The generation failed."},
    503: {
        "description": "The daemon is starting or stopping, the database is away, the shop's hook cannot decide, or "
        "KIE is under maintenance.",
        "headers": RETRY,
    },
    504: {"description": "KIE may have made the task. It is not ordered again; its callback decides the generation."},
}

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x20-\x7e]+$",
        description="a repeat with this key gives the same generation, for three days",
    ),
]


def routes(authenticator: Authenticator, readiness_gate: ReadinessGate, *, users_order: bool) -> BodyRouter:
    """Return the route; with `users_order` end users may order, too, but never those who are anonymous."""
    router = BodyRouter(tags=["kie"])

    def orderer(caller: Caller = Depends(authenticator.caller)) -> Caller:
        """Return a caller who may order; Problem 403 for every other one."""
        if caller.operator or (users_order and not caller.anonymous):
            return caller
        detail = "anonymous users may not order" if users_order else "only the shop orders here"
        raise Problem(403, "orders_closed", detail)

    async def admit(request: Request) -> Caller:
        return orderer(await authenticator.identify(request))

    router.reads_body(_PATH, BodyRule(admit, "users"))

    @router.post(_PATH, status_code=201, response_model=CreateTaskAnswer, responses=_RESPONSES)
    async def create(
        body: CreateTaskBody,
        response: Response,
        key: IdempotencyKey = None,
        caller: Caller = Depends(orderer),
    ) -> CreateTaskAnswer:
        """Order a generation: the row is written first, KIE is asked second, and never twice."""
        # It takes tens of milliseconds where the input is large.
        order = await asyncio.to_thread(_order, body, caller)
        try:
            outcome = await readiness_gate.enter().task_creator.create(order, Requester(caller.user_id or "", key))
        except Permanent as error:
            raise Problem(422, error.code, str(error)) from error
        created = _require_created(outcome)
        response.status_code = 201 if created.fresh else 200
        return CreateTaskAnswer(generationId=created.generation_id, taskId=created.task_id, status=created.status)

    return router


def _order(body: CreateTaskBody, caller: Caller) -> Order:
    user_id = body.user_id
    if not caller.operator:
        if user_id not in (None, caller.user_id):
            raise Problem(422, "user_not_yours", "userId is for the operator only")
        user_id = caller.user_id
    _check_text(body)
    try:
        choose(body.model, body.endpoint, body.input)
    except Permanent as error:
        raise Problem(400, error.code, str(error)) from error
    return Order(body.model, body.input, body.kind, body.prompt, body.model_key, user_id, body.endpoint)


def _check_text(body: CreateTaskBody) -> None:
    """Refuse values that JSON can hold and the database or KIE cannot: lone surrogates, NUL, NaN, deep nesting."""
    try:
        text = json.dumps([body.input, body.model_dump(exclude={"input"})], ensure_ascii=False, allow_nan=False)
        text.encode()
    except ValueError:
        raise Problem(400, "invalid_request", "body: holds a number or a character that cannot be stored") from None
    except RecursionError:
        raise _too_deep() from None
    if _depth(body.input) > MAX_DEPTH:
        raise _too_deep()
    if "\\u0000" in text:
        raise Problem(400, "invalid_request", "body: holds a NUL character")
    if len(text) > LARGEST_INPUT:
        raise Problem(413, "too_large", f"no more than {LARGEST_INPUT} characters are allowed")


def _too_deep() -> Problem:
    return Problem(400, "invalid_request", f"body: input is nested deeper than {MAX_DEPTH}")


def _depth(value: object) -> int:
    """Return how deep the value is nested, counted without recursion and no further than MAX_DEPTH + 1."""
    depth, level = 0, [value]
    while depth <= MAX_DEPTH and (containers := [item for item in level if isinstance(item, dict | list)]):
        depth += 1
        level = [item for one in containers for item in (one.values() if isinstance(one, dict) else one)]
    return depth


def _require_created(outcome: CreateAnswer) -> TaskCreated:
    """Return the created task; every other outcome is raised as a Problem."""
    match outcome:
        case TaskCreated():
            return outcome
        case RateExceeded(seconds, user):
            whose = "too many orders of this user" if user else "too many orders just now"
            word = "user_create_rate" if user else "create_rate"
            raise Problem(429, word, f"{whose}; nothing was written", headers=wait(seconds))
        case OrderRefused(message):
            raise Problem(402, "order_refused", message)
        case IdempotencyKeyReused():
            raise Problem(422, "idempotency_key_reused", "this Idempotency-Key was used for another order")
        case GenerationDeleted():
            raise Problem(404, "not_found", "the generation of this Idempotency-Key was deleted; use another key")
        case OutcomeUnknown(generation_id, reason):
            detail = f"{reason}; it is not ordered again, and its callback decides the generation"
            raise Problem(504, "outcome_unknown", detail, generationId=generation_id)
        case TaskDeclined():
            raise _declined(outcome)
        case _:
            assert_never(outcome)


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
    409: (422, "refused"),
    413: (422, "refused"),
    422: (422, "refused"),
    429: (429, "rate_limited"),
    433: (429, "key_capped"),
    451: (422, "refused"),
    455: (503, "kie_maintenance"),
}
"""KIE's codes as HTTP statuses and stable words; every other code is 502 `kie_refused`."""
