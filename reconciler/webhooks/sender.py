"""When webhooks are sent: as events come, several at once, again after a pause, until accepted or given up.

A periodic task calls `send_due` every second, the database listener calls `wake`, and each accepted event claims the
next one. No visit waits for a webhook. The outbox keeps the order within a generation; `client.py` makes the request.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Coroutine
from typing import Any

import structlog

from reconciler.errors import Gone, ReconcilerError, Transient
from reconciler.metrics import Metrics
from reconciler.postgres.outbox import TERM, Outbox, OutboxEvent
from reconciler.webhooks.client import TIMEOUT, WebhookClient

log = structlog.get_logger()

CONCURRENCY = 8
"""How many webhooks are sent at once; after a failed one a single webhook at a time, until one is accepted."""

FIRST_PAUSE = 2.0
LONGEST_PAUSE = 600.0
LONGEST_RETRY_AFTER = 3600.0
"""The most seconds for which a receiver's Retry-After is followed."""

RELEASE_SECONDS = 2.0
_CLAIM_USABLE_SECONDS = TERM.total_seconds() - 2 * TIMEOUT


class WebhookSender:
    """Sends the outbox's events to the receiver in the background."""

    def __init__(self, outbox: Outbox, client: WebhookClient, metrics: Metrics) -> None:
        self._outbox = outbox
        self._client = client
        self._metrics = metrics
        self._claiming = asyncio.Lock()
        self._claimed: dict[int, OutboxEvent] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._receiver_failing = False
        self._paused_until = 0.0
        self._draining = False
        self._woken: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Send the due events soon: a new one was notified. Many calls at once cause one `send_due`."""
        if self._woken is None or self._woken.done():
            self._woken = self._start(self._send_more(), "webhooks")

    async def send_due(self) -> None:
        """Claim the due events, as many as may be sent now, and start to send them; does not wait for the answers."""
        async with self._claiming:
            now = time.monotonic()
            count = self._free_slots(now)
            if count <= 0:
                return
            events = await self._outbox.take(count)
            if self._draining:
                await self._outbox.release(events)
                return
            for event in events:
                self._claimed[event.id] = event
                self._start(self._send(event, now), f"webhook {event.id}")

    def _free_slots(self, now: float) -> int:
        if self._draining or now < self._paused_until:
            return 0
        return (1 if self._receiver_failing else CONCURRENCY) - len(self._claimed)

    async def _send(self, event: OutboxEvent, claimed_at: float) -> None:
        try:
            accepted = await self._deliver(event, claimed_at)
        except ReconcilerError as error:
            # The outcome is not recorded: the event is sent again under the same id when the claim has expired.
            _logger(event).warning("event.not_marked", code=error.code, reason=str(error))
            return
        finally:
            self._claimed.pop(event.id, None)
        if accepted:
            await self._send_more()

    async def _send_more(self) -> None:
        # The periodic task runs `send_due` as well, and reports a database that is away.
        with contextlib.suppress(ReconcilerError):
            await self.send_due()

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("announcement.broke", exc_info=error)

    async def _deliver(self, event: OutboxEvent, claimed_at: float) -> bool:
        """Send one event and record the outcome; return whether the receiver accepted it.

        `claimed_at` is the monotonic time just before the claim.
        """
        began = time.monotonic()
        # A process that was suspended has lost its claim: another one may have sent this event and the next.
        if began - claimed_at > _CLAIM_USABLE_SECONDS:
            return False
        try:
            await self._client.deliver(event)
        except (Gone, Transient) as error:
            self._receiver_failing = True
            await self._record_failure(event, error)
            return False
        self._receiver_failing = False
        await self._outbox.mark_sent(event)
        self._metrics.announcements.labels("told").inc()
        _logger(event).info("event.announced", tries=event.tries, took=round(time.monotonic() - began, 3))
        return True

    async def _record_failure(self, event: OutboxEvent, error: Gone | Transient) -> None:
        requested = min(error.retry_after or 0.0, LONGEST_RETRY_AFTER) if isinstance(error, Transient) else 0.0
        self._paused_until = max(self._paused_until, time.monotonic() + requested)
        wait = max(pause(event.tries, random.random()), requested)
        dead = await self._outbox.mark_failed(event, error.code, wait=wait, last=isinstance(error, Gone))
        self._metrics.announcements.labels("dead" if dead else "again").inc()
        logger = _logger(event).bind(tries=event.tries, reason=error.code)
        if dead:
            logger.warning("event.dead", since=event.at, do="see docs/OPERATIONS.md, events_dead")
        else:
            logger.warning("event.not_announced", again_in=round(wait, 1))

    async def drain(self, seconds: float) -> None:
        """Start nothing more, let running requests finish for so many seconds, and release the other events."""
        self._draining = True
        if self._tasks and seconds > 0:
            await asyncio.wait(self._tasks, timeout=seconds)
        remaining = list(self._tasks)
        events = list(self._claimed.values())
        for task in remaining:
            task.cancel()
        await asyncio.gather(*remaining, return_exceptions=True)
        if events:
            with contextlib.suppress(TimeoutError, ReconcilerError):
                async with asyncio.timeout(RELEASE_SECONDS):
                    await self._outbox.release(events)


def pause(tries: int, jitter: float) -> float:
    """Return the seconds until the next try: doubled from 2 s up to 10 min, shortened by up to a third by `jitter`.

    `jitter` lies between 0 and 1.
    """
    return min(FIRST_PAUSE * 2.0 ** min(tries - 1, 16), LONGEST_PAUSE) * (1 - jitter / 3)


def _logger(event: OutboxEvent) -> structlog.typing.FilteringBoundLogger:
    logger: structlog.typing.FilteringBoundLogger = log.bind(
        generation_id=event.generation_id, task_id=event.task_id, kind=event.kind, webhook_id=event.webhook_id
    )
    return logger
