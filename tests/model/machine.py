"""The machine: what may happen to generations, in any order, and that a world which turns good ends them all.

Rules act as the application, KIE, storage, time, an operator, or let an instance do one step; most steps may be struck
at any of their effects (`fate.py`). What must hold is in `watch.py`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Mapping
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reconciler.bench.simulator import Fault, never
from reconciler.bench.simulator.calls import body_of
from reconciler.core.model import OPEN, Trigger
from reconciler.edges.creations import Asker, Order
from tests.engine.rig import USER
from tests.model.calls import KINDS, media, said, scene
from tests.model.fate import Fate, Manner
from tests.model.stage import Stage, insert
from tests.model.watch import Watch, named_by
from tests.standins.storage import Fault as Spoilt

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
AT = st.integers(0, 14)
MANNER = st.sampled_from(Manner)
STATE = st.sampled_from(["waiting", "generating", "unknown", "null"])
COUNT = st.integers(1, 3)
TRIGGER = st.sampled_from([Trigger.SYNC, Trigger.NOTIFY, Trigger.CALLBACK, Trigger.BACKFILL])


class Model(RuleBasedStateMachine):
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

    async def made(self, state: str = "waiting", count: int = 1) -> str:
        """A task at KIE that somebody else has ordered."""
        task = self.stage.kie.add_task(life=never(state), results=media(count))
        self.watch.counts[task].add(count)
        return task

    # The application.

    @initialize(state=STATE, count=COUNT)
    def begins(self, state: str, count: int) -> None:
        self.inserts(state, count, "queued")

    @precondition(lambda self: len(self.rows) < MOST)
    @rule(
        state=STATE | st.none(),
        count=COUNT,
        status=st.sampled_from(["queued", "queued", "generating", "pending", "success"]),
        age=st.sampled_from([0, 0, 90_000]),
    )
    def inserts(self, state: str | None, count: int, status: str, age: int = 0) -> None:
        """A row of a task, or without one yet; with `success` one that ended elsewhere without storing anything."""

        async def act() -> None:
            task = await self.made(state, count) if state else None
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
                if task is not None:
                    self.writes(row, "status = 'success', asset_url = $2", self.stage.kie.addresses(task)[0])
            case "gone":
                self.rows.remove(row)
                self.do(self.stage.rig.pool.execute("DELETE FROM public.generations WHERE id = $1", row))
            case _:
                self.writes(row, what)

    def writes(self, row: str, what: str, *args: object) -> None:
        if "status" in what:
            self.watch.touched(row)
        self.do(self.stage.rig.pool.execute(f"UPDATE public.generations SET {what} WHERE id = $1", row, *args))

    # KIE.

    @precondition(lambda self: self.rows)
    @rule(which=WHICH, fate=st.sampled_from(["success", "success", "fail"]))
    def ends(self, which: int, fate: str) -> None:
        """The task ends; where it had failed, KIE may take that back."""
        task = self.stage.kie.tasks.get(self.task(self.row(which)) or "")
        if task is not None and not (task.life.end == "success" and task.life.seconds < math.inf):
            self.stage.kie.end(task.id, fate)

    @precondition(lambda self: self.rows)
    @rule(which=WHICH, more=st.integers(1, 2))
    def tells_of_more_results(self, which: int, more: int) -> None:
        task = self.stage.kie.tasks.get(self.task(self.row(which)) or "")
        if task is not None and len(task.results) + more <= 4:
            task.results = tuple(media(len(task.results) + more))
            task.answers.clear()
            self.stage.kie._lay_out(task)
            self.watch.counts[task.id].add(len(task.results))

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

    @precondition(lambda self: self.rows)
    @rule(
        which=WHICH,
        replica=REPLICA,
        kind=st.sampled_from(KINDS),
        at=AT,
        manner=MANNER,
        followed=st.booleans(),
    )
    def calls_back(self, which: int, replica: int, kind: str, at: int, manner: Manner, followed: bool) -> None:
        row = self.row(which)
        task = self.stage.kie.tasks.get(self.task(row) or "")
        if task is not None and (body := said(self.stage.kie, task, kind)) is not None:
            if kind == "forged":
                self.watch.forged.add(task.id)
            self.do(self.called(self.replica(replica), body, None, self.fate(at, manner), followed=followed))

    async def called(
        self, replica: int, body: Mapping[str, object], named: str | None, fate: Fate, *, followed: bool
    ) -> None:
        await self.stage.call(replica, body, named, fate)
        awake = self.stage.asleep is None or self.stage.asleep.replica != replica
        if awake and not fate.dead and followed:
            await self.stage.look(replica, Fate())
        if awake and not followed:
            # Whoever was woken died before it looked.
            self.stage.replicas[replica].work._wakes.clear()

    # Our own orders.

    @precondition(lambda self: len(self.rows) < MOST)
    @rule(
        replica=REPLICA,
        at=AT,
        manner=MANNER,
        fault=st.sampled_from([None, None, "lost", "reset", "html_502", "http_429", "body_402", "body_500"]),
        count=COUNT,
        key=st.sampled_from([None, "one key"]),
    )
    def orders(self, replica: int, at: int, manner: Manner, fault: str | None, count: int, key: str | None) -> None:
        kie = self.stage.kie
        # Whoever stands still may order later: this is also what becomes of that.
        lost = [Fault("callback.lost", math.inf)]
        kie.usual["nano-banana-2"] = {"life": never(), "results": media(count), "faults": lost}
        if fault:
            kie.strike(f"create.{fault}")

        async def act() -> None:
            before = kie.orders_heard
            self.watch.asked += 1
            order = Order("nano-banana-2", {"prompt": "a lighthouse"}, "image", user_id=USER)
            await self.stage.order(self.replica(replica), order, Asker("", key), self.fate(at, manner))
            await self.heard(before)

        self.do(act())
        kie._ordered.clear()

    async def heard(self, before: int) -> None:
        """One call of ours is one order at most; its row counts from now on."""
        kie = self.stage.kie
        assert kie.orders_heard - before <= 1, "ordered twice"
        self.watch.ordered = kie.orders_heard
        for task in kie.tasks.values():
            self.watch.counts[task.id].add(len(task.results))
        rows = await self.stage.rig.pool.fetch("SELECT id::text FROM public.generations ORDER BY id")
        self.rows += [row["id"] for row in rows if row["id"] not in self.rows]

    @precondition(lambda self: self.rows)
    @rule(which=WHICH, replica=REPLICA, at=AT, manner=MANNER, lie=st.booleans())
    def offers_its_task(self, which: int, replica: int, at: int, manner: Manner, lie: bool) -> None:
        """A callback names a row: truly, as KIE made the task for it, or falsely."""
        row, kie = self.row(which), self.stage.kie
        own = [task.id for task in kie.tasks.values() if named_by(task.callback_url) == row]
        if lie and self.lies < 2:
            self.lies += 1
            task = self.do(self.made())
        elif own:
            task = own[0]
        else:
            return
        body = body_of(scene(kie, kie.tasks[task], "success"))
        self.do(self.called(self.replica(replica), body, row, self.fate(at, manner), followed=True))

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

    # The instances.

    @precondition(lambda self: self.rows)
    @rule(which=WHICH, replica=REPLICA, trigger=TRIGGER, times=st.sampled_from([1, 1, 3, 4]))
    def visits(self, which: int, replica: int, trigger: Trigger, times: int) -> None:
        for _ in range(times):
            self.do(self.stage.once(self.replica(replica), self.row(which), trigger, Fate()))
            self.everything_holds()

    @precondition(lambda self: self.rows and self.stage.asleep is None)
    @rule(which=WHICH, at=AT, seconds=st.sampled_from([0, 40]), what=st.sampled_from([None, *UPDATES, "another task"]))
    def is_overtaken(self, which: int, at: int, seconds: int, what: str | None) -> None:
        """An instance stands still in a visit; time passes, the application writes, another one visits; it goes on."""
        row = self.row(which)
        self.do(self.stage.once(0, row, Trigger.SYNC, Fate(at, Manner.FREEZES)))
        if seconds:
            self.time_passes(seconds)
        if what:
            self.application_writes(which, what, 2)
        self.everything_holds()
        self.do(self.stage.once(1, row, Trigger.SYNC, Fate()))
        self.everything_holds()
        if self.stage.asleep is not None:
            self.do(self.woken(kill=False))

    @precondition(lambda self: self.rows)
    @rule(which=WHICH, replica=REPLICA, at=AT, manner=MANNER)
    def visits_and_is_struck(self, which: int, replica: int, at: int, manner: Manner) -> None:
        self.do(self.stage.once(self.replica(replica), self.row(which), Trigger.SYNC, self.fate(at, manner)))

    @precondition(lambda self: self.rows)
    @rule(replica=REPLICA)
    def sweeps(self, replica: int) -> None:
        self.do(self.stage.sweep(self.replica(replica), Fate()))

    @precondition(lambda self: self.rows)
    @rule(which=WHICH, replica=REPLICA, at=AT, manner=MANNER, notified=st.booleans())
    def looks_and_is_struck(self, which: int, replica: int, at: int, manner: Manner, notified: bool) -> None:
        if notified:
            self.stage.replicas[self.replica(replica)].work.wake(self.row(which))
        self.do(self.stage.look(self.replica(replica), self.fate(at, manner)))

    @precondition(lambda self: self.stage.asleep is not None)
    @rule(kill=st.sampled_from([False, False, True]))
    def wakes_up(self, kill: bool) -> None:
        """Whoever stood still goes on as if no time had passed, or is killed there."""
        self.do(self.woken(kill=kill))

    async def woken(self, *, kill: bool) -> None:
        before, lost = self.stage.kie.orders_heard, await self.stage.lost()
        await self.stage.wake(kill=kill)
        await self.heard(before)
        for row, work in lost.items():
            assert await self.stage.work(row) == work, f"{row} was written by who had lost its lease"

    @precondition(lambda self: self.rows)
    @rule(which=WHICH, replica=REPLICA)
    def retries(self, which: int, replica: int) -> None:
        if self.do(self.stage.retry(self.replica(replica), self.row(which), Fate())):
            self.watch.reopened.add(self.row(which))

    # What must hold.

    @invariant()
    def everything_holds(self) -> None:
        self.do(self.watch.look())

    def teardown(self) -> None:
        try:
            self.do(self.turns_good())
        finally:
            self.do(self.let_go())

    async def let_go(self) -> None:
        if self.stage.asleep is not None:
            await self.stage.wake(kill=True)

    async def turns_good(self) -> None:
        """Nothing errs any more, KIE ends every task, calls back again, and time passes: all ends that can."""
        kie = self.stage.kie
        if self.stage.asleep is not None:
            await self.woken(kill=False)
        kie.calm()
        self.stage.storage.faults.clear()
        for task in list(kie.tasks.values()):
            if task.life.seconds == math.inf:
                kie.end(task.id)
            if named := named_by(task.callback_url):
                await self.called(0, body_of(scene(kie, task, task.life.end)), named, Fate(), followed=False)
        for turn in range(8):
            await self.stage.passes(6 * 3600)
            await self.stage.sweep(turn % 3, Fate())
            await self.watch.look()
            if all(work["due_at"] is None for work in self.watch.last["work"].values()):
                break
        for row in self.watch.last["generations"]:
            # The sweep leaves to the backfill what shows the provider's address.
            await self.stage.once(0, row, Trigger.BACKFILL, Fate())
        await self.watch.look()
        for row, generation in self.watch.last["generations"].items():
            self.ended(row, generation)

    def ended(self, row: str, generation: Mapping[str, Any]) -> None:
        kie = self.stage.kie
        if generation["task_id"] is None:
            made = [task.id for task in kie.tasks.values() if named_by(task.callback_url) == row]
            assert not made or generation["status"] not in OPEN, f"KIE made {made} for {row}"
            return
        task = kie.tasks[generation["task_id"]]
        assert generation["status"] not in OPEN, f"{row} is still in flight: {self.watch.last['work'].get(row)}"
        if generation["status"] == "success" and task.life.end == "success":
            assert generation["asset_url"], f"{row} has no asset"
            assert not generation["asset_url"].startswith(kie.origin), f"{row} still shows the provider's address"
        gave_up = self.watch.ends[row][-1:] == ["gave_up"]
        assert not (gave_up and generation["status"] == "failed" and task.life.end == "success"), f"{row} came late"
