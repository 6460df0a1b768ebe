"""`POST /api/kie/callback`: KIE says that a task has moved. Proven, kept, answered; then whoever waits for it is woken.

Nothing is asked of KIE here and nothing is believed: the visit that follows asks KIE itself. How long a body may be is
decided in `limits.py`, what is kept in `postgres/inbox.py`. Source of the signature: docs.kie.ai, webhook-verification.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from reconciler.domain.model import Ready, Trigger
from reconciler.domain.object_keys import CALLBACK_PATH
from reconciler.errors import Permanent, ReconcilerError, Transient
from reconciler.http.problems import Problem, unavailable
from reconciler.http.readiness_gate import ReadinessGate, RouteServices
from reconciler.kie.dialects import callback as payload
from reconciler.metrics import Metrics
from reconciler.postgres.inbox import CallbackMessage, StoredCallback
from reconciler.settings import Settings

log = structlog.get_logger()

FRESH = 300.0
"""Seconds that KIE's clock and ours may differ; KIE states no bound, five minutes is what its clients use."""

PATIENCE = 10.0
"""Seconds that the database may take: KIE hangs up after 15 and sends again."""

LONGEST_NUMBER = 300
"""Digits of a whole number; what is longer is kept as text."""

_RESULTS = {400: "malformed", 401: "unauthorized"}

_TEXT = """\
KIE sends this when a task ends; Suno sends it up to three times. Where `KIE_CALLBACK_SECRET` is set, `secret` must be
it; where `KIE_WEBHOOK_HMAC_KEY` is set, the signature must hold; where both are set, both. Where neither is set, every
callback is refused. The same body may come any number of times."""


def _parameter(name: str, where: str, says: str) -> dict[str, Any]:
    return {"name": name, "in": where, "description": says, "schema": {"type": "string"}}


