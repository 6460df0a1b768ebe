"""Results larger than memory, and an upload that a deploy interrupts shortly before its end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from reconciler.simulator import MediaSpec
from testkit.replica import Replica
from testkit.stage import Rig
from testkit.standins.storage import Fault
from testkit.waiting import until

MIB = 1 << 20
PIECE = 6 * MIB
LIMIT = 256 * MIB
PIECES = int(os.environ.get("FILM_PIECES", "10"))
"""How many pieces of 6 MiB the film of the deploy has; with 171 it has a GiB."""


def film(size: int) -> list[MediaSpec]:
    return [MediaSpec(kind="video", ext="mp4", size=size)]


@pytest.mark.soak
async def test_a_deploy_at_nine_tenths_of_an_upload_costs_the_last_tenth_alone(rig: Rig) -> None:
    """F14: another replica goes on where storage says that the first one was."""
    storage = rig.storage
    assert storage is not None
    last_tenth = PIECES * 9 // 10 + 1
    storage.faults.roll = lambda step, _: (
        Fault("stall") if step == "patch" and storage.requests["patch"] == last_tenth else None
    )
    leaving = await rig.run(RECONCILER_DRAIN_SECONDS="1", RECONCILER_LEASE_SECONDS="600")
    ids = [await rig.order(results=film(PIECES * PIECE))]
    await until(lambda: storage.requests["patch"] == last_tenth, 20 + PIECES, "the first piece of the last tenth")
    leaving.signal(signal.SIGTERM)
    assert (await leaving.ended(within=8)).code == 0
    await rig.run(RECONCILER_LEASE_SECONDS="600")
    await rig.delivered(ids, within=20 + PIECES)
    assert storage.requests["create"] == 1
    assert storage.requests["patch"] == PIECES + 1
    assert storage.twice() == {}


def peak(replica: Replica) -> int:
    """The most memory that the process ever had, in bytes."""
    (line,) = [one for one in Path(f"/proc/{replica.pid}/status").read_text().splitlines() if one.startswith("VmHWM")]
    return int(line.split()[1]) << 10


@pytest.mark.soak
async def test_a_film_larger_than_memory_is_delivered(rig: Rig) -> None:
    """F16: what is held in memory does not grow with a result."""
    replica = await rig.run()
    await rig.delivered([await rig.order(results=film(LIMIT + 32 * MIB))], within=60)
    assert 0 < peak(replica) < LIMIT * 3 // 4
