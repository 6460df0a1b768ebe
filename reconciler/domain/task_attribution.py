"""Whether a task that a callback offers belongs to a row whose own task id was lost.

A callback is hostile input: whoever knows the secret can offer any task to any row. KIE's record decides. Some records
repeat no callback address; then only what we know of the order is left. Pure. The poller calls this.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

ORDER_WINDOW = timedelta(minutes=5)
"""How far a task's creation may lie from its order: KIE makes the task at once, but its clock may differ from ours."""


@dataclass(frozen=True, slots=True)
class OrderFacts:
    """What is known of a row's order and of an offered task.

    `ordered_at` is when createTask wrote the row, None if it did not. `taken` is true if another row has the task.
    """

    ordered_at: datetime | None
    taken: bool


def may_be_ours(facts: OrderFacts, created_at: datetime | None) -> bool:
    """Return whether a task whose record names no generation can be the one that this order made.

    `created_at` is KIE's time of the task; without one, or without its zone, the time is no argument.
    """
    if facts.ordered_at is None or facts.taken:
        return False
    if created_at is None or created_at.tzinfo is None:
        return True
    return abs(created_at - facts.ordered_at) <= ORDER_WINDOW
