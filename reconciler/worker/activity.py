"""What this process is doing right now, as it reports it to the other replicas with every heartbeat.

`postgres/reports/activity.py` reads the reports for `top`. A report holds no more transfers than deliveries run at
once, and it replaces the one before.
"""

from __future__ import annotations

from reconciler.metrics import Metrics
from reconciler.worker.deliver import Deliverer
from reconciler.worker.worker import Worker


def doing(deliverer: Deliverer, worker: Worker, metrics: Metrics) -> dict[str, object]:
    """Return the transfers under way, how many generations are held, and the totals since the process began."""
    transfers = [transfer.to_json() for transfer in deliverer.transfers.values()]
    return {"transfers": transfers, "held": worker.in_hand, **metrics.totals()}
