"""What this process has in hand, in the words in which it tells the others.

`postgres/reports/activity.py` reads them for `top`.
The rounds tell it with the presence. It is as large as the deliveries at once are many, and never a row of its own.
"""

from __future__ import annotations

import time

from reconciler.metrics import Metrics
from reconciler.worker.deliver import Deliverer, Transfer
from reconciler.worker.worker import Worker


def doing(deliveries: Deliverer, work: Worker, metrics: Metrics) -> dict[str, object]:
    """Return the transfers under way, how many generations are held, and what was done since the process began."""
    now = time.monotonic()
    transfers = [_told(transfer, now) for transfer in deliveries.transfers.values()]
    return {"transfers": transfers, "held": work.in_hand, **metrics.totals()}


def _told(transfer: Transfer, now: float) -> dict[str, object]:
    return {
        "generation_id": transfer.generation_id,
        "n": transfer.n,
        "stage": transfer.stage,
        "done": transfer.done,
        "total": transfer.total,
        "seconds": round(now - transfer.began, 3),
    }
