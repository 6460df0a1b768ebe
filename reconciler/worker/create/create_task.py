"""createTask, the only request that spends money: the row is written first, then KIE is asked once.

A request whose outcome is unknown is never repeated; the row then waits for the callback that names it. An order goes
on after its caller has gone, and the daemon's drain waits for it. Called by `http/routes/create_task.py`.
"""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar, assert_never

import structlog

from reconciler.domain.model import OPEN
from reconciler.domain.object_keys import callback_address
from reconciler.errors import Permanent, ReconcilerError, Transient
from reconciler.kie.client import KieClient
from reconciler.kie.create_endpoints import CreateEndpoint, choose
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
from reconciler.postgres.create_rates import WINDOW
from reconciler.postgres.create_requests import (
    CreateRequests,
    GenerationState,
    Order,
    RateExceeded,
    Requester,
    StoredRequest,
    TaskStart,
)
from reconciler.postgres.hooks import HOOK_FAILED, ORDER_REFUSED
from reconciler.worker.create.create_quota import CreateGrant, CreateQuota
from reconciler.worker.create.record_outcome import OutcomeRecorder

T = TypeVar("T")

log = structlog.get_logger()

PATIENCE = 45.0
"""Seconds after which a row without a task is visited: KIE has answered by then, or never will."""

WRITING = 10.0
"""The most seconds that a caller waits for KIE's answer to be written; writing is retried for longer."""


@dataclass(frozen=True, slots=True)
class TaskCreated:
    """KIE made the task; `fresh` is false for a repeated order, which gets the generation's present state."""

    generation_id: str
    task_id: str | None
    status: str
    fresh: bool = True


@dataclass(frozen=True, slots=True)
class TaskDeclined:
    """KIE refused, or could not be reached (`code` None): the generation fails with this message.

    `retry_after` is in seconds, None where KIE named none.
    """

    generation_id: str
    code: int | None
    message: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class OutcomeUnknown:
    """KIE may have made the task: the generation stays in flight, and its callback decides."""

    generation_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class OrderRefused:
    """The application's hook on_order refused the order with this message; nothing was written."""

    message: str


@dataclass(frozen=True, slots=True)
class IdempotencyKeyReused:
    """The Idempotency-Key was used for another order."""


@dataclass(frozen=True, slots=True)
class GenerationDeleted:
    """The Idempotency-Key was used for a generation that the application has deleted."""


CreateAnswer = (
    TaskCreated | TaskDeclined | OutcomeUnknown | OrderRefused | RateExceeded | IdempotencyKeyReused | GenerationDeleted
)


@dataclass(frozen=True, slots=True)
class CallbackTarget:
    """The address that KIE calls back (empty: none), and the secret that proves that we gave the address."""

    url: str
    secret: str = field(default="", repr=False)


@dataclass(slots=True)
class _Progress:
    """How far one order has come: `generation_id` and `grant` with its row, `outcome` once KIE has answered."""

    order: Order
    endpoint: CreateEndpoint
    grant: CreateGrant | None = None
    generation_id: str | None = None
    outcome: CreateOutcome | None = None


