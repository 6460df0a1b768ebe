"""`POST /api/kie/callback`: KIE reports that a task has changed. The route checks it, stores it and wakes its visits.

The route does not ask KIE and believes nothing: the visit that follows asks KIE itself. `kie/callback_proofs.py` checks
secret and signature, `limits.py` bounds the body, `postgres/inbox.py` stores the callback.
"""

import asyncio
import hashlib
import json
import math
import time
from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from reconciler.domain.model import Trigger
from reconciler.domain.object_keys import CALLBACK_PATH
from reconciler.domain.observations import WORDS, Ready
from reconciler.errors import Permanent, ReconcilerError, Transient
from reconciler.http.bodies import BodyRouter, BodyRule
from reconciler.http.problems import Problem, our_words, unavailable
from reconciler.http.readiness_gate import ReadinessGate, RouteServices
from reconciler.kie.callback_proofs import CallbackProofs
from reconciler.kie.dialects import callback as payload
from reconciler.metrics import Metrics
from reconciler.net.large_json import off_loop
from reconciler.postgres.inbox import CallbackMessage, StoredCallback

log = structlog.get_logger()

DATABASE_SECONDS = 10.0
"""Seconds that the database may take: KIE closes the connection after 15 and sends again."""

LONGEST_NUMBER = 300
"""The most digits of an integer; a longer one is stored as text."""

_RESULTS = {400: "malformed", 401: "unauthorized", 408: "malformed", 413: "too_large"}
_TIMESTAMP = "X-Webhook-Timestamp"
_SIGNATURE = "X-Webhook-Signature"

_TEXT = """\
KIE sends this when a task ends; Suno sends it up to three times. Where `KIE_CALLBACK_SECRET` is set, `secret` must
equal it. Where `KIE_WEBHOOK_HMAC_KEY` is set, the signature must be valid. Where neither is set, every callback is
refused. The same body may come any number of times."""


def _parameter(name: str, place: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": place, "description": description, "schema": {"type": "string"}}


_OPENAPI = {
    "parameters": [
        _parameter("secret", "query", "`KIE_CALLBACK_SECRET`, once"),
        _parameter("generation", "query", "The id of the generation that ordered the task, where it was known"),
        _parameter(_TIMESTAMP, "header", "Unix seconds, within five minutes of now"),
        _parameter(_SIGNATURE, "header", "base64(HMAC-SHA256(key, task id + '.' + timestamp))"),
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "description": "What KIE posts; each family has its own format"},
                "example": {
                    "code": 200,
                    "msg": "Playground task completed successfully.",
                    "data": {"taskId": "0f3ae1c2b4d5968778695a4b3c2d1e0f", "state": "success"},
                },
            }
        },
    },
}


class CallbackReceived(BaseModel):
    """The callback is stored."""

    received: bool = Field(description="Always true", examples=[True])


def routes(proofs: CallbackProofs, readiness_gate: ReadinessGate, metrics: Metrics) -> BodyRouter:
    """Return the route."""
    router = BodyRouter()

    def refused(problem: Problem) -> None:
        metrics.callbacks.labels(_RESULTS.get(problem.status, "unavailable")).inc()
        log.warning("callback.refused", status=problem.status, reason=problem.detail)

    async def admit(request: Request) -> None:
        timestamp, signature = (_single_header(request, name) for name in (_TIMESTAMP, _SIGNATURE))
        _require(proofs.refuse_head(request.query_params.getlist("secret"), timestamp, signature))

    router.reads_body(CALLBACK_PATH, BodyRule(admit, "callbacks", refused=refused))

    @router.post(
        CALLBACK_PATH,
        tags=["kie"],
        summary="Receive a callback from KIE",
        description=_TEXT,
        response_model=CallbackReceived,
        responses={
            200: {"description": "Stored; the delivery continues in the background"},
            202: {"description": "Stored; no row knows the task yet", "model": CallbackReceived},
            400: {"description": "No JSON, no task id, or ids that disagree."},
            401: {
                "description": "Wrong secret or signature, a stale timestamp, or neither secret nor key is configured."
            },
            503: {"description": "The database is away: send again."},
        },
        openapi_extra=_OPENAPI,
    )
    async def callback(request: Request) -> JSONResponse:
        try:
            stored = await _store(request, proofs, readiness_gate)
        except Problem as problem:
            refused(problem)
            raise
        metrics.callbacks.labels(_result(stored)).inc()
        return JSONResponse({"received": True}, 200 if stored.ids else 202)

    return router


