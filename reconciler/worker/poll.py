"""One question to KIE about a task: whom to ask, a slot, the request, what the answer means, the figures.

What is asked and what follows from the answer is not here: the visit asks what the core decided.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import structlog

from reconciler.domain import poll_interval
from reconciler.domain.model import (
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
from reconciler.kie.dialects import judge, other_task
from reconciler.kie.dialects.market import MarketDialect
from reconciler.kie.dialects.origin import generation_named
from reconciler.metrics import Metrics
from reconciler.postgres.rate_limit import KeyResting, RateLimit
from reconciler.tracing import UNTRACED, Tracing
from reconciler.worker.route import RingKey, Route, ring, route

log = structlog.get_logger()

WINDOW = 10.0
"""Seconds without requests after KIE says that we are too fast: the window of its documented limit."""

_LONGEST_MESSAGE, _LONGEST_CODE, _LONGEST_DETAIL = 500, 64, 200
_MARKET = MarketDialect()


class Poller:
    """Asks KIE within the budget, with the keys of the ring."""

    def __init__(
        self, kie: KieClient, budget: RateLimit, keys: Sequence[RingKey], metrics: Metrics, tracing: Tracing = UNTRACED
    ) -> None:
        self._tracing = tracing
        self._kie = kie
        self._budget = budget
        self._keys = tuple(keys)
        self._metrics = metrics

    def spare(self, row: Row) -> bool:
        """Whether a request about this row could go out at once."""
        return self._budget.spare(route(row, self._keys).key_hash)

    async def ask(self, row: Row) -> tuple[Row, Observation]:
        """Ask for the record of the row's task; the row remembers who answered."""
        chosen = route(row, self._keys)
        seen, _ = await self._record(row, row.task_id or "", chosen)
        return _remembering(row, seen, chosen), seen

    async def identify(self, row: Row) -> tuple[Row, Observation]:
        """Ask for the records of the offered tasks, until one of them names this generation."""
        doubts: list[str] = []
        unheard: list[Unreachable] = []
        for task_id in row.offered:
            chosen, seen, record = await self._with_any_key(row, task_id)
            match seen:
                case TaskUnknown():
                    doubts.append(f"KIE does not know {task_id}")
                case Unreachable():
                    doubts.append(f"KIE could not be asked about {task_id} ({seen.reason})")
                    unheard.append(seen)
                    if seen.reason == "rate_limited":
                        break
                case _ if generation_named(record) == row.id:
                    return _remembering(row, seen, chosen), TaskIdentified(task_id)
                case _:
                    doubts.append(f"the record of {task_id} names another generation or none")
        waits = [seen.retry_after for seen in unheard if seen.retry_after is not None]
        return row, TaskNotIdentified("; ".join(doubts), all_answered=not unheard, retry_after=max(waits, default=None))

    async def _with_any_key(self, row: Row, task_id: str) -> tuple[Route, Observation, object]:
        """Ask with each key of the ring in turn, until one has an answer; a rejected one might have been the right."""
        rejected = None
        for key in ring(row, self._keys):
            chosen = Route(_MARKET, key.key_hash)
            seen, record = await self._record(row, task_id, chosen)
            if isinstance(seen, Unreachable) and seen.reason == "unauthorized":
                rejected = chosen, seen, record
            elif not isinstance(seen, TaskUnknown):
                return chosen, seen, record
        return rejected or (chosen, seen, record)

    async def _record(self, row: Row, task_id: str, chosen: Route) -> tuple[Observation, object]:
        """Take a slot and ask; what was seen, and the record itself where one came."""
        try:
            await self._budget.take(chosen.key_hash)
        except KeyResting as rests:
            return Unreachable("rate_limited", str(rests), rests.retry_after, request_sent=False), None
        began = time.monotonic()
        with self._tracing.step("poll", row.id, task_id=task_id, family=chosen.family.name) as step:
            seen, record = await self._heard(task_id, chosen)
            step.note(outcome=seen.word)
            if isinstance(seen, Unreachable):
                step.failed(seen.reason, seen.detail)
                bound = log.bind(generation_id=row.id, task_id=task_id)
                bound.warning("kie.request_failed", code=seen.reason, reason=seen.detail)
        await self._asked(seen, chosen.key_hash, time.monotonic() - began)
        return seen, record

    async def _heard(self, task_id: str, chosen: Route) -> tuple[Observation, object]:
        try:
            reply = await self._kie.record(task_id, path=chosen.family.path, key_hash=chosen.key_hash)
        except Transient as error:
            return Unreachable(error.code, str(error), error.retry_after), None
        if strange := other_task(reply.body, task_id):
            self._kie.renew()
            return self._discreet(strange), None
        seen = self._discreet(judge(chosen.family, reply.status, reply.body, reply.retry_after))
        return seen, reply.body.get("data") if isinstance(reply.body, Mapping) else None

    def _discreet(self, seen: Observation) -> Observation:
        """What was seen without what KIE may repeat of our request: it is kept, logged, and shown to users."""
        match seen:
            case Failed():
                code = None if seen.code is None else self._kie.redact(seen.code, _LONGEST_CODE)
                return replace(seen, message=self._kie.redact(seen.message, _LONGEST_MESSAGE), code=code)
            case Unreachable():
                return replace(seen, detail=self._kie.redact(seen.detail, _LONGEST_DETAIL))
            case _:
                return seen

    async def _asked(self, seen: Observation, key_hash: str, seconds: float) -> None:
        outcome = "ok"
        if isinstance(seen, Unreachable):
            outcome = "rate_limited" if seen.reason == "rate_limited" else "away"
            self._metrics.missed("ask", seen.reason)
            if seen.reason == "rate_limited":
                await self._budget.empty(key_hash, min(seen.retry_after or WINDOW, poll_interval.MAX_RETRY_AFTER))
        self._metrics.kie_seconds.labels("record", outcome).observe(seconds)
        self._metrics.polls.labels(seen.word).inc()


def _remembering(row: Row, seen: Observation, chosen: Route) -> Row:
    if isinstance(seen, Working | Ready | Failed):
        return replace(row, key_hash=chosen.key_hash, family=chosen.family.name)
    return row
