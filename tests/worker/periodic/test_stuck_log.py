"""The log names each generation that becomes stuck, once."""

from __future__ import annotations

from structlog.testing import capture_logs

from reconciler.bootstrap import Parts
from reconciler.simulator import never
from tests.worker.periodic.daemon_tasks import built, task
from tests.worker.rig import Rig


async def test_the_leader_names_a_stuck_generation_once_with_the_reason(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order(life=never())
    await rig.visit(parts, generation_id)
    await rig.age(generation_id, 700)
    periodic = built(parts)
    with capture_logs() as log:
        await task(periodic, "stuck").run_once()
    assert log == [], "only the leader names them"
    await periodic.heartbeat.run_once()

    with capture_logs() as log:
        await task(periodic, "stuck").run_once()
        await task(periodic, "stuck").run_once()

    (line,) = [line for line in log if line["event"] == "generation.stuck"]
    row = await rig.books.generation(generation_id)
    assert (line["generation_id"], line["task_id"]) == (generation_id, row["task_id"])
    assert 700 <= line["age"] < 760
    assert line["reason"].startswith("KIE says ")