async def _store(request: Request, proofs: CallbackProofs, readiness_gate: ReadinessGate) -> StoredCallback:
    """Check the signature, store the callback, and wake the generations that it names; the head is admitted already."""
    began = time.monotonic()
    services = readiness_gate.enter()
    raw = await request.body()
    message = await off_loop(len(raw), _message, request, raw)
    timestamp, signature = (_single_header(request, name) for name in (_TIMESTAMP, _SIGNATURE))
    _require(proofs.refuse_signature(signature, timestamp, message.task_id))
    stored = await _keep(services, message)
    for generation_id in stored.ids:
        services.worker.wake(generation_id, Trigger.CALLBACK)
    await _log_callback(message, stored, time.monotonic() - began)
    return stored


def _require(refusal: str | None) -> None:
    if refusal is not None:
        raise Problem(401, "unauthorized", refusal)


def _message(request: Request, raw: bytes) -> CallbackMessage:
    body = _parsed(raw)
    task_ids = payload.task_ids(body)
    if not task_ids:
        raise Problem(400, "no_task_id", "the body names no task")
    if len(task_ids) > 1:
        raise Problem(400, "ids_disagree", "the body names more than one task")
    generation_ids = {value for value in request.query_params.getlist("generation") if value.strip()}
    if len(generation_ids) > 1:
        raise Problem(400, "ids_disagree", "the address names more than one generation")
    generation_ids = {value for value in generation_ids if len(value) <= payload.MAX_TASK_ID}
    digest = hashlib.sha256(raw + b"\n" + "".join(generation_ids).encode()).hexdigest()
    return CallbackMessage(next(iter(task_ids)), next(iter(generation_ids), None), body, digest, len(raw))


async def _keep(services: RouteServices, message: CallbackMessage) -> StoredCallback:
    try:
        async with asyncio.timeout(DATABASE_SECONDS):
            return await services.inbox.keep(message)
    except TimeoutError:
        raise unavailable("the database does not answer in time") from None
    except Permanent as error:
        raise Problem(400, "not_json", str(error)) from None
    except ReconcilerError as error:
        # 503 also where only a person can repair the database: KIE then sends again, and a lost callback cannot return.
        wait = error.retry_after if isinstance(error, Transient) else None
        raise unavailable(our_words(str(error)), seconds=wait or 2.0) from None


async def _log_callback(message: CallbackMessage, stored: StoredCallback, duration: float) -> None:
    """Log what came and what it claims, without addresses, which may be signed, and without text of the payload."""
    logger = log.bind(task_id=message.task_id, generation_id=next(iter(stored.ids), message.generation_id))
    several = {"generation_ids": stored.ids} if len(stored.ids) > 1 else {}
    logger.info("callback.received", bytes=message.size, result=_result(stored), took=round(duration, 4), **several)
    claim = await off_loop(message.size, payload.read, message.body)
    addresses = len(claim.results) if isinstance(claim, Ready) else 0
    logger.info("callback.parsed", says=WORDS[type(claim)], addresses=addresses)


def _result(stored: StoredCallback) -> str:
    if not stored.ids:
        return "unknown"
    if stored.ended:
        return "late"
    return "stored" if stored.fresh else "duplicate"


def _parsed(raw: bytes) -> Mapping[str, object]:
    try:
        body = json.loads(raw, parse_float=_float, parse_int=_int)
    except (ValueError, RecursionError):
        raise Problem(400, "not_json", "the body is no JSON, or nested too deeply") from None
    if not isinstance(body, Mapping):
        raise Problem(400, "not_json", "the body is no JSON object")
    return body


def _float(text: str) -> float | str:
    return value if math.isfinite(value := float(text)) else text


def _int(text: str) -> int | str:
    return int(text) if len(text) <= LONGEST_NUMBER else text


def _single_header(request: Request, name: str) -> str:
    """Return a header that was sent exactly once, else an empty text: of two, none can be trusted."""
    values = request.headers.getlist(name)
    return values[0] if len(values) == 1 else ""
