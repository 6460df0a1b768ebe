"""What is told of a visit that has ended: one canonical log line, the figures, the trace.

The composition root hands these functions to `Visitor`, which calls each with every VisitOutcome. What happens during a
visit is logged and measured where it happens.
"""

import structlog

from reconciler.domain.model import Done, Fail, Finish, Reschedule
from reconciler.domain.object_keys import kind_of
from reconciler.metrics import Metrics
from reconciler.tracing import Tracing
from reconciler.worker.visit import VisitOutcome

log = structlog.get_logger()


def log_visit(outcome: VisitOutcome) -> None:
    """Write the canonical line; `took` is the length of the visit in seconds, `ms` the age of a delivered row."""
    row, trigger, took = outcome.row, outcome.claim.trigger.value, round(outcome.seconds, 3)
    logger = log.bind(generation_id=row.id, task_id=row.task_id, trigger=trigger, model=row.model, took=took)
    match outcome.decision:
        case Finish() if outcome.end == "repaired":
            logger.info("generation.repaired", assets=len(row.stored))
        case Finish() if outcome.end == "extended":
            logger.info("generation.extended", assets=len(row.stored), missing=len(row.missing))
        case Finish():
            size = sum(asset.size for asset in row.assets)
            age = round((outcome.at - row.created_at).total_seconds() * 1000)
            counts = {"assets": len(row.stored)} | ({"missing": len(row.missing)} if row.missing else {})
            logger.info("generation.delivered", **counts, bytes=size, ms=age, event_kind=outcome.event)
        case Fail(reason, recheck_at=None):
            logger.warning("generation.failed", reason=reason)
        case Fail(reason):
            logger.warning("generation.gave_up", reason=reason)
        case Reschedule() as rest:
            logger.debug("generation.rested", why=rest.reason, until=rest.due_at.isoformat())
        case Done(reason, lost=True):
            logger.error("generation.lost", why=reason)
        case Done(reason):
            logger.info("generation.left", why=reason)


def measure_visit(metrics: Metrics, outcome: VisitOutcome) -> None:
    """Count how the generation ended, and record how long its delivery took."""
    row, end = outcome.row, outcome.end
    if end in {"repaired", "lost"}:
        metrics.audits.labels(end).inc()
    elif end not in {None, "extended"}:
        metrics.ended(end, outcome.claim.trigger)
    if end == "delivered":
        since_completion = outcome.at - row.completed_at if row.completed_at else None
        kind = kind_of(row.assets[0].mime)
        metrics.delivered(kind, outcome.at - row.created_at, since_completion, generation_id=row.id)


def trace_visit(tracing: Tracing, outcome: VisitOutcome) -> None:
    """End the generation's trace where the generation has ended for good.

    A trace has one root: a generation that we gave up can still end otherwise, and a repaired one ended before.
    """
    row, claim = outcome.row, outcome.claim
    if outcome.end in {"delivered", "failed"}:
        tracing.ended(row.id, claim.traceparent, row.created_at, model=row.model, outcome=outcome.end)
