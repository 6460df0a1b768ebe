"""A fleet of tasks under one budget of requests: what each choice of the next look costs in delay.

Seeded and pure: no sockets, no clock. `python -m benchmarks.pace` prints the table; a test holds the
daemon's pace against round robin.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from types import MappingProxyType
from typing import Protocol

from reconciler.domain import poll_interval
from reconciler.domain.model import DurationModel

REQUESTS = 5.0
"""Requests a second that all tasks share."""

SNAPSHOT = 15.0
"""Seconds between two prices, as between two snapshots of the leader."""

MIX = (
    (0.62, DurationModel(math.log(25), 0.5)),
    (0.30, DurationModel(math.log(150), 0.5)),
    (0.07, DurationModel(math.log(600), 0.5)),
    (0.01, None),
)
"""Share and completion times of each model; None never ends, and looks like the slowest."""


@dataclass(slots=True)
class Task:
    """One task: born, ends (perhaps never), last looked at."""

    curve: DurationModel
    born: float
    ends: float
    looked: float


@dataclass(frozen=True, slots=True)
class Delays:
    """Seconds between the end of a task and the look that saw it."""

    mean: float
    p95: float
    seen: int


class Policy(Protocol):
    """Keeps the tasks in flight and says which one is looked at next."""

    def put(self, task: Task, now: float) -> None:
        """Take a task that is new, or was looked at just now and goes on."""

    def pop(self, now: float) -> Task | None:
        """Give up the task to look at now, None when none may be asked about so soon."""


class RoundRobin:
    """The task whose last look is longest ago."""

    def __init__(self) -> None:
        self._queue: list[tuple[float, int, float, Task]] = []
        self._count = count()

    def put(self, task: Task, now: float) -> None:
        self._push(task, now, now + poll_interval.MIN_INTERVAL)

    def pop(self, now: float) -> Task | None:
        early = []
        found = None
        while self._queue and found is None:
            entry = heapq.heappop(self._queue)
            if entry[2] <= now:
                found = entry[3]
            else:
                early.append(entry)
        for entry in early:
            heapq.heappush(self._queue, entry)
        return found

    def _push(self, task: Task, due: float, early: float) -> None:
        heapq.heappush(self._queue, (due, next(self._count), early, task))

    def _tasks(self) -> Iterator[Task]:
        return (entry[3] for entry in self._queue)


class OnePrice(RoundRobin):
    """The daemon's way: gaps from one price for all, and a spare request goes to the earliest due."""

    def __init__(self) -> None:
        super().__init__()
        self._drawn = -math.inf
        self._theta = poll_interval.MIN_POLL_PRICE

    def put(self, task: Task, now: float) -> None:
        gap = poll_interval.interval(task.curve, now - task.born, self._theta)
        self._push(task, now + gap, now + max(poll_interval.MIN_INTERVAL, gap / 4))

    def pop(self, now: float) -> Task | None:
        if now >= self._drawn + SNAPSHOT:
            self._drawn = now
            hazards = (poll_interval.hazard(task.curve, now - task.born) for task in self._tasks())
            self._theta = poll_interval.poll_price(hazards, REQUESTS)
        return super().pop(now)


class Best:
    """The task with the highest score; all are scored at every request, which only a bench can afford."""

    def __init__(self, score: Callable[[Task, float], float]) -> None:
        self._score = score
        self._tasks: list[Task] = []

    def put(self, task: Task, now: float) -> None:  # noqa: ARG002 - a score needs no due time
        self._tasks.append(task)

    def pop(self, now: float) -> Task | None:
        free = [task for task in self._tasks if task.looked + poll_interval.MIN_INTERVAL <= now]
        if not free:
            return None
        best = max(free, key=lambda task: self._score(task, now))
        self._tasks.remove(best)
        return best


def chance(task: Task, now: float) -> float:
    """Return the chance that the task has ended since its last look."""
    return 1 - poll_interval.unfinished(task.curve, now - task.born) / poll_interval.unfinished(
        task.curve, task.looked - task.born
    )


def waste(task: Task, now: float) -> float:
    """Return the delay expected to have piled up since the last look."""
    return poll_interval.expected_waste(task.curve, task.looked - task.born, now - task.born)


POLICIES: Mapping[str, Callable[[], Policy]] = MappingProxyType(
    {
        "round robin": RoundRobin,
        "most likely ended first": lambda: Best(chance),
        "largest expected waste": lambda: Best(waste),
        "one price, work-conserving": OnePrice,
    }
)


def fleet(rate: float, seconds: float, seed: int) -> list[Task]:
    """Return the tasks created in this time at `rate` a second, in the order of their birth."""
    dice = random.Random(seed)
    shares = [share for share, _ in MIX]
    tasks: list[Task] = []
    born = dice.expovariate(rate)
    while born < seconds:
        curve = dice.choices([curve for _, curve in MIX], shares)[0]
        took = dice.lognormvariate(curve.mu, curve.sigma) if curve else math.inf
        tasks.append(Task(curve or MIX[2][1] or poll_interval.PRIORS[None], born, born + took, born))
        born += dice.expovariate(rate)
    return tasks


def simulate(policy: Policy, tasks: list[Task], *, seconds: float, warm: float) -> Delays:
    """Return the delays of the tasks that ended after `warm` and were seen before `seconds`.

    A request goes out every 1/REQUESTS seconds, and is lost when no task may be asked about.
    """
    delays: list[float] = []
    coming = iter(tasks)
    upcoming = next(coming, None)
    for slot in range(int(seconds * REQUESTS)):
        now = slot / REQUESTS
        while upcoming is not None and upcoming.born <= now:
            policy.put(upcoming, now)
            upcoming = next(coming, None)
        task = policy.pop(now)
        if task is None:
            continue
        task.looked = now
        if task.ends > now:
            policy.put(task, now)
        elif task.ends >= warm:
            delays.append(now - task.ends)
    return Delays(sum(delays) / len(delays), sorted(delays)[int(len(delays) * 0.95)], len(delays))


def main(rates: tuple[float, ...] = (1.0, 2.0, 3.5), *, seconds: float = 1800.0) -> None:
    """Print mean and p95 delay of every policy at every rate."""
    print("| new tasks a second | " + " | ".join(POLICIES) + " |")
    print("|---|" + "---|" * len(POLICIES))
    for rate in rates:
        cells = []
        for policy in POLICIES.values():
            tasks = fleet(rate, seconds, seed=1)
            delays = simulate(policy(), tasks, seconds=seconds, warm=seconds / 3)
            cells.append(f"{delays.mean:.1f}, {delays.p95:.0f}")
        print(f"| {rate} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
