"""What is told of a visit that has ended: one canonical log line, the figures, the trace.

`Visitor` hands every VisitOutcome to each sink in turn. What happens during a visit is logged and measured where it
happens.
"""

from __future__ import annotations

import structlog

from reconciler.domain.model import Done, Fail, Finish, Reschedule
from reconciler.domain.object_keys import TYPES
from reconciler.metrics import Metrics
from reconciler.tracing import Tracing
from reconciler.worker.visit import VisitOutcome

log = structlog.get_logger()


class LogSink:
    """Writes the canonical line of a visit."""

    def record(self, outcome: VisitOutcome) -> None:
        """Write one line; `took` is in seconds, `ms` the age of the row at its delivery."""
        row = outcome.row
        line = log.bind(
            generation_id=row.id,
            task_id=row.task_id,
            trigger=outcome.claim.trigger.value,
            model=row.model,
            took=round(outcome.seconds, 3),
        )
        match outcome.decision:
            case Finish() if outcome.repaired:
                line.info("generation.repaired", assets=len(row.sources))
            case Finish():
                size = sum(asset.size for asset in row.assets)
                age = round((outcome.at - row.created_at).total_seconds() * 1000)
                line.info("generation.delivered", assets=len(row.sources), bytes=size, ms=age, event_kind=outcome.event)
            case Fail(reason, until=None):
                line.warning("generation.failed", reason=reason)
            case Fail(reason):
                line.warning("generation.gave_up", reason=reason)
            case Reschedule() as rest:
                line.debug("generation.rested", why=rest.reason, until=rest.until.isoformat())
            case Done(reason, lost=True):
                line.error("generation.lost", why=reason)
            case Done(reason):
                line.info("generation.left", why=reason)


class MetricsSink:
    """Counts how generations end, and how long a delivery took."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def record(self, outcome: VisitOutcome) -> None:
        """Count one visit."""
        row, metrics = outcome.row, self._metrics
        if outcome.repaired:
            metrics.audits.labels("repaired").inc()
        elif isinstance(outcome.decision, Done) and outcome.decision.lost:
            metrics.audits.labels("lost").inc()
        elif outcome.ended is not None:
            metrics.ended(outcome.ended, outcome.claim.trigger)
        if outcome.ended == "delivered":
            since_completion = outcome.at - row.completed_at if row.completed_at else None
            kind, _ = TYPES[row.assets[0].mime]
            metrics.delivered(kind, outcome.at - row.created_at, since_completion, generation_id=row.id)


class TraceSink:
    """Ends the trace of a generation."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def record(self, outcome: VisitOutcome) -> None:
        """End the trace where the generation has ended for good.

        A trace has one root: a generation that we gave up can still end otherwise, and a repaired one ended before.
        """
        row, ended = outcome.row, outcome.ended
        if ended in {"delivered", "failed"}:
            self._tracing.ended(row.id, outcome.claim.traceparent, row.created_at, model=row.model, outcome=ended)
