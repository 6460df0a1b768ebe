"""Simulated tasks and their lives: values that get the time as an argument.

The steps of a life are states of KIE (waiting, queuing, generating), `unknown` while KIE does not know the task, or
`null` while it answers without data. A life ends with `success` or `fail`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from reconciler.simulator.answers import LiteralAnswer, LiteralAnswers
from reconciler.simulator.faults import Fault
from reconciler.simulator.media.files import MediaSpec

UNKNOWN = "unknown"
NULL = "null"
Wrap = Callable[[Sequence[str]], object]
PENDING = frozenset({UNKNOWN, NULL, "waiting", "queuing", "generating"})
FINAL_STATES = frozenset({"success", "fail"})


@dataclass(frozen=True, slots=True)
class TaskLife:
    """Steps of (state, simulated seconds) and the final state; a step of infinite length never ends."""

    steps: tuple[tuple[str, float], ...] = ()
    end: str = "success"

    def __post_init__(self) -> None:
        invalid = [state for state, _ in self.steps if state not in PENDING]
        if invalid or self.end not in FINAL_STATES:
            raise ValueError(f"no such states: {invalid or self.end}")

    @property
    def seconds(self) -> float:
        """The seconds of the whole life, infinite for a task that never ends."""
        return sum(seconds for _, seconds in self.steps)

    def state(self, age: float) -> str:
        """Return the state at this age in seconds."""
        for state, seconds in self.steps:
            if age < seconds:
                return state
            age -= seconds
        return self.end


@dataclass(frozen=True, slots=True)
class Failure:
    """The code and message of a failed task."""

    code: str = "500"
    message: str = "Internal server error"


class TaskSpec(TypedDict, total=False):
    """The description of a new task; every missing field has a default.

    `life` is a number of seconds in `waiting`, or steps; `math.inf` never ends. With `key` None every key sees the
    task. `wrap` builds resultJson from the addresses of the results. `variant` selects another known form of a
    dialect's records: gpt4o "snake" and "processing", luma and suno "undelivered", suno_stems "advanced", veo "empty"
    and "4k".

    `covers` are files beside the results: posters, last frames, the 1080p films of Veo. `hd_after` are the simulated
    seconds from the end of a Veo task until its 1080p film is ready. `answers` replace the record of the task, see
    `answers.py`. Faults of the stages `late` and `place` change what the record shows, see `faults.py`.
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
    covers: Sequence[MediaSpec]
    hd_after: float
    answers: Sequence[LiteralAnswer]


@dataclass(slots=True)
class SimulatedTask:
    """One task, the requests about it, and its cached answers."""

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
    hd_after: float = 0.0
    literal: LiteralAnswers | None = None

    @property
    def files(self) -> tuple[MediaSpec, ...]:
        """The results, then the additional images of some dialects."""
        return self.results + self.covers

    @property
    def ends(self) -> float:
        """The simulated time at which it ends, infinite if it never ends."""
        return self.born + self.life.seconds

    def state(self, now: float) -> str:
        """Return its state at this simulated time."""
        return self.life.state(now - self.born)


def task_life(life: float | Sequence[tuple[str, float]], end: str) -> TaskLife:
    """Return the life that a `TaskSpec` describes."""
    if isinstance(life, (int, float)):
        return TaskLife((("waiting", float(life)),) if life else (), end)
    return TaskLife(tuple((state, float(seconds)) for state, seconds in life), end)


def never(state: str = "waiting") -> tuple[tuple[str, float], ...]:
    """Return the steps of a task that stays in one state forever."""
    return ((state, math.inf),)
