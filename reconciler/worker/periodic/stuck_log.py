"""Names each generation that becomes stuck in the log, once. Only the leader does.

The finding `stuck` counts them; this line says which ones, and why, where nobody runs `kie-reconciler stuck` in time.
"""

from dataclasses import dataclass

import structlog

from reconciler.postgres.stuck import StuckRows
from reconciler.worker.periodic.leadership import Leadership

log = structlog.get_logger()


@dataclass(eq=False)
class StuckLog:
    """Writes a line for each newly stuck generation."""

    rows: StuckRows
    leadership: Leadership

    async def run_once(self) -> None:
        """Name what has become stuck since the last run; Transient while the database is away."""
        if not self.leadership.leads:
            return
        for stuck in await self.rows.mark():
            log.warning(
                "generation.stuck",
                generation_id=stuck.generation_id,
                task_id=stuck.task_id,
                age=round(stuck.age),
                reason=stuck.reason,
            )
