"""The world of the model: what the application, KIE, storage and time may do, in any order.

The instances and what must hold are in `machine.py`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Mapping
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from reconciler.domain.model import Trigger
from reconciler.simulator import never
from reconciler.simulator.tasks import SimulatedTask
from testkit.standins.storage import Fault as Spoilt
from tests.model.answers import FORMS, LIMIT, Answer, answer, results_of
from tests.model.calls import media
from tests.model.fate import Fate, Manner
from tests.model.stage import Stage, insert
from tests.model.watch import Watch

T = TypeVar("T")

MOST = 3
"""Rows in one example: what goes wrong between rows needs two."""

DAYS = 9 * 86_400.0
"""So much time passes at most: after 14 days nothing is left to fetch."""

RECORD = (
    "http_401", "http_404", "http_429", "http_500", "body_401", "body_402", "body_422", "body_429", "body_455",
    "body_500", "frequency", "html_502", "truncated", "null", "unknown_state", "bare_list", "reset", "hang",
)  # fmt: skip
FILE = ("403", "404", "500", "empty", "short", "wrong_length", "html", "reset", "redirect", "loop")
STORAGE = (
    Spoilt("html", status=503), Spoilt("error", status=500), Spoilt("limited", seconds=1), Spoilt("garbage"),
    Spoilt("lost"), Spoilt("cut", after=500),
)  # fmt: skip

UPDATES = (
    "status = 'cancelled'", "status = 'queued'", "status = 'failed', error = 'by hand'",
    "status = 'success', asset_url = NULL", "status = 'archived'", "preview_url = 'https://example.com/p.png'",
)  # fmt: skip

WHICH = st.integers(0, MOST - 1)
REPLICA = st.integers(0, 1)
AT = st.integers(0, 11)
MANNER = st.sampled_from(Manner)
STATE = st.sampled_from(["waiting", "generating", "unknown", "null"])
COUNT = st.integers(1, 3)
FATES = st.sampled_from([None, "success", "success", "fail"])
FORM = st.sampled_from(["whole"] * 6 + list(FORMS))
CHANGES = ("gives all", "gives all", "blanks one", "leaves one out", "turns round", "adds words")
MORE_THAN_ALLOWED = LIMIT + 2
TRIGGER = st.sampled_from([Trigger.SYNC, Trigger.NOTIFY, Trigger.CALLBACK, Trigger.BACKFILL])


class World(RuleBasedStateMachine):
    """One world; `stage` and `runner` are set by the test that owns them."""

    stage: ClassVar[Stage]
    runner: ClassVar[asyncio.Runner]

    def __init__(self) -> None:
        super().__init__()
        self.do(self.stage.empty())
        self.watch = Watch(self.stage)
        self.rows: list[str] = []
        self.passed = 0.0
        self.lies = 0

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def everything_holds(self) -> None:
        """Hold everything to everything, also within a rule of several steps."""
        self.do(self.watch.look())

    # What there is.

    def row(self, which: int) -> str:
        return self.rows[which % len(self.rows)]

    def generation(self, row: str) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self.watch.last.get("generations", {}).get(row)
        return found

    def task(self, row: str) -> str | None:
        generation = self.generation(row)
        return (generation and generation["task_id"]) or None

    def replica(self, which: int) -> int:
        """An instance that is awake."""
        free = [n for n in range(3) if self.stage.asleep is None or self.stage.asleep.replica != n]
        return free[which]

    def fate(self, at: int, manner: Manner) -> Fate:
        if manner is Manner.FREEZES and self.stage.asleep is not None:
            return Fate()
        return Fate(at, manner)

    def asked(self, which: int) -> SimulatedTask | None:
        """The task of a row, None where it has none that KIE knows."""
        return self.stage.kie.tasks.get(self.task(self.row(which)) or "")

    async def made(self, state: str = "waiting", count: int = 1, form: str = "whole") -> str:
        """A task at KIE that another application has ordered."""
        results = media(results_of(form, count))
        return self.stage.kie.add_task(life=never(state), results=results, wrap=answer(form, count))

    # The application.

    @initialize(state=STATE, count=COUNT, form=FORM)
    def begins(self, state: str, count: int, form: str) -> None:
        self.inserts(state, count, "queued", form=form)

    @precondition(lambda self: len(self.rows) < MOST)
    @rule(
        state=STATE | st.none(),
        count=COUNT,
        status=st.sampled_from(["queued", "queued", "generating", "pending", "success"]),
        age=st.sampled_from([0, 0, 90_000]),
        form=FORM,
    )
    def inserts(self, state: str | None, count: int, status: str, age: int = 0, form: str = "whole") -> None:
        """A row of a task, or without one yet; with `success` one that ended elsewhere without storing anything."""

        async def act() -> None:
            task = await self.made(state, count, form) if state else None
            self.rows.append(
                await insert(self.stage.rig.pool, task_id=task, status=status if task else "queued", age=age)
            )

        self.do(act())

    @precondition(lambda self: self.rows)
    @rule(which=WHICH, what=st.sampled_from([*UPDATES, "another task", "the provider's address", "gone"]), count=COUNT)
    def application_writes(self, which: int, what: str, count: int) -> None:
        row, task = self.row(which), self.stage.kie.tasks.get(self.task(self.row(which)) or "")
        match what:
            case "another task":
                self.writes(row, "task_id = $2, status = 'generating'", self.do(self.made("waiting", count)))
            case "the provider's address":
                if task is not None and task.results:
                    self.writes(row, "status = 'success', asset_url = $2", self.stage.kie.addresses(task)[0])
            case "gone":
                self.rows.remove(row)
                self.do(self.stage.rig.pool.execute("DELETE FROM public.generations WHERE id = $1", row))
            case _:
                self.writes(row, what)

    def writes(self, row: str, what: str, *args: object) -> None:
        # What was done before counts for the row as it was then.
        self.everything_holds()
        before = self.generation(row)
        self.do(self.stage.rig.pool.execute(f"UPDATE public.generations SET {what} WHERE id = $1", row, *args))
        self.everything_holds()
        after = self.generation(row)
        if before and after and (before["status"], before["task_id"]) != (after["status"], after["task_id"]):
            self.watch.touched(row)

    # KIE.

    @precondition(lambda self: self.rows)
    @rule(which=WHICH, fate=st.sampled_from(["success", "success", "fail"]))
    def ends(self, which: int, fate: str) -> None:
        """The task ends; where it had failed, KIE may take that back."""
        task = self.stage.kie.tasks.get(self.task(self.row(which)) or "")
        if task is not None and not (task.life.end == "success" and task.life.seconds < math.inf):
            self.stage.kie.end(task.id, fate)
            if fate == "fail":
                self.watch.refused.add(task.id)

    @precondition(lambda self: self.rows)
    @rule(which=WHICH, more=st.integers(1, 2))
    def tells_of_more_results(self, which: int, more: int) -> None:
        task = self.stage.kie.tasks.get(self.task(self.row(which)) or "")
        if task is None or not isinstance(task.wrap, Answer):
            return
        if len(task.results) + more <= MORE_THAN_ALLOWED and task.wrap.may_change:
            task.wrap.changed = True
            task.results = tuple(media(len(task.results) + more))
            task.answers.clear()
            self.stage.kie._assign_paths(task)

    @precondition(lambda self: self.rows)
    @rule(which=WHICH, how=st.sampled_from(CHANGES), n=st.integers(0, 2))
    def answers_otherwise(self, which: int, how: str, n: int) -> None:
        if (task := self.asked(which)) is not None:
            self.changes(task, how, n)

    def changes(self, task: SimulatedTask, how: str, n: int) -> None:
        """From now on KIE lists the results of a task in another way."""
        said = task.wrap
        assert isinstance(said, Answer)
        task.answers.clear()
        match how:
            case "gives all":
                said.fill()
            case "blanks one" if task.results and said.may_change:
                said.blank.add(n % len(task.results))
                said.changed = True
            case "leaves one out" if said.may_move:
                said.left_out.add(n)
            case "turns round" if said.may_move:
                said.backwards = not said.backwards
            case "adds words":
                said.words = True

    def takes(self, task: SimulatedTask, form: str) -> None:
        """A task that has not ended will answer in this form."""
        if task.life.seconds == math.inf:
            count = max(len(task.results), 1)
            task.results, task.wrap = tuple(media(results_of(form, count))), answer(form, count)
            task.answers.clear()
            self.stage.kie._assign_paths(task)

    @precondition(lambda self: self.rows)
    @rule(
        which=WHICH,
        name=st.sampled_from(
            [
                *(f"record.{what}" for what in RECORD),
                *(f"file.{what}" for what in FILE),
                *("result.invalid_json", "result.object", "result.empty", "link.body_422", "link.html_502"),
            ]
        ),
        times=st.sampled_from([1, 1, 2, 6]),
        n=st.none() | st.integers(0, 1),
    )
    def errs(self, which: int, name: str, times: int, n: int | None) -> None:
        task = self.task(self.row(which))
        if task in self.stage.kie.tasks:
            self.stage.kie.strike(name, task=task, times=times, n=n if name.startswith("file") else None)

    # Storage and time.

    @rule(operation=st.sampled_from(["put", "info", "read", "bucket"]), fault=st.sampled_from(STORAGE))
    def storage_errs(self, operation: str, fault: Spoilt) -> None:
        self.stage.storage.faults.add(operation, fault)

    @precondition(lambda self: self.passed < DAYS)
    @rule(seconds=st.sampled_from([3, 40, 1200, 7200, 90_000, 90_000, 1, -1]))
    def time_passes(self, seconds: int) -> None:
        """By one second it is the database's clock that jumps, by an hour, for whoever holds a lease."""
        if abs(seconds) == 1:
            sql = f"UPDATE reconciler.work SET lease_until = lease_until + interval '{seconds} hours'"
            self.do(self.stage.rig.pool.execute(sql))
            return
        self.passed += seconds
        self.do(self.stage.passes(seconds))
