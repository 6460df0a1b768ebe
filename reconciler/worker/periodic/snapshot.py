"""Puts the table-wide figures into the metrics and logs every finding that is open. Only the leader does.

The figures are counted in `postgres/reports`, the findings follow from them in `domain/findings.py`.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from reconciler.domain.findings import FindingThresholds, Snapshot, findings
from reconciler.metrics import Metrics
from reconciler.postgres.pool import Database
from reconciler.postgres.preflight import missing
from reconciler.postgres.reports.reports import Reports
from reconciler.worker.periodic.leadership import KNOWN_AFTER, Leadership
from reconciler.worker.periodic.probes import ProbeResults
from reconciler.worker.periodic.sweep import ListenerStatus, Sweep

log = structlog.get_logger()

INTERVAL = 15.0
"""The most seconds between two snapshots; with a shorter interval of the sweep the figures are fresher, too."""


class SnapshotRefresh:
    """Draws the snapshot; `last` is the last one, None where this instance does not lead."""

    name = "snapshot"
    first_after = KNOWN_AFTER

    def __init__(
        self,
        reports: Reports,
        database: Database,
        metrics: Metrics,
        leadership: Leadership,
        *,
        sweep: Sweep,
        listener: ListenerStatus,
        probes: ProbeResults,
        thresholds: FindingThresholds,
    ) -> None:
        self._reports = reports
        self._database = database
        self._metrics = metrics
        self._leadership = leadership
        self._sweep = sweep
        self._listener = listener
        self._probes = probes
        self._thresholds = thresholds
        self.interval = min(thresholds.sweep_seconds, INTERVAL)
        self.last: Snapshot | None = None

    async def run_once(self) -> None:
        """Draw the figures and log what is amiss; without a snapshot the metrics show no figures."""
        snapshot = None
        try:
            snapshot = await self._snapshot() if self._leadership.leads else None
        finally:
            self.last = snapshot
            if snapshot is None:
                # Old figures that stay would say that all is well, or never end an alert.
                self._metrics.forget()
        if snapshot is None:
            return
        found = findings(snapshot, self._thresholds)
        self._metrics.draw(snapshot, found)
        for finding in found:
            log.warning("finding.open", finding=finding.name, count=finding.count, says=finding.says, do=finding.do)

    async def _snapshot(self) -> Snapshot:
        """The figures of the tables, with those that only this process knows."""
        return replace(
            await self._reports.snapshot(),
            listening=self._listener.listening,
            canary_age=self._listener.canary_age,
            sweep_age=self._sweep.age,
            schema_behind=len(await missing(self._database)),
            transaction_pooler=self._database.pooled,
            keys_rejected=self._probes.keys_rejected,
            keys_unpaid=self._probes.keys_unpaid,
            bucket_closed=self._probes.bucket_closed,
        )
