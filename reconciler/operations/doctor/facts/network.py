"""What KIE says to each key, what time it is there, and what answers where KIE is told to call back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final, Literal

import httpx

from reconciler.errors import Transient
from reconciler.kie.client import KieClient, KieReply
from reconciler.kie.dialects import by_name, candidates
from reconciler.operations.doctor import NotKnown
from reconciler.operations.doctor.callback import CallbackAnswer
from reconciler.operations.doctor.facts import seen
from reconciler.operations.doctor.facts.table import NewestTask
from reconciler.operations.doctor.kie import KeyAccount, ModelAnswer

_MOST: Final = 64 << 10
_FORBIDDEN: Final = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class KeyProbe:
    """How KIE is asked: each answer within so many seconds, keys named by their settings."""

    kie: KieClient
    names: Mapping[str, str]
    within: float


async def accounts(
    asking: KeyProbe, clock: Callable[[], float] = time.time
) -> tuple[list[KeyAccount], float | NotKnown]:
    """What is left with each key, and how far KIE's clock is before `clock`, in seconds."""
    ahead: list[float] = []
    found = []
    for key_hash, setting in asking.names.items():
        left = await seen(lambda key=key_hash: asking.kie.credit(key_hash=key), within=asking.within)  # type: ignore[misc]
        if (said := _date(asking.kie.date)) is not None:
            # Whole seconds, cut off: half a second is lost on average.
            ahead.append(said + 0.5 - clock())
        found.append(KeyAccount(setting, left))
    return found, ahead[-1] if ahead else NotKnown("KIE named no date")


async def models(asking: KeyProbe, tasks: Sequence[NewestTask]) -> tuple[ModelAnswer, ...]:
    """What KIE says of these tasks to the keys that they were made with."""
    asked = []
    for task in tasks:
        key_hash = task.key_hash if task.key_hash in asking.names else next(iter(asking.names))
        assert key_hash is not None
        reply = await seen(lambda task=task, key=key_hash: _record(asking.kie, task, key), within=asking.within)  # type: ignore[misc]
        asked.append(ModelAnswer(task.model, asking.names[key_hash], _word(reply)))
    return tuple(asked)


async def answer(client: httpx.AsyncClient, url: str) -> CallbackAnswer:
    """What is said there to a callback that proves nothing; Transient where nobody answers."""
    try:
        async with client.stream("POST", url, content=b"{}", headers={"Content-Type": "application/json"}) as response:
            said = bytearray()
            async for chunk in response.aiter_raw():
                said += chunk
                if len(said) > _MOST:
                    break
            return CallbackAnswer(response.status_code, response.status_code == 401 and _unauthorized(bytes(said)))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Transient(type(error).__name__, code="network") from error


async def _record(kie: KieClient, task: NewestTask, key_hash: str) -> KieReply:
    family = (by_name(task.family) if task.family else None) or candidates(task.model, task.task_id)[0]
    return await kie.record(task.task_id, path=family.path, key_hash=key_hash)


def _word(reply: KieReply | NotKnown) -> Literal["known", "forbidden", "unknown"]:
    if isinstance(reply, NotKnown):
        return "unknown"
    said = reply.body if isinstance(reply.body, dict) else {}
    if reply.status in _FORBIDDEN or said.get("code") in _FORBIDDEN:
        return "forbidden"
    return "known" if said.get("data") else "unknown"


def _date(text: str | None) -> float | None:
    try:
        return None if text is None else parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _unauthorized(said: bytes) -> bool:
    try:
        body = json.loads(said)
    except ValueError:
        return False
    return isinstance(body, dict) and body.get("error") == "unauthorized"
