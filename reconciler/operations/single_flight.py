"""The visits that are under way because somebody asked for one, and who joins them.

A visit goes on when whoever asked goes away; whoever asks about the same generation meanwhile joins it. Across replicas
the lease does the same: `chores.visit` waits for its holder. Called by the door of `sync`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

from reconciler.domain.model import Trigger
from reconciler.operations import operator as actions
from reconciler.operations.operator import Operator, TaskState

log = structlog.get_logger()

AT_ONCE = 32
"""Visits that may be under way because of somebody's asking; the others wait for their turn."""


class SingleFlight:
    """The visits under way because somebody asked: one a generation in this process, whoever asks how often."""

    def __init__(self, desk: Operator) -> None:
        self._desk = desk
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._under_way: dict[str, asyncio.Task[TaskState]] = {}

    def visit(self, generation_id: str, enter: Callable[[], object]) -> asyncio.Task[TaskState]:
        """Begin a visit, or join the one under way; `enter` is called in its task, so that a drain knows of it."""
        task = self._under_way.get(generation_id)
        if task is None:
            task = asyncio.create_task(self._visit(generation_id, enter), name="sync")
            self._under_way[generation_id] = task
            task.add_done_callback(partial(self._ended, generation_id))
        return task

    async def _visit(self, generation_id: str, enter: Callable[[], object]) -> TaskState:
        enter()
        async with self._slots:
            return await actions.visit(self._desk, generation_id, Trigger.SYNC)

    def _ended(self, generation_id: str, task: asyncio.Task[TaskState]) -> None:
        del self._under_way[generation_id]
        # Whoever asked may have gone, and then nobody else tells of it.
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("sync.interrupted", generation_id=generation_id, reason=str(error) or type(error).__name__)
