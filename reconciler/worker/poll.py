"""One request to KIE about a task: the key and the dialect, a slot of the rate limit, the request, its meaning.

The visit decides that KIE is asked, and what follows from the answer. Where KIE stays unreachable, the stored
callbacks of the task can stand in for its answer.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog

from reconciler.domain.callback_trust import may_trust, trusted_result
from reconciler.domain.model import Row
from reconciler.domain.observations import (
    WORDS,
    CallbackResult,
    Failed,
    Observation,
    Ready,
    TaskIdentified,
    TaskNotIdentified,
    TaskUnknown,
    Unreachable,
    Unreadable,
    Working,
)
from reconciler.domain.task_attribution import may_be_ours
from reconciler.errors import Transient
from reconciler.kie.client import KieClient
from reconciler.kie.dialects import callback, judge, other_task
from reconciler.kie.dialects.market import MARKET
from reconciler.kie.dialects.named_generation import generation_named
from reconciler.kie.dialects.parsing import timestamp
from reconciler.kie.dialects.veo_1080p import asked, processing
from reconciler.metrics import Metrics
from reconciler.net.large_json import off_loop
from reconciler.postgres.inbox import Inbox
from reconciler.postgres.rate_limit import KeyResting, RateLimit, rest_seconds
from reconciler.tracing import UNTRACED, Tracing
from reconciler.worker.capacity.breakers import SILENT_CODES, Attempt, Breakers, TargetSilent
from reconciler.worker.capacity.fair_slots import FairSlots, NoRoom
from reconciler.worker.route import RingKey, Route, offered_dialect, ring, route

log = structlog.get_logger()

SLOW_SECONDS = 3.0
"""KIE answers within a second; a request without an answer for so long makes way for others."""

SLOTS = 64
"""Requests at once where nobody says otherwise."""

_LONGEST_MESSAGE, _LONGEST_CODE, _LONGEST_DETAIL = 500, 64, 200


@dataclass(eq=False)
class Poller:
    """Asks KIE within the rate limit, with the keys of the ring; KIE's paths share the slots."""

    kie: KieClient
    inbox: Inbox
    rate_limit: RateLimit
    keys: Sequence[RingKey]
    metrics: Metrics
    tracing: Tracing = UNTRACED
    slots: FairSlots = field(default_factory=lambda: FairSlots(SLOTS))
    breakers: Breakers = field(default_factory=lambda: Breakers("path_silent", "page of KIE"))
    _asked_at: dict[str, float] = field(default_factory=dict, init=False)

    @property
    def under_way(self) -> Mapping[str, float]:
        """Return for how many seconds KIE has not answered the requests under way, by generation id."""
        now = time.monotonic()
        return {generation_id: now - asked_at for generation_id, asked_at in self._asked_at.items()}

    def spare(self, row: Row) -> bool:
        """Return whether a request about this row could be sent at once."""
        return self.rate_limit.spare(route(row, self.keys).key_hash)

    async def ask(self, row: Row, now: datetime, on_slow: Callable[[], None]) -> tuple[Row, Observation]:
        """Return the row, which now knows what answered, and what the record of its task says.

        `on_slow` is called where the answer takes so long that others need not wait for it. Where KIE stays
        unreachable, the result that the task's callbacks agree on takes the record's place.
        """
        chosen = route(row, self.keys)
        observation, _ = await self._record(row, row.task_id or "", chosen, on_slow)
        if isinstance(observation, Unreachable) and may_trust(row, observation, len(self.keys), now):
            return row, await self._callback_result(row, observation, now)
        return _with_route(row, observation, chosen), observation

    async def _callback_result(self, row: Row, unreachable: Unreachable, now: datetime) -> CallbackResult | Unreachable:
        bodies = await self.inbox.bodies(row.task_id or "")
        claims = [await asyncio.to_thread(callback.read, body) for body in bodies]
        observation = trusted_result(row, unreachable, claims, len(self.keys), now)
        if isinstance(observation, CallbackResult):
            logger = log.bind(generation_id=row.id, task_id=row.task_id)
            logger.warning("callback.believed", addresses=len(observation.ready.results), unheard=unreachable.reason)
        return observation

    async def identify(self, row: Row) -> tuple[Row, Observation]:
        """Ask for the records of the offered tasks, until one of them names this generation.

        Where none does, the one task whose record names no generation and that can be this order's counts.
        """
        reasons: list[str] = []
        unreachable: list[Unreachable] = []
        possible: list[tuple[Row, Observation]] = []
        for task_id in row.offered:
            chosen, observation, record = await self._with_any_key(row, task_id)
            named = generation_named(record)
            match observation:
                case _ if named == row.id:
                    return _with_route(row, observation, chosen), TaskIdentified(task_id)
                case TaskUnknown():
                    reasons.append(f"KIE does not know {task_id}")
                case Unreachable():
                    reasons.append(f"KIE could not be asked about {task_id} ({observation.reason})")
                    unreachable.append(observation)
                    if observation.reason == "rate_limited":
                        break
                case _ if named is None and await self._may_be_ours(row, task_id, chosen, record):
                    possible.append((_with_route(row, observation, chosen), TaskIdentified(task_id)))
                    reasons.append(f"the record of {task_id} names none and could be meant")
                case _:
                    reasons.append(f"the record of {task_id} names another generation or none")
        # A task that could not be asked about may be the true one; one that can never be asked about is not.
        if len(possible) == 1 and all(observation.reason == "unaskable" for observation in unreachable):
            return possible[0]
        waits = [observation.retry_after for observation in unreachable if observation.retry_after is not None]
        return row, TaskNotIdentified(
            "; ".join(reasons), all_answered=not unreachable, retry_after=max(waits, default=None)
        )

    async def _may_be_ours(self, row: Row, task_id: str, chosen: Route, record: object) -> bool:
        """Return whether a task whose record repeats no callback address can be this order's."""
        if chosen.dialect is MARKET or not isinstance(record, Mapping):
            # The market repeats every order whole: without our address it is another one.
            return False
        created_at = timestamp(record.get("createTime") or record.get("generateTime"))
        return may_be_ours(await self.inbox.order_facts(row.id, task_id), created_at)

    async def _with_any_key(self, row: Row, task_id: str) -> tuple[Route, Observation, object]:
        """Ask with each key of the ring until one knows the task; a rejected key comes before "unknown" as the answer.

        The rejected key may be the one that made the task.
        """
        rejected = None
        dialect = offered_dialect(row, task_id)
        for key in ring(row, self.keys):
            chosen = Route(dialect, key.key_hash)
            observation, record = await self._record(row, task_id, chosen)
            if isinstance(observation, Unreachable) and observation.reason == "unauthorized":
                rejected = chosen, observation, record
            elif not isinstance(observation, TaskUnknown):
                return chosen, observation, record
        return rejected or (chosen, observation, record)

    async def _record(
        self, row: Row, task_id: str, chosen: Route, on_slow: Callable[[], None] = lambda: None
    ) -> tuple[Observation, object]:
        """Wait for a slot and the key's rate, and ask; return what the answer means, and the record where one came."""
        path, sent_at = chosen.dialect.path, math.inf
        try:
            if not self.breakers.admits(path, row.id):
                raise self.breakers.refusal(path)
            async with self.slots.hold(
                path, is_slow=lambda: time.monotonic() - sent_at > SLOW_SECONDS, on_aside=on_slow
            ):
                await self.rate_limit.take(chosen.key_hash)
                # Only now: the rows before this one in the queue may have found the page silent.
                attempt = self.breakers.attempt(path, row.id)
                sent_at = self._asked_at[row.id] = time.monotonic()
                try:
                    return await self._answered(row, task_id, chosen, attempt)
                finally:
                    # A visit that lost its lease can still ask next to its successor in this process.
                    if self._asked_at.get(row.id) == sent_at:
                        del self._asked_at[row.id]
        except KeyResting as resting:
            return Unreachable("rate_limited", str(resting), resting.retry_after, request_sent=False), None
        except TargetSilent as silent:
            since = silent.silent_for
            return Unreachable(silent.code, str(silent), silent.retry_after, request_sent=False, silent_for=since), None
        except NoRoom as full:
            return Unreachable(full.code, str(full), full.retry_after, request_sent=False), None

    async def _answered(self, row: Row, task_id: str, chosen: Route, attempt: Attempt) -> tuple[Observation, object]:
        """Send the request that the rate has granted."""
        began = time.monotonic()
        with self.tracing.step("poll", row.id, task_id=task_id, family=chosen.dialect.name) as span:
            observation, record = await self._request(task_id, chosen, attempt)
            span.note(outcome=WORDS[type(observation)])
            if isinstance(observation, Unreachable):
                span.failed(observation.reason, observation.detail)
                logger = log.bind(generation_id=row.id, task_id=task_id)
                logger.warning("kie.request_failed", code=observation.reason, reason=observation.detail)
            if isinstance(observation, Unreadable):
                named = log.bind(generation_id=row.id, task_id=task_id, model=row.model)
                named.warning("kie.output_unreadable", fields=list(observation.fields))
        await self._account(observation, chosen.key_hash, time.monotonic() - began)
        return observation, record

    async def _request(self, task_id: str, chosen: Route, attempt: Attempt) -> tuple[Observation, object]:
        path, asked_id = asked(chosen.dialect, task_id)
        try:
            reply = await self.kie.record(asked_id, path=path, key_hash=chosen.key_hash)
        except Transient as error:
            if error.code in SILENT_CODES:
                attempt.silent()
            return Unreachable(error.code, str(error), error.retry_after), None
        attempt.heard()
        if (mismatch := other_task(reply.body, asked_id)) is not None:
            # A connection is one answer behind and would stay so, and we do not know which.
            self.kie.renew()
            return self._redacted(mismatch), None
        observation = processing(chosen.dialect, reply.body)
        if observation is None:
            observation = self._redacted(
                await off_loop(reply.size, judge, chosen.dialect, reply.status, reply.body, reply.retry_after)
            )
        return observation, reply.body.get("data") if isinstance(reply.body, Mapping) else None

    def _redacted(self, observation: Observation) -> Observation:
        """Return the observation without our secrets, which KIE may repeat: it is stored, logged and shown to users."""
        match observation:
            case Failed():
                code = None if observation.code is None else self.kie.redact(observation.code, _LONGEST_CODE)
                return replace(observation, message=self.kie.redact(observation.message, _LONGEST_MESSAGE), code=code)
            case Ready(contradiction=str(contradiction)):
                return replace(observation, contradiction=self.kie.redact(contradiction, _LONGEST_MESSAGE))
            case Unreadable(fields):
                kept = tuple(self.kie.redact(field, _LONGEST_DETAIL) for field in fields)
                return replace(observation, fields=kept)
            case Unreachable():
                return replace(observation, detail=self.kie.redact(observation.detail, _LONGEST_DETAIL))
            case _:
                return observation

    async def _account(self, observation: Observation, key_hash: str, seconds: float) -> None:
        """Count a request, and let the key rest where KIE says that it is used too fast."""
        outcome = "ok"
        if isinstance(observation, Unreachable):
            outcome = "rate_limited" if observation.reason == "rate_limited" else "away"
            self.metrics.missed("ask", observation.reason)
            if observation.reason == "rate_limited":
                await self.rate_limit.pause(key_hash, rest_seconds(observation.retry_after))
        if isinstance(observation, Unreadable):
            self.metrics.missed("ask", "unreadable_output")
        self.metrics.kie_seconds.labels("record", outcome).observe(seconds)
        self.metrics.polls.labels(WORDS[type(observation)]).inc()


def _with_route(row: Row, observation: Observation, chosen: Route) -> Row:
    """Return the row with the key and the dialect that know its task."""
    if isinstance(observation, Working | Ready | Unreadable | Failed):
        return replace(row, key_hash=chosen.key_hash, family=chosen.dialect.name)
    return row
