"""An order at KIE, at the endpoint of its family: the one request that spends money. It is sent once and never again.

Its result is one of four outcomes. Nothing here retries, and aiohttp does not resend a POST. Only
`worker/create/create_task.py` may import this module; import-linter checks that.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import assert_never

import aiohttp

from reconciler.errors import Transient
from reconciler.kie.client import BROKEN, KieClient, KieReply
from reconciler.kie.create_endpoints import CreateEndpoint
from reconciler.kie.dialects.callback import mentions_task_id, task_ids
from reconciler.kie.dialects.envelope import is_rate_limit_message
from reconciler.kie.dialects.parsing import SUCCESS_CODES, TASK_ID_KEYS, integer, printable_line
from reconciler.net.failures import failure_words

RATE_LIMITED = 429

# Veo's pages use codes of refusals for work that goes on: "1080P is processing", "4k is processing".
_IN_PROGRESS = re.compile(r"\bis (processing|generating)\b", re.IGNORECASE)
_NEVER_CONNECTED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_MAX_MESSAGE = 500


@dataclass(frozen=True, slots=True)
class CreateAccepted:
    """KIE made the task."""

    task_id: str


@dataclass(frozen=True, slots=True)
class CreateRefused:
    """KIE refused: it made no task. `retry_after` is in seconds, None if KIE named none."""

    code: int
    message: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class CreateNotSent:
    """The request did not reach KIE: there was no connection, or the request could not be built."""

    reason: str


@dataclass(frozen=True, slots=True)
class CreateUncertain:
    """KIE may have made a task: its answer is missing or unclear."""

    reason: str


CreateOutcome = CreateAccepted | CreateRefused | CreateNotSent | CreateUncertain


async def create_task(
    kie: KieClient, endpoint: CreateEndpoint, request: Mapping[str, object], *, key_hash: str
) -> CreateOutcome:
    """Send one order with this JSON body to this endpoint, and return its outcome."""
    content = json.dumps(request).encode("ascii")
    try:
        reply = await kie.post(endpoint.path, content, key_hash=key_hash)
        return _without_secrets(read_reply(endpoint, reply), kie)
    except Transient as error:
        return CreateUncertain(str(error)) if error.code == "too_large" else CreateNotSent(str(error))
    except (TimeoutError, *BROKEN) as error:
        if isinstance(error, _NEVER_CONNECTED):
            return CreateNotSent(f"KIE cannot be reached: {kie.place} {failure_words(error)}")
        # Not the text of the error: it may repeat a header with the key.
        return CreateUncertain(f"the connection to KIE broke: {kie.place} {failure_words(error)}")


def _without_secrets(outcome: CreateOutcome, kie: KieClient) -> CreateOutcome:
    match outcome:
        case CreateRefused():
            return replace(outcome, message=kie.redact(outcome.message, _MAX_MESSAGE))
        case CreateUncertain(reason) | CreateNotSent(reason):
            return replace(outcome, reason=kie.redact(reason, _MAX_MESSAGE))
        case CreateAccepted():
            return outcome
        case _:
            assert_never(outcome)


def read_reply(endpoint: CreateEndpoint, reply: KieReply) -> CreateOutcome:
    """Return the outcome in an endpoint's answer; uncertain unless it is clearly a success or a refusal."""
    if not isinstance(reply.body, dict):
        return CreateUncertain(f"KIE answered HTTP {reply.status} without its envelope")
    code = integer(reply.body.get("code"))
    message = printable_line(reply.body.get("msg") or reply.body.get("message"))
    if code not in SUCCESS_CODES:
        named = mentions_task_id(reply.body, (*TASK_ID_KEYS, *endpoint.spare_ids))
        # With a code that no page lists a gateway may report that it lost KIE's answer: 408, 502, 503, 504 and 52x do.
        if code not in endpoint.refusals or named or _IN_PROGRESS.search(message):
            return CreateUncertain(f"KIE answered HTTP {reply.status}, code {code}: {message}")
        # KIE reports its rate limit with various codes.
        code = RATE_LIMITED if is_rate_limit_message(message) else code
        return CreateRefused(code, message or "KIE refused without a reason", reply.retry_after)
    ids = task_ids(reply.body) or task_ids(reply.body, endpoint.spare_ids)
    if len(ids) != 1:
        return CreateUncertain(f"KIE answered HTTP {reply.status} with success and {len(ids)} task ids")
    return CreateAccepted(next(iter(ids)))
