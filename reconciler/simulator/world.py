"""Everything this KIE knows: tasks, files, links, counters, faults in wait. No HTTP here.

The part of the simulator that a test or a benchmark talks to in its own process. Extended by `simulator.py`; read by
`web.py`, `files.py` and `callbacks.py`.
"""

from __future__ import annotations

import json
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Unpack
from uuid import UUID

from reconciler.simulator import faults
from reconciler.simulator.clock import Clock
from reconciler.simulator.faults import Fault
from reconciler.simulator.media.files import MediaSpec
from reconciler.simulator.options import Options
from reconciler.simulator.records.dialects import FAMILIES
from reconciler.simulator.result_paths import path_of
from reconciler.simulator.task_plans import ordinary
from reconciler.simulator.tasks import SimulatedTask, TaskLife, TaskSpec, life_of

COVER = MediaSpec(kind="image", ext="jpg", size=20_000)
COVERS = {"suno_stems": 1, "runway": 1, "aleph": 1, "flux_kontext": 1}


@dataclass(slots=True)
class RequestCounts:
    """What was asked of this KIE so far; `faults` counts by name what went wrong."""

    creates: int = 0
    records: int = 0
    limited: int = 0
    refused: int = 0
    links: int = 0
    credits: int = 0
    downloads: int = 0
    sent_bytes: int = 0
    callbacks: int = 0
    acknowledged: int = 0
    faults: Counter[str] = field(default_factory=Counter)


