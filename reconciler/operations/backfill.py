"""`backfill`: deliver every success whose result was never stored. Called by the command line."""

import asyncio
from collections.abc import Callable

import structlog

from reconciler.domain.model import Trigger
from reconciler.errors import ReconcilerError
from reconciler.operations.operator import OperationOutcome, Operator, leases_kept, outcome, running
from reconciler.postgres.reports.reports import Reports

log = structlog.get_logger()


async def find_unstored(
    reports: Reports, on_page: Callable[[int, int], None] = lambda _looked_at, _found: None
) -> list[str]:
    """Read the whole table and return the generations that a backfill would deliver.

    After each page `on_page` gets how many rows were looked at so far, and how many of them are to be delivered.
    """
    found: list[str] = []
    looked_at, after = 0, None
    while True:
        page = await reports.unhealed(after=after)
        found += page.found
        looked_at += page.looked
        on_page(looked_at, len(found))
        if page.upto is None:
            return found
        after = page.upto


async def backfill(
    operator: Operator, *, on_page: Callable[[int, int], None], on_outcome: Callable[[OperationOutcome], None]
) -> tuple[OperationOutcome, ...]:
    """Deliver every success without an asset; a generation that cannot be delivered does not stop the others.

    Raises Transient when the database is away; the next run goes on with those that remain.
    """
    outcomes: list[OperationOutcome] = []
    queue = iter(await find_unstored(operator.reports, on_page))

    async def deliver_from_queue() -> None:
        for generation_id in queue:
            result = await _deliver(operator, generation_id)
            outcomes.append(result)
            on_outcome(result)

    async with (
        leases_kept(operator.worker),
        running(deliver_from_queue() for _ in range(operator.at_once)) as tasks,
    ):
        await asyncio.gather(*tasks)
    return tuple(outcomes)


async def _deliver(operator: Operator, generation_id: str) -> OperationOutcome:
    """Visit a generation; every error but a database that is away ends this one visit only."""
    try:
        details = (await operator.visit(generation_id, Trigger.BACKFILL)).details
    except ReconcilerError as error:
        if error.code == "database_away":
            raise
        return OperationOutcome(generation_id, None, "working", str(error))
    except Exception as error:
        log.exception("visit.broke", generation_id=generation_id)
        return OperationOutcome(generation_id, None, "working", f"the visit broke: {type(error).__name__}")
    if details is None:
        return OperationOutcome(generation_id, None, "left", "the application deleted the row")
    return outcome(details, operator.settings)
