"""createTask at KIE: the one request that spends money, sent once and never again.

What came of it is told as one of four outcomes. Nothing here repeats anything: it is a POST, which aiohttp does not
send again, over a connection of its own. Only `worker/create/create_task.py` may import this; import-linter holds that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import assert_never

import aiohttp

from reconciler.errors import Transient
from reconciler.kie.client import BROKEN, KieClient, KieReply
from reconciler.kie.dialects.callback import mentions_task_id, task_ids
from reconciler.kie.dialects.envelope import is_rate_limit_message
from reconciler.kie.dialects.parsing import SUCCESS_CODES, printable_line, whole_number

PATH = "/api/v1/jobs/createTask"

RATE_LIMITED = 429

# What KIE's pages list for a request that made no task. Every other code may be a gateway's word for an answer of KIE's
# that got lost: 408, 502, 503, 504 and 52x are.
_REFUSAL_CODES = frozenset({400, 401, 402, 403, 404, 413, 422, 429, 430, 433, 451, 455, 500, 501, 505, 550})
_NEVER_CONNECTED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_MAX_MESSAGE = 500


@dataclass(frozen=True, slots=True)
class CreateAccepted:
    """KIE made the task."""

    task_id: str


@dataclass(frozen=True, slots=True)
class CreateRefused:
    """KIE's definite word that it made none; `retry_after` in seconds, None where it said nothing."""

    code: int
    message: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class CreateNotSent:
    """KIE cannot have heard the request: no connection was made, or the request could not be written."""

    reason: str


@dataclass(frozen=True, slots=True)
class CreateUncertain:
    """KIE may have made a task, and did not tell."""

    reason: str


CreateOutcome = CreateAccepted | CreateRefused | CreateNotSent | CreateUncertain


async def create_task(kie: KieClient, asked: Mapping[str, object], *, key_hash: str) -> CreateOutcome:
    """Ask KIE for one task; `asked` is the request's body, JSON throughout."""
    content = json.dumps(asked).encode("ascii")
    try:
        return _without_secrets(read_reply(await kie.post(PATH, content, key_hash=key_hash)), kie)
    except Transient as error:
        return CreateUncertain(str(error)) if error.code == "too_large" else CreateNotSent(str(error))
    except (TimeoutError, *BROKEN) as error:
        if isinstance(error, _NEVER_CONNECTED):
            return CreateNotSent(f"KIE cannot be reached ({type(error).__name__})")
        # Only the kind: an error's text may repeat the header it chokes on.
        return CreateUncertain(f"the connection to KIE broke ({type(error).__name__})")


def _without_secrets(outcome: CreateOutcome, kie: KieClient) -> CreateOutcome:
    match outcome:
        case CreateRefused():
            return replace(outcome, message=kie.discreet(outcome.message, _MAX_MESSAGE))
        case CreateUncertain(reason) | CreateNotSent(reason):
            return replace(outcome, reason=kie.discreet(reason, _MAX_MESSAGE))
        case CreateAccepted():
            return outcome
        case _:
            assert_never(outcome)


def read_reply(reply: KieReply) -> CreateOutcome:
    """Return what an answer means; whatever is not clearly yes or no is uncertain."""
    if not isinstance(reply.body, dict):
        return CreateUncertain(f"KIE answered HTTP {reply.status} without its envelope")
    code = whole_number(reply.body.get("code"))
    said = printable_line(reply.body.get("msg") or reply.body.get("message"))
    if code not in SUCCESS_CODES:
        if code not in _REFUSAL_CODES or mentions_task_id(reply.body):
            return CreateUncertain(f"KIE answered HTTP {reply.status}, code {code}: {said}")
        # One wording comes with codes of its own.
        code = RATE_LIMITED if is_rate_limit_message(said) else code
        return CreateRefused(code, said or "KIE refused without a reason", reply.retry_after)
    named = task_ids(reply.body)
    if len(named) != 1:
        return CreateUncertain(f"KIE answered HTTP {reply.status} with success and {len(named)} task ids")
    return CreateAccepted(next(iter(named)))
