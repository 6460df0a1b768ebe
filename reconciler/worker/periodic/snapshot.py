"""Puts the table-wide figures into the metrics and logs every finding that is open. Only the leader does.

The figures are counted in `postgres/reports`, the findings follow from them in `domain/findings/findings.py`.
"""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import UUID

import structlog

from reconciler.domain.findings.findings import FindingThresholds, findings
from reconciler.domain.findings.snapshot import Snapshot
from reconciler.metrics import Metrics
from reconciler.postgres.leader_findings import publish_findings
from reconciler.postgres.pool import Database
from reconciler.postgres.preflight import missing
from reconciler.postgres.reports.reports import Reports
from reconciler.postgres.table_reader import TableReader
from reconciler.worker.periodic.leadership import Leadership
from reconciler.worker.periodic.probes import Probes
from reconciler.worker.periodic.sweep import Sweep

log = structlog.get_logger()


@dataclass(eq=False)
class SnapshotRefresh:
    """Draws the snapshot; `last` is the last one, None where this instance does not lead.

    A daemon seen within `alive` counts as alive: while an older one is, no file waits for it in vain.
    """

    reports: Reports
    database: Database
    instance: UUID
    table: TableReader
    metrics: Metrics
    leadership: Leadership
    sweep: Sweep
    probes: Probes
    thresholds: FindingThresholds
    alive: timedelta
    last: Snapshot | None = field(default=None, init=False)

    async def run_once(self) -> None:
        """Draw the figures and log what is amiss; without a snapshot the metrics show no figures."""
        snapshot = None
        try:
            snapshot = await self._snapshot() if self.leadership.leads else None
        finally:
            self.last = snapshot
            if snapshot is None:
                # Old figures that stay would say that all is well, or never end an alert.
                self.metrics.forget()
        if snapshot is None:
            return
        found = findings(snapshot, self.thresholds)
        self.metrics.draw(snapshot, found)
        await publish_findings(self.database, self.instance, found)
        for finding in found:
            log.warning("finding.open", finding=finding.name, count=finding.count, says=finding.says, do=finding.do)

    async def _snapshot(self) -> Snapshot:
        """The figures of the tables, with those that only this process knows.

        While the application's table cannot be used, there are no figures of it.
        """
        trouble = self.table.trouble
        tables = (
            Snapshot({}, 0.0, 0.0, listening=True, table_trouble=trouble) if trouble else await self.reports.snapshot()
        )
        failing = dict(tables.failing)
        if (storage := self.probes.storage_failing) is not None:
            # Rows that wait for storage say more than a check of it.
            failing.setdefault("storage", storage)
        return replace(
            tables,
            failing=failing,
            # Also where its own heartbeat is late.
            instances=max(tables.instances, 1),
            listening=self.sweep.listener.listening,
            canary_age=self.sweep.listener.canary_age,
            sweep_age=self.sweep.age,
            schema_behind=len((await missing(self.database, self.alive)).due),
            transaction_pooler=self.database.pooled,
            keys_rejected=self.probes.keys_rejected,
            keys_unpaid=self.probes.keys_unpaid,
            bucket_closed=self.probes.bucket_closed,
        )
