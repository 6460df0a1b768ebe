"""The callbacks of the model: true ones, too early or in time, and lies of every kind."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace

from reconciler.simulator import MediaSpec, SimulatedTask, Simulator
from reconciler.simulator.api.callback_bodies import callback_body, tampered
from reconciler.simulator.records.records import TaskSnapshot
from reconciler.simulator.records.snapshots import take_snapshot
from reconciler.simulator.tasks import TaskLife

Body = Mapping[str, object]

KINDS = ("true", "early", "forged", "forged", "failure", "failure", "tampered", "unreadable", "unknown")


def media(count: int) -> list[MediaSpec]:
    """So many results, small and each of its own size."""
    return [MediaSpec(size=2000 + 700 * n) for n in range(count)]


def scene(kie: Simulator, task: SimulatedTask, state: str) -> TaskSnapshot:
    """The task as if it had ended so, now at the latest."""
    life = TaskLife((("waiting", kie.clock.now() - task.born),))
    return take_snapshot(kie, task if task.ends < math.inf else replace(task, life=life), state)


def said(kie: Simulator, task: SimulatedTask, kind: str) -> Body | None:
    """What a callback of this kind says of a task; None where it cannot be said now."""
    match kind:
        case "true":
            state = task.state(kie.clock.now())
            return callback_body(scene(kie, task, state)) if state in {"success", "fail"} else None
        case "early":
            return callback_body(scene(kie, task, "success"))
        case "forged":
            other = kie.tasks[kie.add_task(results=media(len(task.results)))]
            return _parsed(
                json.dumps(callback_body(scene(kie, other, "success"))).replace(f'"{other.id}"', f'"{task.id}"')
            )
        case "tampered":
            return _parsed(tampered(callback_body(scene(kie, task, "success"))))
        case "failure":
            return {"code": 501, "msg": "failed", "data": {"taskId": task.id, "state": "fail", "failMsg": "a lie"}}
        case "unknown":
            return {"code": 200, "data": {"taskId": "nobody-knows-it", "state": "success"}}
        case _:
            return {"taskId": task.id, "data": 7}


def _parsed(body: str | bytes) -> Body:
    found: Body = json.loads(body)
    return found
