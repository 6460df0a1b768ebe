"""A task at one moment, as the twins of the dialects want it. Called by `web.py` and `callbacks.py`."""

from __future__ import annotations

from reconciler.simulator.records.records import Scene
from reconciler.simulator.tasks import ENDS, SimulatedTask
from reconciler.simulator.world import World


def scene_of(world: World, task: SimulatedTask, state: str, fault: str | None = None) -> Scene:
    """The scene of a task in this state; `empty` is the one fault that every family shows alike."""
    addresses = world.addresses(task)
    count = 0 if fault == "empty" else len(task.results)
    return Scene(
        task=task,
        state=state,
        results=tuple(addresses[:count]),
        covers=tuple(addresses[len(task.results) :]),
        created=world.clock.epoch(task.born),
        completed=world.clock.epoch(task.ends) if state in ENDS else None,
        blanks=world.blanks,
        extras=world.extras,
        cost_in_ms=world.cost_in_ms,
        fault=fault,
    )
