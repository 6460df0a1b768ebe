"""What a task is and how it lives: pure values and timelines, told the time and never reading it.

The words of a life: a state KIE knows (waiting, queuing, generating), or `unknown` while KIE denies the task, or `null`
while it answers with empty data. The end is `success` or `fail`. Called by `world.py`, `web.py` and the twins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from reconciler.simulator.faults import Fault
from reconciler.simulator.media.files import MediaSpec

UNKNOWN = "unknown"
NULL = "null"
Wrap = Callable[[Sequence[str]], object]
PENDING = frozenset({UNKNOWN, NULL, "waiting", "queuing", "generating"})
ENDS = frozenset({"success", "fail"})


@dataclass(frozen=True, slots=True)
class TaskLife:
    """Steps of (state, seconds of KIE's time) and the end they lead to; a step of infinite length never ends."""

    steps: tuple[tuple[str, float], ...] = ()
    end: str = "success"

    def __post_init__(self) -> None:
        wrong = [state for state, _ in self.steps if state not in PENDING]
        if wrong or self.end not in ENDS:
            raise ValueError(f"no such states: {wrong or self.end}")

    @property
    def seconds(self) -> float:
        """How long it takes, infinite for a task that never ends."""
        return sum(seconds for _, seconds in self.steps)

    def state(self, age: float) -> str:
        """The state at this age in seconds."""
        for state, seconds in self.steps:
            if age < seconds:
                return state
            age -= seconds
        return self.end


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task failed, in KIE's words."""

    code: str = "500"
    message: str = "Internal server error"


class TaskSpec(TypedDict, total=False):
    """What may be said about a new task; whatever is left out has an ordinary value.

    `life` is a number of seconds in `waiting`, or steps; `math.inf` never ends. `key` None lets every key see the task.
    `wrap` turns the results' addresses into what is written into resultJson. `variant` picks another shape that a
    family is known to answer in: gpt4o "snake", luma "undelivered", veo "empty".
    """

    model: str
    family: str
    life: float | Sequence[tuple[str, float]]
    fate: str
    failure: Failure
    results: Sequence[MediaSpec]
    key: str | None
    task_id: str
    param: str
    request: dict[str, object]
    callback_url: str | None
    faults: Sequence[Fault]
    wrap: Wrap | None
    variant: str


@dataclass(slots=True)
class SimulatedTask:
    """One task, what was asked about it, and the answers already made for it."""

    id: str
    family: str
    model: str
    life: TaskLife
    born: float
    results: tuple[MediaSpec, ...] = ()
    failure: Failure = Failure()
    key: str | None = None
    param: str = ""
    callback_url: str | None = None
    paths: tuple[str, ...] = ()
    faults: list[Fault] = field(default_factory=list)
    polls: int = 0
    polled_at: list[float] = field(default_factory=list)
    downloads: list[int] = field(default_factory=list)
    completed: list[int] = field(default_factory=list)
    callbacks: int = 0
    call_answers: list[int] = field(default_factory=list)
    called: set[str] = field(default_factory=set)
    struck: dict[str, tuple[int, int]] = field(default_factory=dict)
    answers: dict[object, tuple[bytes, bytes]] = field(default_factory=dict)
    wrap: Wrap | None = None
    variant: str = ""
    covers: tuple[MediaSpec, ...] = ()

    @property
    def files(self) -> tuple[MediaSpec, ...]:
        """Results, then the pictures that some families send along."""
        return self.results + self.covers

    @property
    def ends(self) -> float:
        """KIE's time at which it ends, infinite where it never does."""
        return self.born + self.life.seconds

    def state(self, now: float) -> str:
        """Its state at this moment of KIE's time."""
        return self.life.state(now - self.born)


def life_of(life: float | Sequence[tuple[str, float]], end: str) -> TaskLife:
    """A life from what an `TaskSpec` says about it."""
    if isinstance(life, (int, float)):
        return TaskLife((("waiting", float(life)),) if life else (), end)
    return TaskLife(tuple((state, float(seconds)) for state, seconds in life), end)


def never(state: str = "waiting") -> tuple[tuple[str, float], ...]:
    """The steps of a task that stays in one state for ever."""
    return ((state, math.inf),)