_DESCRIBED = {
    "parameters": [
        _parameter("secret", "query", "`KIE_CALLBACK_SECRET`, once"),
        _parameter("generation", "query", "The generation that the task was made for, where its maker knew it"),
        _parameter("X-Webhook-Timestamp", "header", "Unix seconds, within five minutes of now"),
        _parameter("X-Webhook-Signature", "header", "base64(HMAC-SHA256(key, task id + '.' + timestamp))"),
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "description": "What KIE posts; each family has a shape of its own"},
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


@dataclass(frozen=True, slots=True, repr=False)
class CallbackProofs:
    """What a callback must prove: the secret in its address, the signature over its task's id; empty: not set."""

    secret: bytes = b""
    key: bytes = b""

    def come_in(self, request: Request) -> None:
        """Check what can be checked before the body is read; Problem 401."""
        if not self.secret and not self.key:
            _unauthorized("neither a secret nor a signing key is configured here")
        if self.secret:
            given = request.query_params.getlist("secret")
            if len(given) != 1 or not hmac.compare_digest(given[0].encode(), self.secret):
                _unauthorized("the secret is missing or wrong")
        if self.key and not _fresh(_only(request, "X-Webhook-Timestamp")):
            _unauthorized("the timestamp is missing or not within five minutes of now")

    def signed(self, request: Request, task_id: str) -> None:
        """Check the signature over the id that the body carries; Problem 401."""
        if not self.key:
            return
        said = f"{task_id}.{_only(request, 'X-Webhook-Timestamp')}"
        due = base64.b64encode(hmac.digest(self.key, said.encode(), hashlib.sha256))
        if not hmac.compare_digest(_only(request, "X-Webhook-Signature").encode(), due):
            _unauthorized("the signature is missing or wrong")


def proofs(settings: Settings) -> CallbackProofs:
    """Return what the settings ask of a callback."""
    secret, key = settings.kie_callback_secret, settings.kie_webhook_hmac_key
    return CallbackProofs(secret.get_secret_value().encode(), key.get_secret_value().encode())


def routes(asked: CallbackProofs, entrance: ReadinessGate, metrics: Metrics) -> APIRouter:
    """Return the route; a callback must prove what is `asked`."""
    router = APIRouter()

    @router.post(
        CALLBACK_PATH,
        tags=["kie"],
        summary="Take a callback of KIE's",
        description=_TEXT,
        response_model=CallbackReceived,
        responses={
            200: {"description": "Stored; the delivery goes on by itself"},
            202: {"description": "Stored; no row knows the task yet", "model": CallbackReceived},
            400: {"description": "No JSON, no task's id, or ids that disagree."},
            401: {"description": "Wrong secret or signature, a stale timestamp, or nothing to prove is configured."},
            503: {"description": "The database is away: send again."},
        },
        openapi_extra=_DESCRIBED,
    )
    async def callback(request: Request) -> JSONResponse:
        try:
            kept = await _received(request, asked, entrance)
        except Problem as problem:
            metrics.callbacks.labels(_RESULTS.get(problem.status, "unavailable")).inc()
            log.warning("callback.refused", status=problem.status, reason=problem.detail)
            raise
        metrics.callbacks.labels(_result(kept)).inc()
        return JSONResponse({"received": True}, 200 if kept.ids else 202)

    return router


async def _received(request: Request, asked: CallbackProofs, entrance: ReadinessGate) -> StoredCallback:
    """Prove, keep, wake."""
    began = time.monotonic()
    asked.come_in(request)
    inside = entrance.go()
    raw = await request.body()
    said = _said(request, raw)
    asked.signed(request, said.task_id)
    kept = await _kept(inside, said)
    for generation_id in kept.ids:
        inside.work.wake(generation_id, Trigger.CALLBACK)
    _tell(said, kept, len(raw), time.monotonic() - began)
    return kept


def _said(request: Request, raw: bytes) -> CallbackMessage:
    body = _parsed(raw)
    found = payload.task_ids(body)
    if not found:
        raise Problem(400, "no_task_id", "the body names no task")
    if len(found) > 1:
        raise Problem(400, "ids_disagree", "the body names more than one task")
    named = {name for name in request.query_params.getlist("generation") if name.strip()}
    if len(named) > 1:
        raise Problem(400, "ids_disagree", "the address names more than one generation")
    named = {name for name in named if len(name) <= payload.MAX_TASK_ID}
    digest = hashlib.sha256(raw + b"\n" + "".join(named).encode()).hexdigest()
    return CallbackMessage(next(iter(found)), next(iter(named), None), body, digest)


async def _kept(inside: RouteServices, said: CallbackMessage) -> StoredCallback:
    try:
        async with asyncio.timeout(PATIENCE):
            return await inside.inbox.keep(said)
    except TimeoutError:
        raise unavailable("the database does not answer in time") from None
    except Permanent as error:
        raise Problem(400, "not_json", str(error)) from None
    except ReconcilerError as error:
        # Also where only a person can mend the database: KIE sends again, and what is not kept is lost.
        wait = error.retry_after if isinstance(error, Transient) else None
        raise unavailable(str(error), seconds=wait or 2.0) from None


def _tell(said: CallbackMessage, kept: StoredCallback, size: int, took: float) -> None:
    """Write what came and what it says: never an address, which may be signed, nor a word of the payload."""
    told = log.bind(task_id=said.task_id, generation_id=next(iter(kept.ids), said.generation_id))
    several = {"generation_ids": kept.ids} if len(kept.ids) > 1 else {}
    told.info("callback.received", bytes=size, result=_result(kept), took=round(took, 4), **several)
    seen = payload.read(said.body)
    told.info(
        "callback.parsed",
        says=seen.word,
        addresses=len(seen.sources) if isinstance(seen, Ready) else 0,
    )


def _result(kept: StoredCallback) -> str:
    if not kept.ids:
        return "unknown"
    if kept.ended:
        return "late"
    return "stored" if kept.fresh else "duplicate"


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


def _only(request: Request, name: str) -> str:
    """Return a header that was sent once, else nothing: of two it would be unclear which one was meant."""
    given = request.headers.getlist(name)
    return given[0] if len(given) == 1 else ""


def _fresh(stamp: str) -> bool:
    written = stamp.isascii() and stamp.isdigit() and len(stamp) <= 12
    return written and abs(time.time() - int(stamp)) <= FRESH


def _unauthorized(detail: str) -> NoReturn:
    raise Problem(401, "unauthorized", detail)