@dataclass(eq=False)
class TaskCreator:
    """Creates generations for one instance. `kie` opens a connection for every request."""

    kie: KieClient
    requests: CreateRequests
    recorder: OutcomeRecorder
    metrics: Metrics
    quota: CreateQuota
    callback: CallbackTarget
    observe: bool = False

    def __post_init__(self) -> None:
        self._draining = False
        self._running: set[asyncio.Task[Any]] = set()

    async def create(self, order: Order, requester: Requester) -> CreateAnswer:
        """Create one generation. A caller that goes away stops nothing once the row is written.

        Raises Permanent where no endpoint takes the order or the table refuses the row, Transient while the database is
        away, the application's hook cannot decide or this instance drains: then KIE was not asked.
        """
        self._check_open()
        endpoint = choose(order.model, order.endpoint, order.input)
        if (stored := await self.requests.find(requester)) is not None:
            return _repeated(stored, order)
        # A drain that began meanwhile has found nothing to wait for.
        self._check_open()
        progress = _Progress(order, endpoint)
        sending = self._start(self._send(progress, requester))
        await asyncio.wait({sending})
        if sending.cancelled():
            return self._cut_off(progress)
        recording = sending.result()
        if isinstance(recording, OrderRefused | RateExceeded):
            return recording
        if recording is None:
            stored = await self.requests.find(requester)
            return GenerationDeleted() if stored is None else _repeated(stored, order)
        await asyncio.wait({recording}, timeout=WRITING)
        return _answer(progress, recording)

    async def drain(self, seconds: float) -> None:
        """Accept no more orders, let those under way end for so many seconds, then cut them off.

        A row whose order was cut off says that the outcome is unknown.
        """
        self._draining = True
        deadline = time.monotonic() + seconds
        while self._running and time.monotonic() < deadline:
            await asyncio.wait(set(self._running), timeout=deadline - time.monotonic())
        remaining = set(self._running)
        for task in remaining:
            task.cancel()
        await asyncio.gather(*remaining, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        # The caller may have gone: an error must be logged all the same.
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, Transient) and error.code == HOOK_FAILED:
                log.warning("hook.failed", hook="on_order", reason=str(error))
            else:
                log.warning("create.broke", reason=str(error), error=type(error).__name__)

    def _check_open(self) -> None:
        if self._draining or self.observe:
            word = "draining" if self._draining else "observing"
            raise Transient(f"this instance is {word}: it creates nothing", code=word)

    def _cut_off(self, progress: _Progress) -> CreateAnswer:
        if progress.generation_id is None:
            raise Transient("this instance is draining: it creates nothing", code="draining")
        return OutcomeUnknown(progress.generation_id, "the instance ended while KIE was being asked")

    async def _send(
        self, progress: _Progress, requester: Requester
    ) -> asyncio.Task[GenerationState | None] | OrderRefused | RateExceeded | None:
        """Write the row and ask KIE; return the task that records the outcome.

        None where another order with this Idempotency-Key was faster.
        """
        order, endpoint = progress.order, progress.endpoint
        start = TaskStart(endpoint.dialect, endpoint.known_task(order.input))
        keys = self.quota.key_hashes(order.kind)
        try:
            begun = await self.requests.begin(order, requester, start, keys, patience=PATIENCE)
        except Permanent as error:
            if error.code != ORDER_REFUSED:
                raise
            return OrderRefused(str(error))
        if begun is None or isinstance(begun, RateExceeded):
            return begun
        progress.generation_id = begun.generation_id
        progress.grant = CreateGrant(begun.key_hash, begun.asked_at)
        if start.task_id is None:
            began = time.monotonic()
            progress.outcome = await self._ask_kie(progress, begun.generation_id, progress.grant)
            self._report(progress, progress.outcome, time.monotonic() - began)
        else:
            progress.outcome = CreateAccepted(start.task_id)
        return self._start(self._record(progress, begun.generation_id, progress.outcome))

    async def _ask_kie(self, progress: _Progress, generation_id: str, grant: CreateGrant) -> CreateOutcome:
        order, target = progress.order, self.callback
        callback = callback_address(target.url, target.secret, generation_id) if target.url else ""
        body = progress.endpoint.request(order.model, order.input, callback)
        try:
            if grant.stale:
                renewed = await self._renew_grant(progress, generation_id)
                if isinstance(renewed, str):
                    return CreateNotSent(renewed)
                grant = progress.grant = renewed
            return await create_task(self.kie, progress.endpoint, body, key_hash=grant.key_hash)
        except asyncio.CancelledError:
            log.warning("create.unknown", generation_id=generation_id, reason="cut off while KIE was being asked")
            raise

    async def _renew_grant(self, progress: _Progress, generation_id: str) -> CreateGrant | str:
        """Take another grant after this process was held up; return the reason where KIE must not be asked any more."""
        try:
            while True:
                grant = await self.quota.wait(progress.order.kind)
                state = await self.requests.state(generation_id)
                if state is None or state.status not in OPEN or state.task_id is not None:
                    return "the generation ended before KIE was asked"
                if not grant.stale:
                    return grant
        except ReconcilerError as error:
            return str(error)

    def _report(self, progress: _Progress, outcome: CreateOutcome, seconds: float) -> None:
        """Log and count what KIE answered."""
        logger = log.bind(generation_id=progress.generation_id, model=progress.order.model, took=round(seconds, 3))
        match outcome:
            case CreateAccepted(task_id):
                word = "ok"
                logger.info("create.sent", task_id=task_id)
            case CreateRefused(code, message):
                word = "rate_limited" if code == RATE_LIMITED else "refused"
                self.metrics.missed("create", word)
                logger.warning("create.refused", code=code, reason=message)
            case CreateNotSent(reason):
                word = "away"
                self.metrics.missed("create", "not_sent")
                logger.warning("create.refused", code="not_sent", reason=reason)
            case CreateUncertain(reason):
                word = "away"
                self.metrics.missed("create", "unknown")
                logger.error("create.unknown", reason=reason)
            case _:
                assert_never(outcome)
        self.metrics.kie_seconds.labels("create", word).observe(seconds)

    async def _record(self, progress: _Progress, generation_id: str, outcome: CreateOutcome) -> GenerationState | None:
        """Write what KIE answered; return the state of a row with a task then, None when it is gone."""
        assert progress.grant is not None
        key_hash, dialect = progress.grant.key_hash, progress.endpoint.dialect
        match outcome:
            case CreateAccepted(task_id):
                return await self.recorder.record_task(generation_id, task_id, key_hash=key_hash, dialect=dialect)
            case CreateRefused(code, message, retry_after):
                if code == RATE_LIMITED:
                    await self._pause_key(key_hash, max(retry_after or 0.0, WINDOW))
                await self.recorder.record_failure(generation_id, f"{message} ({code})")
            case CreateNotSent(reason):
                await self.recorder.record_failure(generation_id, reason)
            case CreateUncertain():
                # The row has said that the outcome is unknown since it was written.
                pass
            case _:
                assert_never(outcome)
        return None

    async def _pause_key(self, key_hash: str, seconds: float) -> None:
        """Let no replica use this key for so many seconds."""
        try:
            await self.quota.rates.pause(key_hash, seconds)
        except Transient as error:
            # KIE's next refusal brings the same.
            log.warning("create.unwritten", code=error.code, reason=str(error))


