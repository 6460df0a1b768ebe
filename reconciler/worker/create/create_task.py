"""createTask, the only way in which this house spends money: the row first, KIE second, and KIE once.

Nothing repeats a request whose outcome is unknown; the row then waits for the callback that names it. What was begun
ends whoever has stopped listening: the daemon's drain waits for it. Called by the door.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, assert_never

import structlog

from reconciler.domain.model import OPEN
from reconciler.domain.object_keys import callback_address
from reconciler.errors import ReconcilerError, Transient
from reconciler.kie.client import KieClient
from reconciler.kie.create_task import (
    RATE_LIMITED,
    CreateAccepted,
    CreateNotSent,
    CreateOutcome,
    CreateRefused,
    CreateUncertain,
    create_task,
)
from reconciler.metrics import Metrics
from reconciler.postgres.create_requests import WINDOW, CreateRequests, GenerationState, Order, Requester, StoredRequest
from reconciler.worker.create.create_quota import CreateGrant, CreateQuota
from reconciler.worker.create.record_outcome import OutcomeRecorder
from reconciler.worker.route import RingKey

T = TypeVar("T")

log = structlog.get_logger()

PATIENCE = 45.0
"""Seconds after which a row without a task is looked at: KIE has answered by then, or never will."""

WRITING = 10.0
"""Seconds that a caller waits for what KIE said to be written; it is tried for longer than that."""


@dataclass(frozen=True, slots=True)
class TaskCreated:
    """KIE made the task; `fresh` is false for a repeat, which tells how the generation stands now."""

    generation_id: str
    task_id: str | None
    status: str
    fresh: bool = True


@dataclass(frozen=True, slots=True)
class TaskDeclined:
    """KIE refused, or could not be reached (`code` None): the generation fails with that reason.

    `retry_after` in seconds, None where KIE said nothing.
    """

    generation_id: str
    code: int | None
    message: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class OutcomeUnknown:
    """KIE may have made the task: the generation stays in flight, and its callback settles it."""

    generation_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class CreateRateExceeded:
    """Our own rate is used up for so many seconds; nothing was written."""

    seconds: float


@dataclass(frozen=True, slots=True)
class IdempotencyKeyReused:
    """The Idempotency-Key was used for another order."""


@dataclass(frozen=True, slots=True)
class GenerationDeleted:
    """The Idempotency-Key was used for a generation that the application has deleted."""


CreateAnswer = (
    TaskCreated | TaskDeclined | OutcomeUnknown | CreateRateExceeded | IdempotencyKeyReused | GenerationDeleted
)


@dataclass(frozen=True, slots=True)
class Means:
    """What a creation works with; `kie` has a connection for every request."""

    kie: KieClient
    creations: CreateRequests
    settling: OutcomeRecorder
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class CallbackTarget:
    """Where KIE is to call back (empty: nowhere), and what proves that it was us who said so."""

    url: str
    secret: str = field(default="", repr=False)


@dataclass(slots=True)
class _Sent:
    """One creation under way: its row, and what KIE said, as far as they are known."""

    order: Order
    grant: CreateGrant
    generation_id: str | None = None
    outcome: CreateOutcome | None = None


class TaskCreator:
    """Creates generations for one instance."""

    def __init__(
        self, means: Means, keys: Sequence[RingKey], callback: CallbackTarget, *, observe: bool = False
    ) -> None:
        self._means = means
        self._allowance = CreateQuota(means.creations, keys)
        self._callback = callback
        self._observe = observe
        self._draining = False
        self._running: set[asyncio.Task[Any]] = set()

    async def create(self, order: Order, asker: Requester) -> CreateAnswer:
        """Create one generation; whoever stops listening stops nothing once the row is written.

        Raises Permanent where the table refuses the row, Transient while the database is away or this instance drains:
        then KIE was not asked.
        """
        self._check_open()
        if (kept := await self._means.creations.kept(asker)) is not None:
            return _repeated(kept, order)
        granted = await self._allowance.ask(order.kind)
        if isinstance(granted, float):
            return CreateRateExceeded(granted)
        # A drain may have begun meanwhile, and found nothing to wait for.
        self._check_open()
        sent = _Sent(order, granted)
        sending = self._kept(self._send(sent, asker))
        await asyncio.wait({sending})
        if sending.cancelled():
            return self._cut(sent)
        if (settling := sending.result()) is None:
            return await self._found(asker, order)
        await asyncio.wait({settling}, timeout=WRITING)
        return _answer(sent, settling)

    async def drain(self, seconds: float) -> None:
        """Create no more, let what is under way end for so many seconds, then cut it: its rows say what is unknown."""
        self._draining = True
        deadline = time.monotonic() + seconds
        while self._running and time.monotonic() < deadline:
            await asyncio.wait(set(self._running), timeout=deadline - time.monotonic())
        left = set(self._running)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _kept(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        # Who asked may have gone: what went wrong must be told all the same.
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("create.broke", reason=str(error), error=type(error).__name__)

    def _check_open(self) -> None:
        if self._draining or self._observe:
            word = "draining" if self._draining else "observing"
            raise Transient(f"this instance is {word}: it creates nothing", code=word)

    async def _found(self, asker: Requester, order: Order) -> CreateAnswer:
        """What another request with this key, faster than ours, has made."""
        kept = await self._means.creations.kept(asker)
        return GenerationDeleted() if kept is None else _repeated(kept, order)

    def _cut(self, sent: _Sent) -> CreateAnswer:
        if sent.generation_id is None:
            raise Transient("this instance is draining: it creates nothing", code="draining")
        return OutcomeUnknown(sent.generation_id, "the instance ended while KIE was being asked")

    async def _send(self, sent: _Sent, asker: Requester) -> asyncio.Task[GenerationState | None] | None:
        """Write the row and ask KIE; return what goes on writing, None where the key has been used meanwhile."""
        sent.generation_id = await self._means.creations.begin(sent.order, asker, patience=PATIENCE)
        if sent.generation_id is None:
            return None
        began = time.monotonic()
        sent.outcome = await self._asked(sent, sent.generation_id)
        self._tell(sent, time.monotonic() - began)
        return self._kept(self._settle(sent.generation_id, sent.outcome, sent.grant.key_hash))

    async def _asked(self, sent: _Sent, generation_id: str) -> CreateOutcome:
        asked: dict[str, object] = {"model": sent.order.model, "input": sent.order.input}
        if self._callback.url:
            asked["callBackUrl"] = callback_address(self._callback.url, self._callback.secret, generation_id)
        try:
            if sent.grant.stale and (reason := await self._late(sent, generation_id)):
                return CreateNotSent(reason)
            return await create_task(self._means.kie, asked, key_hash=sent.grant.key_hash)
        except asyncio.CancelledError:
            log.warning("create.unknown", generation_id=generation_id, reason="cut off while KIE was being asked")
            raise

    async def _late(self, sent: _Sent, generation_id: str) -> str | None:
        """Take another grant where this process was held up, or stopped; why KIE is not to be asked any more."""
        try:
            while sent.grant.stale:
                sent.grant = await self._allowance.wait(sent.order.kind)
                standing = await self._means.creations.standing(generation_id)
                if standing is None or standing.status not in OPEN or standing.task_id is not None:
                    return "the generation ended before KIE was asked"
        except ReconcilerError as error:
            return str(error)
        return None

    def _tell(self, sent: _Sent, seconds: float) -> None:
        bound = log.bind(generation_id=sent.generation_id, model=sent.order.model, took=round(seconds, 3))
        assert sent.outcome is not None
        match sent.outcome:
            case CreateAccepted(task_id):
                word = "ok"
                bound.info("create.sent", task_id=task_id)
            case CreateRefused(code, message):
                word = "rate_limited" if code == RATE_LIMITED else "refused"
                self._means.metrics.missed("create", word)
                bound.warning("create.refused", code=code, reason=message)
            case CreateNotSent(reason):
                word = "away"
                self._means.metrics.missed("create", "not_sent")
                bound.warning("create.refused", code="not_sent", reason=reason)
            case CreateUncertain(reason):
                word = "away"
                self._means.metrics.missed("create", "unknown")
                bound.error("create.unknown", reason=reason)
            case _:
                assert_never(sent.outcome)
        self._means.metrics.kie_seconds.labels("create", word).observe(seconds)

    async def _settle(self, generation_id: str, outcome: CreateOutcome, key_hash: str) -> GenerationState | None:
        """Write what KIE said; return how a row with a task then stands, None when it is gone."""
        match outcome:
            case CreateAccepted(task_id):
                return await self._means.settling.saved(generation_id, task_id, key_hash=key_hash)
            case CreateRefused(code, message, retry_after):
                if code == RATE_LIMITED:
                    await self._shut(key_hash, max(retry_after or 0.0, WINDOW))
                await self._means.settling.failed(generation_id, f"{message} ({code})")
            case CreateNotSent(reason):
                await self._means.settling.failed(generation_id, reason)
            case CreateUncertain():
                # The row says so itself since it was written.
                pass
            case _:
                assert_never(outcome)
        return None

    async def _shut(self, key_hash: str, seconds: float) -> None:
        try:
            await self._means.creations.shut(key_hash, seconds)
        except Transient as error:
            # The next refusal says it again.
            log.warning("create.unwritten", code=error.code, reason=str(error))


def _repeated(kept: StoredRequest, order: Order) -> CreateAnswer:
    if kept.digest != order.digest():
        return IdempotencyKeyReused()
    if kept.standing is None:
        return GenerationDeleted()
    return TaskCreated(kept.generation_id, kept.standing.task_id, kept.standing.status, fresh=False)


def _answer(sent: _Sent, settling: asyncio.Task[GenerationState | None]) -> CreateAnswer:
    """What a caller hears of an ordered task, whether or not all of it is written yet."""
    assert sent.generation_id is not None
    assert sent.outcome is not None
    match sent.outcome:
        case CreateAccepted(task_id):
            if not settling.done() or settling.cancelled():
                return OutcomeUnknown(sent.generation_id, "KIE made the task, and its id could not be written yet")
            standing = settling.result()
            return TaskCreated(sent.generation_id, task_id, "deleted" if standing is None else standing.status)
        case CreateRefused(code, message, retry_after):
            return TaskDeclined(sent.generation_id, code, message, retry_after)
        case CreateNotSent(reason):
            return TaskDeclined(sent.generation_id, None, reason)
        case CreateUncertain(reason):
            return OutcomeUnknown(sent.generation_id, reason)
        case _:
            assert_never(sent.outcome)
