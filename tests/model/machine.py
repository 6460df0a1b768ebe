"""The machine: what instances do in that world, struck at any of their effects, and that a good one ends all.

Rules let an instance do one step (`stage.py`), most of them under some fate (`fate.py`), or several that belong
together. What must hold is in `watch.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from reconciler.domain.model import OPEN, Trigger
from reconciler.postgres.create_requests import Order, Requester
from reconciler.simulator import Fault, never
from reconciler.simulator.api.callback_bodies import callback_body
from reconciler.simulator.tasks import SimulatedTask
from tests.model.answers import FORMS, Answer, answer, results_of
from tests.model.calls import KINDS, media, said, scene
from tests.model.fate import Fate, Manner
from tests.model.stage import insert
from tests.model.watch import named_by
from tests.model.world import (
    AT,
    CHANGES,
    COUNT,
    DAYS,
    FATES,
    FORM,
    MANNER,
    MOST,
    REPLICA,
    TRIGGER,
    UPDATES,
    WHICH,
    World,
)
from tests.worker.rig import USER

CREATE = (None, None, "lost", "lost", "lost", "reset", "html_502", "http_429", "body_402", "body_500")
MEANWHILE = (None, None, None, None, *UPDATES, "another task")


class Model(World):
    """Everything that may happen."""

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
            # The instance that was woken died before it looked.
            self.stage.replicas[replica].worker._wakes.clear()

    # Our own orders.

    @precondition(lambda self: len(self.rows) < MOST)
    @rule(
        replica=REPLICA,
        at=AT,
        manner=MANNER,
        fault=st.sampled_from(
            [None, None, "lost", "lost", "lost", "reset", "html_502", "http_429", "body_402", "body_500"]
        ),
        count=COUNT,
        form=FORM,
        key=st.sampled_from([None, "one key"]),
    )
    def orders(
        self, replica: int, at: int, manner: Manner, fault: str | None, count: int, form: str, key: str | None
    ) -> None:
        kie = self.stage.kie
        # A frozen instance may order later: this checks the result of that too.
        lost = [Fault("callback.lost", math.inf)]
        kie.usual["nano-banana-2"] = {
            "life": never(), "results": media(results_of(form, count)), "faults": lost, "wrap": answer(form, count),
        }  # fmt: skip
        if fault:
            kie.strike(f"create.{fault}")

        async def act() -> None:
            before = kie.orders_heard
            self.watch.asked += 1
            order = Order("nano-banana-2", {"prompt": "a lighthouse"}, "image", user_id=USER)
            await self.stage.order(self.replica(replica), order, Requester("", key), self.fate(at, manner))
            await self.heard(before)

        self.do(act())
        kie._ordered.clear()

    async def heard(self, before: int) -> None:
        """One call of ours is one order at most; its row counts from now on."""
        kie = self.stage.kie
        assert kie.orders_heard - before <= 1, "ordered twice"
        self.watch.ordered = kie.orders_heard
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
        body = callback_body(scene(kie, kie.tasks[task], "success"))
        self.do(self.called(self.replica(replica), body, row, self.fate(at, manner), followed=True))

    # The instances.

    @precondition(lambda self: self.rows)
    @rule(which=WHICH, replica=REPLICA, trigger=TRIGGER, times=st.sampled_from([1, 1, 3, 4]))
    def visits(self, which: int, replica: int, trigger: Trigger, times: int) -> None:
        for _ in range(times):
            self.do(self.stage.once(self.replica(replica), self.row(which), trigger, Fate()))
            self.everything_holds()

    @precondition(lambda self: self.rows)
    @rule(which=WHICH, replica=REPLICA, kind=st.sampled_from(KINDS), looks=st.sampled_from([1, 2, 3, 3, 4]))
    def asks_in_vain(self, which: int, replica: int, kind: str, looks: int) -> None:
        """KIE calls back, and for a while cannot be asked."""
        row = self.row(which)
        if (task := self.stage.kie.tasks.get(self.task(row) or "")) is None:
            return
        self.stage.kie.strike("record.http_500", task=task.id, times=looks)
        self.calls_back(which, replica, kind, 99, Manner.CUT, followed=False)
        self.visits(which, replica, Trigger.SYNC, looks)

    @precondition(lambda self: self.rows)
    @rule(which=WHICH, replica=REPLICA, more=st.integers(1, 2))
    def tells_of_more_than_before(self, which: int, replica: int, more: int) -> None:
        """A delivery stops half way at an address that died; the next record has more addresses."""
        row = self.row(which)
        if (task := self.stage.kie.tasks.get(self.task(row) or "")) is None:
            return
        self.ends(which, "success")
        self.stage.kie.strike("file.404", task=task.id, times=2, n=max(len(task.results) - 1, 0))
        self.visits(which, replica, Trigger.SYNC, 1)
        self.tells_of_more_results(which, more)
        self.visits(which, replica, Trigger.SYNC, 1)

    @precondition(lambda self: self.rows and self.passed < DAYS)
    @rule(
        which=WHICH,
        replica=REPLICA,
        at=AT,
        manner=MANNER,
        waits=st.lists(st.sampled_from([3, 40, 700, 1300, 7200, 90_000]), min_size=1, max_size=6),
        how=st.sampled_from(CHANGES),
        form=st.sampled_from(list(FORMS)),
    )
    def comes_late(
        self, which: int, replica: int, at: int, manner: Manner, waits: list[int], how: str, form: str
    ) -> None:
        """The task ends in this form, and is looked at while not everything is there; then KIE answers otherwise."""
        if (task := self.asked(which)) is None:
            return
        self.takes(task, form)
        self.ends(which, "success")
        self.visits_and_is_struck(which, replica, at, manner, None)
        for seconds in waits:
            if self.passed < DAYS:
                self.time_passes(seconds)
            self.visits(which, replica, Trigger.SYNC, 1)
        self.changes(task, how, 0)
        self.visits(which, replica, Trigger.SYNC, 1)

    @precondition(lambda self: self.rows and self.stage.asleep is None)
    @rule(
        which=WHICH,
        at=AT,
        fate=FATES,
        seconds=st.sampled_from([0, 40]),
        what=st.sampled_from([None, *UPDATES, "another task"]),
    )
    def is_overtaken(self, which: int, at: int, fate: str | None, seconds: int, what: str | None) -> None:
        """An instance stands still in a visit; time passes, the application writes, another one visits; it goes on."""
        row = self.row(which)
        if fate:
            self.ends(which, fate)
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
    @rule(which=WHICH, replica=REPLICA, at=AT, manner=MANNER, fate=FATES)
    def visits_and_is_struck(self, which: int, replica: int, at: int, manner: Manner, fate: str | None) -> None:
        if fate:
            self.ends(which, fate)
        self.do(self.stage.once(self.replica(replica), self.row(which), Trigger.SYNC, self.fate(at, manner)))

    @precondition(lambda self: self.rows)
    @rule(replica=REPLICA)
    def sweeps(self, replica: int) -> None:
        self.do(self.stage.sweep(self.replica(replica), Fate()))

    @precondition(lambda self: self.rows)
    @rule(which=WHICH, replica=REPLICA, at=AT, manner=MANNER, notified=st.booleans())
    def looks_and_is_struck(self, which: int, replica: int, at: int, manner: Manner, notified: bool) -> None:
        if notified:
            self.stage.replicas[self.replica(replica)].worker.wake(self.row(which))
        self.do(self.stage.look(self.replica(replica), self.fate(at, manner)))

    @precondition(lambda self: self.rows)
    @rule(which=WHICH, replica=REPLICA, fate=FATES)
    def begins_again(self, which: int, replica: int, fate: str | None) -> None:
        """It ended, and the application queues it once more, for the same task."""
        if fate:
            self.ends(which, fate)
        self.visits(which, replica, Trigger.SYNC, 1)
        self.writes(self.row(which), "status = 'queued'")
        self.visits(which, replica, Trigger.SYNC, 1)

    @precondition(lambda self: self.stage.asleep is not None)
    @rule(kill=st.sampled_from([False, False, True]))
    def wakes_up(self, kill: bool) -> None:
        """A frozen instance goes on as if no time had passed, or is killed there."""
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
    def all_holds(self) -> None:
        self.everything_holds()

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
            await self.watch.look()
        # And two rows that are not announced.
        for status in ("queued", "success"):
            task = await self.made()
            self.rows.append(await insert(self.stage.rig.pool, task_id=task, status=status))
        kie.calm()
        self.stage.storage.faults.clear()
        self.stage.bound(200)
        for task in list(kie.tasks.values()):
            await self.gives_all(task)
        for turn in range(8):
            await self.stage.passes(6 * 3600)
            await self.stage.sweep(turn % 3, Fate())
            await self.watch.look()
            if all(work["due_at"] is None for work in self.watch.last["work"].values()):
                break
        for row, generation in self.watch.last["generations"].items():
            # The sweep leaves that to the backfill.
            if (generation["asset_url"] or "").startswith(kie.origin):
                for _ in range(2):
                    await self.stage.once(0, row, Trigger.BACKFILL, Fate())
                    await self.stage.passes(3600)
        await self.watch.look()
        for row, generation in self.watch.last["generations"].items():
            self.ended(row, generation)

    async def gives_all(self, task: SimulatedTask) -> None:
        """KIE ends a task, gives what it has, and calls back."""
        if isinstance(task.wrap, Answer):
            task.wrap.fill()
            task.answers.clear()
        if task.life.seconds == math.inf:
            self.stage.kie.end(task.id)
        if named := named_by(task.callback_url):
            body = callback_body(scene(self.stage.kie, task, task.life.end))
            await self.called(0, body, named, Fate(), followed=False)

    def ended(self, row: str, generation: Mapping[str, Any]) -> None:
        kie = self.stage.kie
        if generation["task_id"] is None:
            made = [task.id for task in kie.tasks.values() if named_by(task.callback_url) == row]
            assert not made or generation["status"] not in OPEN, f"KIE made {made} for {row}"
            return
        task = kie.tasks[generation["task_id"]]
        if unreadable_for_good(task) and generation["status"] in OPEN:
            assert self.watch.last["work"][row]["finding"] == "unreadable_output", f"{row} says nothing of its output"
            return
        assert generation["status"] not in OPEN, f"{row} is still in flight: {self.watch.last['work'].get(row)}"
        if generation["status"] == "success" and task.life.end == "success":
            # What KIE had refused was left; that it takes this back is found out when an operator asks for it.
            deliverable = has_output(task) and not unreadable_for_good(task)
            assert generation["asset_url"] or task.id in self.watch.refused or not deliverable, f"{row} has no asset"
            shows_kie = (generation["asset_url"] or "").startswith(kie.origin)
            assert not (shows_kie and deliverable), f"{row} still shows the provider's address"
        gave_up = self.watch.ends[row][-1:] == ["gave_up"]
        if gave_up and generation["status"] == "failed" and task.life.end == "success":
            assert not has_output(task) or unreadable_for_good(task), f"{row} came late"
        if generation["status"] == "success" and self.watch.ends[row][-1:] not in ([], [""]):
            self.watch.nothing_missing(row, task)


def unreadable_for_good(task: SimulatedTask) -> bool:
    return isinstance(task.wrap, Answer) and task.wrap.unreadable


def has_output(task: SimulatedTask) -> bool:
    """Whether KIE gives anything at last."""
    said = task.wrap
    if not isinstance(said, Answer):
        return True
    given = set(said.listed(len(task.results))) - said.blank
    return not said.empty and (bool(given) or said.words)
