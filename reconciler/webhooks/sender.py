"""When events are told: as they come, several at once, again after a pause, until they are told or given up.

A round looks every second, and the listener stirs; while there is more to tell, whoever has told one looks for the
next. No visit waits for anything here. The outbox keeps the order within a generation, `webhooks/client.py`
makes the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from reconciler.errors import Gone, ReconcilerError, Transient
from reconciler.metrics import Metrics
from reconciler.postgres.outbox import TERM, Outbox, OutboxEvent
from reconciler.webhooks.client import PATIENCE, WebhookClient

log = structlog.get_logger()

BREADTH = 8
"""How many are told at once; after one that was not taken a single one, until one is."""

FIRST_PAUSE = 2.0
LONGEST_PAUSE = 600.0
LONGEST_REST = 3600.0
"""Seconds for which a receiver that asks for it is left alone at most."""

HASTE = 2.0
_FRESH = TERM.total_seconds() - 2 * PATIENCE


@dataclass(frozen=True, slots=True)
class _Held:
    """A claimed event and the monotonic time before which nobody else can have it."""

    event: OutboxEvent
    drawn: float


class WebhookSender:
    """Tells the receiver what is in the outbox, in the background."""

    def __init__(self, outbox: Outbox, receiver: WebhookClient, metrics: Metrics) -> None:
        self._outbox = outbox
        self._receiver = receiver
        self._metrics = metrics
        self._looking = asyncio.Lock()
        self._held: dict[int, _Held] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._troubled = False
        self._rests_until = 0.0
        self._draining = False
        self._stirred: asyncio.Task[None] | None = None

    def stir(self) -> None:
        """Look soon: an event was heard of. However many there are, one look is under way."""
        if self._stirred is None or self._stirred.done():
            self._stirred = self._begun(self._look_again(), "announce")

    async def look(self) -> None:
        """Claim what is due, as much as there is room for, and begin to tell it; returns before it is told."""
        async with self._looking:
            drawn = time.monotonic()
            room = self._room(drawn)
            if room <= 0:
                return
            events = await self._outbox.take(room)
            if self._draining:
                await self._outbox.release(events)
                return
            for event in events:
                self._held[event.id] = held = _Held(event, drawn)
                self._begun(self._lane(held), f"announce {event.id}")

    def _room(self, now: float) -> int:
        if self._draining or now < self._rests_until:
            return 0
        return (1 if self._troubled else BREADTH) - len(self._held)

    async def _lane(self, held: _Held) -> None:
        try:
            went_well = await self._told(held)
        except ReconcilerError as error:
            # Not written down: it is told again when the claim has run out, under the same id.
            _bound(held.event).warning("event.not_marked", code=error.code, reason=str(error))
            return
        finally:
            self._held.pop(held.event.id, None)
        if went_well:
            await self._look_again()

    async def _look_again(self) -> None:
        # The round looks, too, and tells of a database that is away.
        with contextlib.suppress(ReconcilerError):
            await self.look()

    def _begun(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("announcement.broke", exc_info=error)

    async def _told(self, held: _Held) -> bool:
        """Tell one event and mark it; whether the receiver is well."""
        event, began = held.event, time.monotonic()
        # A process that slept has lost its claim: another may have told this one and the next already.
        if began - held.drawn > _FRESH:
            return False
        try:
            await self._receiver.tell(event)
        except (Gone, Transient) as error:
            self._troubled = True
            await self._missed(event, error)
            return False
        self._troubled = False
        await self._outbox.told(event)
        self._metrics.announcements.labels("told").inc()
        took = round(time.monotonic() - began, 3)
        _bound(event).info("event.announced", tries=event.tries, took=took)
        return True

    async def _missed(self, event: OutboxEvent, error: Gone | Transient) -> None:
        asked = min(error.retry_after or 0.0, LONGEST_REST) if isinstance(error, Transient) else 0.0
        self._rests_until = max(self._rests_until, time.monotonic() + asked)
        wait = max(pause(event.tries, random.random()), asked)
        dead = await self._outbox.not_told(event, error.code, wait=wait, last=isinstance(error, Gone))
        self._metrics.announcements.labels("dead" if dead else "again").inc()
        bound = _bound(event).bind(tries=event.tries, reason=error.code)
        if dead:
            bound.warning("event.dead", since=event.at, do="see docs/OPERATIONS.md, events_dead")
        else:
            bound.warning("event.not_announced", again_in=round(wait, 1))

    async def drain(self, seconds: float) -> None:
        """Begin no more, let what is being told end for so many seconds, give the rest back."""
        self._draining = True
        if self._tasks and seconds > 0:
            await asyncio.wait(self._tasks, timeout=seconds)
        left = list(self._tasks)
        events = [held.event for held in self._held.values()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        if events:
            with contextlib.suppress(TimeoutError, ReconcilerError):
                async with asyncio.timeout(HASTE):
                    await self._outbox.release(events)


def pause(tries: int, dice: float) -> float:
    """Seconds until an event is tried again: doubling from two seconds to ten minutes, less up to a third by `dice`."""
    return min(FIRST_PAUSE * 2.0 ** min(tries - 1, 16), LONGEST_PAUSE) * (1 - dice / 3)


def _bound(event: OutboxEvent) -> structlog.typing.FilteringBoundLogger:
    bound: structlog.typing.FilteringBoundLogger = log.bind(
        generation_id=event.generation_id, task_id=event.task_id, kind=event.kind, webhook_id=event.webhook_id
    )
    return bound
