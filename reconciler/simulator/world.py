"""The state of the simulator: tasks, files, links, counters, ordered faults. No HTTP here.

Tests and benchmarks use it directly in their own process. Extended by `simulator.py`; read by
`api/api.py`, `api/file_host.py` and `api/callbacks.py`.
"""

from __future__ import annotations

import json
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Unpack
from uuid import UUID

from reconciler.simulator import faults
from reconciler.simulator.answers import LiteralAnswer, LiteralAnswers
from reconciler.simulator.clock import Clock
from reconciler.simulator.faults import Fault
from reconciler.simulator.media.files import MediaSpec
from reconciler.simulator.options import Options
from reconciler.simulator.records.dialects import DIALECTS
from reconciler.simulator.result_paths import result_path
from reconciler.simulator.task_plans import default_results, default_wrap
from reconciler.simulator.tasks import SimulatedTask, TaskLife, TaskSpec, task_life

COVER_IMAGE = MediaSpec(kind="image", ext="jpg", size=20_000)
COVERS = {"suno_stems": 1, "runway": 1, "aleph": 1, "flux_kontext": 1}


@dataclass(slots=True)
class RequestCounts:
    """The number of requests so far; `faults` counts faults by name."""

    creates: int = 0
    records: int = 0
    limited: int = 0
    refused: int = 0
    links: int = 0
    credits: int = 0
    uploads: int = 0
    downloads: int = 0
    sent_bytes: int = 0
    callbacks: int = 0
    acknowledged: int = 0
    faults: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file that a client uploaded, and the simulated time at which it expires."""

    content: bytes
    mime: str
    expires: float


@dataclass(kw_only=True)
class World(Options):
    """The state of one simulator."""

    tasks: dict[str, SimulatedTask] = field(default_factory=dict)
    counts: RequestCounts = field(default_factory=RequestCounts)
    origin: str = "http://127.0.0.1"
    links: dict[str, float] = field(default_factory=dict)
    """The signatures of download-url links, and the simulated time at which each expires."""
    orders: deque[TaskSpec] = field(default_factory=deque)
    """The descriptions of the next tasks created over HTTP; later tasks are random."""

    usual: dict[str, TaskSpec] = field(default_factory=dict)
    """The description of all tasks of a model, instead of a random one."""

    uploads: dict[str, UploadedFile] = field(default_factory=dict)
    """The uploaded files by path, oldest first."""

    def __post_init__(self) -> None:
        self.clock = Clock(self.speed)
        self._files: dict[str, tuple[SimulatedTask, int]] = {}
        self._ordered: list[Fault] = []
        self._listeners: list[Callable[[SimulatedTask], None]] = []
        self._made = 0

    def add_task(self, **order: Unpack[TaskSpec]) -> str:
        """Create a task without HTTP and return its id; by default it has already succeeded with a small image."""
        family = order.get("family", "market")
        model = order.get("model") or DIALECTS[family].model or "nano-banana-2"
        task = SimulatedTask(
            id=order.get("task_id") or self.new_id(family),
            family=family,
            model=model,
            life=task_life(order.get("life", 0.0), order.get("fate", "success")),
            born=self.clock.now(),
            results=tuple(order.get("results", default_results(family, model))),
            wrap=default_wrap(family, model),
        )
        if order.get("task_id") in self.tasks:
            raise ValueError(f"there is a task {order['task_id']!r} already")
        for name in ("failure", "key", "callback_url", "wrap", "variant", "hd_after"):
            if name in order:
                setattr(task, name, order[name])
        task.covers = tuple(order.get("covers", default_covers(task)))
        if answers := order.get("answers"):
            task.literal = LiteralAnswers(answers, task.born)
        task.param = order.get("param") or _param(task, order.get("request", {"prompt": "a picture"}))
        task.faults = list(order.get("faults", ()))
        self._register(task)
        return task.id

    def _register(self, task: SimulatedTask) -> None:
        self.tasks[task.id] = task
        self._made += 1
        for fault in self._ordered:
            if fault.stage in faults.LASTING_STAGES and fault.times > 0:
                fault.times -= 1
                task.faults.append(replace(fault))
        if self.faults:
            self._draw_lasting_faults(task)
        self._assign_paths(task)
        for listener in self._listeners:
            listener(task)

    def _draw_lasting_faults(self, task: SimulatedTask) -> None:
        for fault in faults.random_lasting_faults(task.family, self.faults, self.seed, task.id):
            if faults.lasting_fault(task.faults, fault.stage) is None:
                task.faults.append(fault)
                self.counts.faults[fault.name] += 1

    def _assign_paths(self, task: SimulatedTask) -> None:
        """Assign a path to every file of a task."""
        ends = task.ends if task.ends < math.inf else task.born
        second = int(self.clock.epoch(ends))
        task.paths = tuple(result_path(task.id, task.model, n, second, media) for n, media in enumerate(task.files))
        task.downloads = [0] * len(task.paths)
        task.completed = [0] * len(task.paths)
        self._files.update((path, (task, n)) for n, path in enumerate(task.paths))

    def new_id(self, family: str) -> str:
        """Return the id that the next task of a dialect gets."""
        digest = f"{int(faults.random_number(self.seed, 'id', self._made) * 2**56):014x}"
        digest += f"{int(faults.random_number(self.seed, 'more', self._made) * 2**56):014x}{self._made:04x}"
        if family == "veo":
            return f"veo_task_{digest}"
        return str(UUID(digest[-32:])) if family == "runway" else digest[-32:]

    def end(self, task_id: str, fate: str = "success", results: Sequence[MediaSpec] | None = None) -> None:
        """End a task now, before the end of its life."""
        task = self.tasks[task_id]
        task.life = TaskLife((("waiting", self.clock.now() - task.born),), fate)
        task.answers.clear()
        if results is not None:
            task.results = tuple(results)
            task.covers = default_covers(task)
            self._assign_paths(task)
        for listener in self._listeners:
            listener(task)

    def forget(self, task_id: str) -> None:
        """Know a task and its files no more."""
        task = self.tasks.pop(task_id)
        for path in task.paths:
            self._files.pop(path, None)

    def answer_with(self, task_id: str, *answers: LiteralAnswer) -> None:
        """Let the record page give these answers about a task from now on, see `answers.py`."""
        self.tasks[task_id].literal = LiteralAnswers(answers, self.clock.now())

    def shown(self, task: SimulatedTask) -> tuple[str, ...]:
        """Return the addresses that a record shows now, "" for a result that has not arrived yet."""
        addresses = self.addresses(task)[: len(task.results)]
        fault = faults.lasting_fault(task.faults, "late")
        age = max(self.clock.now() - task.ends, 0.0)
        if fault is None or age >= fault.seconds or not addresses:
            return tuple(addresses)
        match fault.what:
            case "hole":
                return (*addresses[:-1], "")
            case "growing":
                return tuple(addresses[: 1 + int((len(addresses) - 1) * age / fault.seconds)])
            case _:
                return ()

    def skip(self, seconds: float) -> None:
        """Move the time forward by this many simulated seconds."""
        self.clock.skip(seconds)
        for task in self.tasks.values():
            task.answers.clear()
            for listener in self._listeners:
                listener(task)

    def on_change(self, listener: Callable[[SimulatedTask], None]) -> None:
        """Call `listener` with every task that is new or whose end has changed."""
        self._listeners.append(listener)

    def addresses(self, task: SimulatedTask) -> list[str]:
        """Return the addresses of the files of a task, additional images last."""
        return [self.origin + path for path in task.paths]

    def file_at(self, path: str) -> tuple[SimulatedTask, int] | None:
        """Return the task and the number of the file at this path, None if there is none at present."""
        found = self._files.get(path)
        if found is None:
            return None
        age = self.clock.now() - found[0].ends
        return found if 0 <= age < self.media_lasts else None

    def known(self, path: str) -> SimulatedTask | None:
        """Return the task that a path belongs to, even if the file does not exist now."""
        found = self._files.get(path)
        return None if found is None else found[0]

    def file(self, task_id: str, n: int = 0) -> MediaSpec:
        """Return the file of result `n` of a task."""
        return self.tasks[task_id].files[n]

    def sha256(self, task_id: str, n: int = 0) -> str:
        """Return the SHA-256 of result `n` of a task."""
        return self.file(task_id, n).sha256(task_id, n)

    def strike(
        self, name: str, *, task: str | None = None, times: float = 1, n: int | None = None, seconds: float = 60.0
    ) -> None:
        """Order a fault for one task, or for the next request; `math.inf` times lasts until `calm`."""
        fault = Fault(name, times, n, seconds)
        (self._ordered if task is None else self.tasks[task].faults).append(fault)

    def calm(self, share: float = 0.0) -> None:
        """Remove every ordered fault; from now on this share of requests fails at random."""
        self._ordered.clear()
        for task in self.tasks.values():
            task.faults.clear()
        self.faults = share

    def fault(self, stage: str, task: SimulatedTask | None = None, n: int | None = None) -> str | None:
        """Return the fault for this request and count it; None if there is none."""
        what = faults.next_fault(task.faults, stage, n) if task and task.faults else None
        if what is None and self._ordered:
            what = faults.next_fault(self._ordered, stage, n)
        if what is None and self.faults and task:
            what = self._by_chance(stage, task, n)
        if what is not None:
            self.counts.faults[f"{stage}.{what}"] += 1
        return what

    def _by_chance(self, stage: str, task: SimulatedTask, n: int | None) -> str | None:
        place = f"{stage}/{n}"
        struck, requests = task.struck.get(place, (0, 0))
        if struck >= self.fault_times:
            return None
        what = faults.random_fault(stage, self.faults, self.seed, task.id, place, requests)
        task.struck[place] = (struck + (what is not None), requests + 1)
        return what


def default_covers(task: SimulatedTask) -> tuple[MediaSpec, ...]:
    """Return the pictures that come with the results of a task."""
    return (COVER_IMAGE,) * (len(task.results) if task.family == "suno" else COVERS.get(task.family, 0))


def _param(task: SimulatedTask, request: Mapping[str, object]) -> str:
    """Return the request as KIE repeats it in records; for the market its input is JSON in JSON in JSON."""
    if task.family != "market":
        return json.dumps(request, separators=(",", ":"), ensure_ascii=False)
    text = json.dumps({**request, "nsfw_checker": False}, separators=(",", ":"), ensure_ascii=False)
    echo = {"callBackUrl": task.callback_url} if task.callback_url else {}
    return json.dumps({"input": text, **echo, "model": task.model}, separators=(",", ":"), ensure_ascii=False)
