"""One visit a generation at a time for the route of `sync`: a caller who asks meanwhile joins the visit under way.

A visit goes on when its caller goes away. Across replicas the lease does the same: `Operator.visit` waits for its
holder.
"""

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

from reconciler.domain.model import Trigger
from reconciler.operations.operator import Operator, TaskState

log = structlog.get_logger()

AT_ONCE = 32
"""So many of these visits are under way in one process; the others wait for a slot."""


class SingleFlight:
    """The visits that callers of this process wait for, at most one a generation."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._visits: dict[str, asyncio.Task[TaskState]] = {}

    def visit(self, generation_id: str, enter: Callable[[], object]) -> asyncio.Task[TaskState]:
        """Begin a visit, or join the one under way; `enter` is called in its task, so that a drain knows of it."""
        task = self._visits.get(generation_id)
        if task is None:
            task = asyncio.create_task(self._visit(generation_id, enter), name="sync")
            self._visits[generation_id] = task
            task.add_done_callback(partial(self._end, generation_id))
        return task

    def under_way(self, generation_id: str) -> asyncio.Task[TaskState] | None:
        """Return the visit of this generation that is under way, None where there is none."""
        return self._visits.get(generation_id)

    async def _visit(self, generation_id: str, enter: Callable[[], object]) -> TaskState:
        enter()
        async with self._slots:
            return await self._operator.visit(generation_id, Trigger.SYNC)

    def _end(self, generation_id: str, task: asyncio.Task[TaskState]) -> None:
        del self._visits[generation_id]
        # The caller may have gone: then nothing else reports the error.
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("sync.interrupted", generation_id=generation_id, reason=str(error) or type(error).__name__)
