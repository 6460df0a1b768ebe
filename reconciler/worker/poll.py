"""One request to KIE about a task: the key and the dialect, a slot of the rate limit, the request, its meaning.

The visit decides that KIE is asked, and what follows from the answer. Where KIE stays unreachable, the stored
callbacks of the task can stand in for its answer.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from reconciler.domain import poll_interval
from reconciler.domain.callback_trust import may_trust, trusted_result
from reconciler.domain.model import (
    WORDS,
    CallbackResult,
    Failed,
    Observation,
    Ready,
    Row,
    TaskIdentified,
    TaskNotIdentified,
    TaskUnknown,
    Unreachable,
    Working,
)
from reconciler.errors import Transient
from reconciler.kie.client import KieClient
from reconciler.kie.dialects import callback, judge, other_task
from reconciler.kie.dialects.market import MARKET, generation_named
from reconciler.metrics import Metrics
from reconciler.postgres.inbox import Inbox
from reconciler.postgres.rate_limit import KeyResting, RateLimit
from reconciler.tracing import UNTRACED, Tracing
from reconciler.worker.route import RingKey, Route, ring, route

log = structlog.get_logger()

WINDOW = 10.0
"""Seconds without requests after KIE answers 429: the window of its documented limit."""

_LONGEST_MESSAGE, _LONGEST_CODE, _LONGEST_DETAIL = 500, 64, 200


@dataclass(eq=False)
class Poller:
    """Asks KIE within the rate limit, with the keys of the ring."""

    kie: KieClient
    inbox: Inbox
    rate_limit: RateLimit
    keys: Sequence[RingKey]
    metrics: Metrics
    tracing: Tracing = UNTRACED

    def spare(self, row: Row) -> bool:
        """Return whether a request about this row could be sent at once."""
        return self.rate_limit.spare(route(row, self.keys).key_hash)

    async def ask(self, row: Row) -> tuple[Row, Observation]:
        """Return the row, which now knows what answered, and what the record of its task says.

        Where KIE stays unreachable, the result that the task's callbacks agree on takes the record's place.
        """
        chosen = route(row, self.keys)
        seen, _ = await self._record(row, row.task_id or "", chosen)
        if isinstance(seen, Unreachable) and may_trust(row, seen, len(self.keys)):
            return row, await self._callback_result(row, seen)
        return _remembering(row, seen, chosen), seen

    async def _callback_result(self, row: Row, unreachable: Unreachable) -> CallbackResult | Unreachable:
        bodies = await self.inbox.bodies(row.task_id or "")
        seen = trusted_result(row, unreachable, [callback.read(body) for body in bodies], len(self.keys))
        if isinstance(seen, CallbackResult):
            logger = log.bind(generation_id=row.id, task_id=row.task_id)
            logger.warning("callback.believed", addresses=len(seen.ready.sources), unheard=unreachable.reason)
        return seen

    async def identify(self, row: Row) -> tuple[Row, Observation]:
        """Ask for the records of the offered tasks, until one of them names this generation."""
        reasons: list[str] = []
        unreachable: list[Unreachable] = []
        for task_id in row.offered:
            chosen, seen, record = await self._with_any_key(row, task_id)
            match seen:
                case TaskUnknown():
                    reasons.append(f"KIE does not know {task_id}")
                case Unreachable():
                    reasons.append(f"KIE could not be asked about {task_id} ({seen.reason})")
                    unreachable.append(seen)
                    if seen.reason == "rate_limited":
                        break
                case _ if generation_named(record) == row.id:
                    return _remembering(row, seen, chosen), TaskIdentified(task_id)
                case _:
                    reasons.append(f"the record of {task_id} names another generation or none")
        waits = [seen.retry_after for seen in unreachable if seen.retry_after is not None]
        return row, TaskNotIdentified(
            "; ".join(reasons), all_answered=not unreachable, retry_after=max(waits, default=None)
        )

    async def _with_any_key(self, row: Row, task_id: str) -> tuple[Route, Observation, object]:
        """Ask with each key of the ring until one knows the task; a rejected key comes before "unknown" as the answer.

        The rejected key may be the one that made the task.
        """
        rejected = None
        for key in ring(row, self.keys):
            chosen = Route(MARKET, key.key_hash)
            seen, record = await self._record(row, task_id, chosen)
            if isinstance(seen, Unreachable) and seen.reason == "unauthorized":
                rejected = chosen, seen, record
            elif not isinstance(seen, TaskUnknown):
                return chosen, seen, record
        return rejected or (chosen, seen, record)

    async def _record(self, row: Row, task_id: str, chosen: Route) -> tuple[Observation, object]:
        """Wait for a slot and ask; return what the answer means, and the record itself where one came."""
        try:
            await self.rate_limit.take(chosen.key_hash)
        except KeyResting as resting:
            return Unreachable("rate_limited", str(resting), resting.retry_after, request_sent=False), None
        began = time.monotonic()
        with self.tracing.step("poll", row.id, task_id=task_id, family=chosen.dialect.name) as span:
            seen, record = await self._request(task_id, chosen)
            span.note(outcome=WORDS[type(seen)])
            if isinstance(seen, Unreachable):
                span.failed(seen.reason, seen.detail)
                logger = log.bind(generation_id=row.id, task_id=task_id)
                logger.warning("kie.request_failed", code=seen.reason, reason=seen.detail)
        await self._account(seen, chosen.key_hash, time.monotonic() - began)
        return seen, record

    async def _request(self, task_id: str, chosen: Route) -> tuple[Observation, object]:
        try:
            reply = await self.kie.record(task_id, path=chosen.dialect.path, key_hash=chosen.key_hash)
        except Transient as error:
            return Unreachable(error.code, str(error), error.retry_after), None
        if (mismatch := other_task(reply.body, task_id)) is not None:
            # A connection is one answer behind and would stay so, and we do not know which.
            self.kie.renew()
            return self._redacted(mismatch), None
        seen = self._redacted(judge(chosen.dialect, reply.status, reply.body, reply.retry_after))
        return seen, reply.body.get("data") if isinstance(reply.body, Mapping) else None

    def _redacted(self, seen: Observation) -> Observation:
        """Return the observation without our secrets, which KIE may repeat: it is stored, logged and shown to users."""
        match seen:
            case Failed():
                code = None if seen.code is None else self.kie.redact(seen.code, _LONGEST_CODE)
                return replace(seen, message=self.kie.redact(seen.message, _LONGEST_MESSAGE), code=code)
            case Unreachable():
                return replace(seen, detail=self.kie.redact(seen.detail, _LONGEST_DETAIL))
            case _:
                return seen

    async def _account(self, seen: Observation, key_hash: str, seconds: float) -> None:
        """Count a request, and let the key rest where KIE says that it is used too fast."""
        outcome = "ok"
        if isinstance(seen, Unreachable):
            outcome = "rate_limited" if seen.reason == "rate_limited" else "away"
            self.metrics.missed("ask", seen.reason)
            if seen.reason == "rate_limited":
                await self.rate_limit.pause(key_hash, min(seen.retry_after or WINDOW, poll_interval.MAX_RETRY_AFTER))
        self.metrics.kie_seconds.labels("record", outcome).observe(seconds)
        self.metrics.polls.labels(WORDS[type(seen)]).inc()


def _remembering(row: Row, seen: Observation, chosen: Route) -> Row:
    """Return the row with the key and the dialect that know its task."""
    if isinstance(seen, Working | Ready | Failed):
        return replace(row, key_hash=chosen.key_hash, family=chosen.dialect.name)
    return row