@dataclass(kw_only=True)
class World(Options):
    """The state of one simulated KIE."""

    tasks: dict[str, SimulatedTask] = field(default_factory=dict)
    counts: RequestCounts = field(default_factory=RequestCounts)
    origin: str = "http://127.0.0.1"
    links: dict[str, float] = field(default_factory=dict)
    """Signatures of minted links and when, in KIE's time, each dies."""
    orders: deque[TaskSpec] = field(default_factory=deque)
    """What becomes of the next tasks that are made over HTTP; afterwards they are drawn."""

    usual: dict[str, TaskSpec] = field(default_factory=dict)
    """What becomes of tasks of a model, where it is not to be drawn."""

    def __post_init__(self) -> None:
        self.clock = Clock(self.speed)
        self._files: dict[str, tuple[SimulatedTask, int]] = {}
        self._ordered: list[Fault] = []
        self._listeners: list[Callable[[SimulatedTask], None]] = []

    def add_task(self, **order: Unpack[TaskSpec]) -> str:
        """Make a task without HTTP and return its id; without an order it has already brought a small picture."""
        family = order.get("family", "market")
        model = order.get("model") or FAMILIES[family].model or "nano-banana-2"
        task = SimulatedTask(
            id=order.get("task_id") or self._new_id(family),
            family=family,
            model=model,
            life=life_of(order.get("life", 0.0), order.get("fate", "success")),
            born=self.clock.now(),
            results=tuple(order.get("results", ordinary(family, model))),
        )
        if order.get("task_id") in self.tasks:
            raise ValueError(f"there is a task {order['task_id']!r} already")
        for name in ("failure", "key", "callback_url", "wrap", "variant"):
            if name in order:
                setattr(task, name, order[name])
        task.param = order.get("param") or _param(task, order.get("request", {"prompt": "a picture"}))
        task.faults = list(order.get("faults", ()))
        self._enter(task)
        return task.id

    def _enter(self, task: SimulatedTask) -> None:
        self.tasks[task.id] = task
        self._lay_out(task)
        for tell in self._listeners:
            tell(task)

    def _lay_out(self, task: SimulatedTask) -> None:
        """Give every file of a task its path."""
        task.covers = (COVER,) * (len(task.results) if task.family == "suno" else COVERS.get(task.family, 0))
        ends = task.ends if task.ends < math.inf else task.born
        second = int(self.clock.epoch(ends))
        task.paths = tuple(path_of(task.id, task.model, n, second, media) for n, media in enumerate(task.files))
        task.downloads = [0] * len(task.paths)
        task.completed = [0] * len(task.paths)
        self._files.update((path, (task, n)) for n, path in enumerate(task.paths))

    def _new_id(self, family: str) -> str:
        digest = f"{int(faults.draw(self.seed, 'id', len(self.tasks)) * 2**56):014x}"
        digest += f"{int(faults.draw(self.seed, 'more', len(self.tasks)) * 2**56):014x}" + f"{len(self.tasks):04x}"
        if family == "veo":
            return f"veo_task_{digest}"
        return str(UUID(digest[-32:])) if family == "runway" else digest[-32:]

    def end(self, task_id: str, fate: str = "success", results: Sequence[MediaSpec] | None = None) -> None:
        """Let a task end now, whatever its life was to be."""
        task = self.tasks[task_id]
        task.life = TaskLife((("waiting", self.clock.now() - task.born),), fate)
        task.answers.clear()
        if results is not None:
            task.results = tuple(results)
            self._lay_out(task)
        for tell in self._listeners:
            tell(task)

    def skip(self, seconds: float) -> None:
        """Let so many of KIE's seconds pass at once, for lives, links and files alike."""
        self.clock.skip(seconds)
        for task in self.tasks.values():
            task.answers.clear()
            for tell in self._listeners:
                tell(task)

    def on_change(self, tell: Callable[[SimulatedTask], None]) -> None:
        """Call `tell` with every task that is new or whose end has moved."""
        self._listeners.append(tell)

    def addresses(self, task: SimulatedTask) -> list[str]:
        """Where the files of a task lie, covers last."""
        return [self.origin + path for path in task.paths]

    def file_at(self, path: str) -> tuple[SimulatedTask, int] | None:
        """The task and the number of the file at this path, None where there is none (any more, or yet)."""
        found = self._files.get(path)
        if found is None:
            return None
        age = self.clock.now() - found[0].ends
        return found if 0 <= age < self.media_lasts else None

    def known(self, path: str) -> SimulatedTask | None:
        """The task that a path belongs to, whether or not the file is there now."""
        found = self._files.get(path)
        return None if found is None else found[0]

    def file(self, task_id: str, n: int = 0) -> MediaSpec:
        """The file that result `n` of a task is."""
        return self.tasks[task_id].files[n]

    def sha256(self, task_id: str, n: int = 0) -> str:
        """The SHA-256 that result `n` must have wherever it arrives."""
        return self.file(task_id, n).sha256(task_id, n)

    def strike(self, name: str, *, task: str | None = None, times: float = 1, n: int | None = None) -> None:
        """Order a fault: for one task, or for whoever asks next; `math.inf` until `calm`."""
        fault = Fault(name, times, n)
        (self._ordered if task is None else self.tasks[task].faults).append(fault)

    def calm(self, share: float = 0.0) -> None:
        """End every ordered fault; from now on this share of requests goes wrong at random."""
        self._ordered.clear()
        for task in self.tasks.values():
            task.faults.clear()
        self.faults = share

    def fault(self, stage: str, task: SimulatedTask | None = None, n: int | None = None) -> str | None:
        """The fault that strikes this request, counted and used up."""
        what = faults.take(task.faults, stage, n) if task and task.faults else None
        if what is None and self._ordered:
            what = faults.take(self._ordered, stage, n)
        if what is None and self.faults and task:
            what = self._by_chance(stage, task, n)
        if what is not None:
            self.counts.faults[f"{stage}.{what}"] += 1
        return what

    def _by_chance(self, stage: str, task: SimulatedTask, n: int | None) -> str | None:
        place = f"{stage}/{n}"
        struck, asked = task.struck.get(place, (0, 0))
        if struck >= self.fault_times:
            return None
        what = faults.at_random(stage, self.faults, self.seed, task.id, place, asked)
        task.struck[place] = (struck + (what is not None), asked + 1)
        return what


def _param(task: SimulatedTask, request: Mapping[str, object]) -> str:
    """What KIE echoes of a request: for the market its input is JSON inside JSON inside JSON."""
    if task.family != "market":
        return json.dumps(request, separators=(",", ":"), ensure_ascii=False)
    text = json.dumps({**request, "nsfw_checker": False}, separators=(",", ":"), ensure_ascii=False)
    echo = {"callBackUrl": task.callback_url} if task.callback_url else {}
    return json.dumps({"input": text, **echo, "model": task.model}, separators=(",", ":"), ensure_ascii=False)
