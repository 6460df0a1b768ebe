"""Takes a snapshot of a task, from which its record is written. `api/` calls it."""

from __future__ import annotations

from reconciler.simulator.faults import lasting_fault
from reconciler.simulator.records.records import TaskSnapshot
from reconciler.simulator.tasks import FINAL_STATES, SimulatedTask
from reconciler.simulator.world import World


def take_snapshot(world: World, task: SimulatedTask, state: str, fault: str | None = None) -> TaskSnapshot:
    """Return the snapshot of a task in this state; the fault `empty` is the same in every dialect."""
    place = lasting_fault(task.faults, "place")
    return TaskSnapshot(
        task=task,
        state=state,
        results=() if fault == "empty" else world.shown(task),
        covers=tuple(world.addresses(task)[len(task.results) :]),
        created=world.clock.epoch(task.born),
        completed=world.clock.epoch(task.ends) if state in FINAL_STATES else None,
        blanks=world.blanks,
        extras=world.extras,
        cost_in_ms=world.cost_in_ms,
        fault=fault,
        place="" if place is None else place.what,
    )
