"""Calls `reconciler.on_delivered` for what was delivered, again after a pause until it works. Every replica does.

The ledger notes a call with the success, so none is lost; the transaction of a call locks its mark, so no two replicas
make it (`postgres/hooks.py`). No visit waits for a call.
"""

import asyncio
import time
from dataclasses import dataclass, field

import structlog

from reconciler.postgres.hooks import DeliveredHook
from reconciler.worker.visit import VisitOutcome

log = structlog.get_logger()

AT_ONCE = 2
"""Calls that one process makes at once: a hook that hangs takes no more connections than these."""


@dataclass(eq=False)
class HookCalls:
    """The calls of one instance.

    It looks after a delivery of its own and after a call that failed; else every `sweep_seconds`, for what others left.
    """

    hook: DeliveredHook
    sweep_seconds: float
    _stirred: bool = field(default=False, init=False)
    _next_look: float = field(default=0.0, init=False)

    def on_visit(self, outcome: VisitOutcome) -> None:
        """Look at the next round where a visit has delivered."""
        if outcome.event is not None:
            self._stirred = True

    async def run_once(self) -> None:
        """Make the calls that are due; Transient while the database is away."""
        now = time.monotonic()
        if now < self._next_look and not self._stirred:
            return
        self._stirred = False
        self._next_look = 0.0
        if await self._call():
            await self._call_all_due()
        self._next_look = now + self.sweep_seconds

    async def _call_all_due(self) -> None:
        ended = await asyncio.gather(*(self._call_due() for _ in range(AT_ONCE)), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error

    async def _call_due(self) -> None:
        while await self._call():
            continue

    async def _call(self) -> bool:
        """Make one call; return whether one was due."""
        call = await self.hook.call_next()
        if call is not None and call.trouble is not None:
            self._stirred = True
            log.warning(
                "hook.failed",
                hook="on_delivered",
                generation_id=call.generation_id,
                task_id=call.task_id,
                tries=call.tries,
                reason=call.trouble,
            )
        return call is not None
