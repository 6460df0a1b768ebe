"""Calls `reconciler.on_delivered` for what was delivered, again after a pause until it works. Every replica does.

The ledger notes a call with the success, so none is lost; the transaction of a call locks its mark, so no two replicas
make it (`postgres/hooks.py`). No visit waits for a call.
"""

import asyncio

import structlog

from reconciler.postgres.hooks import DeliveredHook

log = structlog.get_logger()

AT_ONCE = 2
"""Calls that one process makes at once: a hook that hangs takes no more connections than these."""


async def call_hooks(hook: DeliveredHook) -> None:
    """Make the calls that are due; Transient while the database is away."""
    ended = await asyncio.gather(*(_call_due(hook) for _ in range(AT_ONCE)), return_exceptions=True)
    for error in ended:
        if error is not None:
            raise error


async def _call_due(hook: DeliveredHook) -> None:
    while (call := await hook.call_next()) is not None:
        if call.trouble is not None:
            log.warning(
                "hook.failed",
                hook="on_delivered",
                generation_id=call.generation_id,
                task_id=call.task_id,
                tries=call.tries,
                reason=call.trouble,
            )
