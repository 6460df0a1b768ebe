"""Simulates many tasks that share one rate limit, to compare policies that choose the next task to poll.

Seeded and pure: no sockets, no clock. `python -m benchmarks.pace` prints the table; a test compares the daemon's
policy with round robin.
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
"""Seconds between two updates of the poll price, as between two snapshots of the leader."""

MIX = (
    (0.62, DurationModel(math.log(25), 0.5)),
    (0.30, DurationModel(math.log(150), 0.5)),
    (0.07, DurationModel(math.log(600), 0.5)),
    (0.01, None),
)
"""Share and duration model of each AI model; None never ends, and is taken for the slowest."""


@dataclass(slots=True)
class Task:
    """One task: when it was created, when it ends (perhaps never), when it was last polled."""

    model: DurationModel
    created: float
    ends: float
    polled: float


@dataclass(frozen=True, slots=True)
class Delays:
    """Seconds between the end of a task and the poll that saw it."""

    mean: float
    p95: float
    seen: int


class Policy(Protocol):
    """Holds the tasks in flight and chooses the one to poll next."""

    def put(self, task: Task, now: float) -> None:
        """Add a task that is new, or that was just polled and is still running."""

    def pop(self, now: float) -> Task | None:
        """Remove and return the task to poll now, None if none may be polled so soon."""


class RoundRobin:
    """Polls the task whose last poll is longest ago."""

    def __init__(self) -> None:
        self._queue: list[tuple[float, int, float, Task]] = []
        self._count = count()

    def put(self, task: Task, now: float) -> None:
        self._push(task, now, now + poll_interval.MIN_INTERVAL)

    def pop(self, now: float) -> Task | None:
        too_early = []
        task = None
        while self._queue and task is None:
            entry = heapq.heappop(self._queue)
            if entry[2] <= now:
                task = entry[3]
            else:
                too_early.append(entry)
        for entry in too_early:
            heapq.heappush(self._queue, entry)
        return task

    def _push(self, task: Task, due: float, earliest: float) -> None:
        heapq.heappush(self._queue, (due, next(self._count), earliest, task))

    def _tasks(self) -> Iterator[Task]:
        return (entry[3] for entry in self._queue)


class OnePrice(RoundRobin):
    """The daemon's policy: one poll price for all tasks; a spare request goes to the task that is due first."""

    def __init__(self) -> None:
        super().__init__()
        self._priced_at = -math.inf
        self._price = poll_interval.MIN_POLL_PRICE

    def put(self, task: Task, now: float) -> None:
        interval = poll_interval.interval(task.model, now - task.created, self._price)
        self._push(task, now + interval, now + max(poll_interval.MIN_INTERVAL, interval / 4))

    def pop(self, now: float) -> Task | None:
        if now >= self._priced_at + SNAPSHOT:
            self._priced_at = now
            hazards = (poll_interval.hazard(task.model, now - task.created) for task in self._tasks())
            self._price = poll_interval.poll_price(hazards, REQUESTS)
        return super().pop(now)


class Best:
    """Polls the task with the highest score; scoring every task at every request is affordable only in a simulation."""

    def __init__(self, score: Callable[[Task, float], float]) -> None:
        self._score = score
        self._tasks: list[Task] = []

    def put(self, task: Task, now: float) -> None:
        self._tasks.append(task)

    def pop(self, now: float) -> Task | None:
        allowed = [task for task in self._tasks if task.polled + poll_interval.MIN_INTERVAL <= now]
        if not allowed:
            return None
        best = max(allowed, key=lambda task: self._score(task, now))
        self._tasks.remove(best)
        return best


def end_probability(task: Task, now: float) -> float:
    """Return the probability that the task has ended since its last poll."""
    return 1 - poll_interval.unfinished(task.model, now - task.created) / poll_interval.unfinished(
        task.model, task.polled - task.created
    )


def waste(task: Task, now: float) -> float:
    """Return the expected delay that has accumulated since the last poll."""
    return poll_interval.expected_waste(task.model, task.polled - task.created, now - task.created)


POLICIES: Mapping[str, Callable[[], Policy]] = MappingProxyType(
    {
        "round robin": RoundRobin,
        "most likely ended first": lambda: Best(end_probability),
        "largest expected waste": lambda: Best(waste),
        "one price, work-conserving": OnePrice,
    }
)


def fleet(rate: float, seconds: float, seed: int) -> list[Task]:
    """Return the tasks created in these seconds at `rate` a second, in the order of their creation."""
    rng = random.Random(seed)
    shares = [share for share, _ in MIX]
    tasks: list[Task] = []
    created = rng.expovariate(rate)
    while created < seconds:
        model = rng.choices([model for _, model in MIX], shares)[0]
        duration = rng.lognormvariate(model.mu, model.sigma) if model else math.inf
        tasks.append(Task(model or MIX[2][1] or poll_interval.PRIORS[None], created, created + duration, created))
        created += rng.expovariate(rate)
    return tasks


def simulate(policy: Policy, tasks: list[Task], *, seconds: float, warm: float) -> Delays:
    """Return the delays of the tasks that ended after `warm` and were seen before `seconds`.

    A request goes out every 1/REQUESTS seconds, and is lost if no task may be polled.
    """
    delays: list[float] = []
    remaining = iter(tasks)
    upcoming = next(remaining, None)
    for slot in range(int(seconds * REQUESTS)):
        now = slot / REQUESTS
        while upcoming is not None and upcoming.created <= now:
            policy.put(upcoming, now)
            upcoming = next(remaining, None)
        task = policy.pop(now)
        if task is None:
            continue
        task.polled = now
        if task.ends > now:
            policy.put(task, now)
        elif task.ends >= warm:
            delays.append(now - task.ends)
    return Delays(sum(delays) / len(delays), sorted(delays)[int(len(delays) * 0.95)], len(delays))


def table(rates: tuple[float, ...] = (1.0, 2.0, 3.5), *, seconds: float = 1800.0) -> list[str]:
    """Return the lines of a Markdown table: mean and p95 delay of every policy at every rate of new tasks."""
    lines = ["| new tasks a second | " + " | ".join(POLICIES) + " |", "|---|" + "---|" * len(POLICIES)]
    for rate in rates:
        cells = []
        for policy in POLICIES.values():
            tasks = fleet(rate, seconds, seed=1)
            delays = simulate(policy(), tasks, seconds=seconds, warm=seconds / 3)
            cells.append(f"{delays.mean:.1f}, {delays.p95:.0f}")
        lines.append(f"| {rate} | " + " | ".join(cells) + " |")
    return lines
