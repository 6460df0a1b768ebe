"""`retry`: reopen a generation that failed or was parked, and visit it now. Called by the command line."""

import asyncio
import time

from reconciler.domain.model import OPEN, SUCCEEDED, Trigger
from reconciler.errors import Permanent, Transient
from reconciler.operations.operator import RECHECK_SECONDS, OperationOutcome, Operator, leases_kept, outcome
from reconciler.postgres.reports.generation_details import GenerationDetails


async def retry(operator: Operator, generation_id: str) -> OperationOutcome | None:
    """Reopen a generation and visit it now; None where there is none.

    Raises Permanent where there is nothing to retry, Transient while another instance keeps holding it.
    """
    details = await operator.reports.details(generation_id)
    if details is None:
        return None
    _require_retryable(details)
    async with leases_kept(operator.worker):
        if details.generation.status == "failed":
            await _reopen(operator, generation_id)
        details = (await operator.visit(generation_id, Trigger.SYNC)).details
    return None if details is None else outcome(details, operator.settings)


def _require_retryable(details: GenerationDetails) -> None:
    row = details.generation
    if row.status not in (*OPEN, *SUCCEEDED, "failed"):
        message = f"{row.id} is {row.status}: that status belongs to the application, and the daemon leaves it alone"
        raise Permanent(message, code="not_ours")
    if row.task_id is None:
        raise Permanent(f"{row.id} has no task id, so KIE cannot be asked about it", code="no_task")


async def _reopen(operator: Operator, generation_id: str) -> None:
    deadline = time.monotonic() + operator.patience
    while not await operator.reopener.reopen(generation_id):
        details = await operator.reports.details(generation_id)
        if details is None or details.generation.status != "failed":
            return
        if time.monotonic() > deadline:
            raise Transient(f"another instance keeps holding {generation_id}", code="held")
        await asyncio.sleep(RECHECK_SECONDS)