def _repeated(stored: StoredRequest, order: Order) -> CreateAnswer:
    """The answer to an order whose Idempotency-Key was used before."""
    if stored.digest != order.digest():
        return IdempotencyKeyReused()
    if stored.standing is None:
        return GenerationDeleted()
    return TaskCreated(stored.generation_id, stored.standing.task_id, stored.standing.status, fresh=False)


def _answer(progress: _Progress, recording: asyncio.Task[GenerationState | None]) -> CreateAnswer:
    """The answer to an order that KIE was asked for, whether or not its outcome is written yet."""
    assert progress.generation_id is not None
    assert progress.outcome is not None
    match progress.outcome:
        case CreateAccepted(task_id):
            if not recording.done() or recording.cancelled():
                return OutcomeUnknown(progress.generation_id, "KIE made the task, and its id could not be written yet")
            state = recording.result()
            return TaskCreated(progress.generation_id, task_id, "deleted" if state is None else state.status)
        case CreateRefused(code, message, retry_after):
            return TaskDeclined(progress.generation_id, code, message, retry_after)
        case CreateNotSent(reason):
            return TaskDeclined(progress.generation_id, None, reason)
        case CreateUncertain(reason):
            return OutcomeUnknown(progress.generation_id, reason)
        case _:
            assert_never(progress.outcome)
