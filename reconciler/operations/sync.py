"""`sync`: visit every generation of one task now. Called by the command line; the route uses `single_flight.py`."""

from reconciler.domain.model import Trigger
from reconciler.operations.operator import OperationOutcome, Operator, leases_kept, outcome


async def sync(operator: Operator, task_id: str) -> tuple[OperationOutcome, ...]:
    """Visit every generation of this task now; empty where no generation has it."""
    async with leases_kept(operator.worker):
        ids = await operator.reports.find_task(task_id)
        states = [await operator.visit(generation_id, Trigger.SYNC) for generation_id in ids]
    return tuple(outcome(state.details, operator.settings) for state in states if state.details is not None)
