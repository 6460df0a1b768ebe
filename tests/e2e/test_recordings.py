"""The tasks that were recorded at the real KIE, replayed twenty times as fast."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from reconciler.simulator import Simulator
from reconciler.simulator.replay import Recording, load, play
from testkit.stage import KEY, Rig

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "kie-recordings"


@pytest.fixture
def kie() -> Simulator:
    return Simulator(keys=(KEY,), speed=20, media_size=300_000)


def kind(recording: Recording) -> str:
    return "image" if recording.paths[0].endswith((".png", ".jpg", ".jpeg", ".webp")) else "video"


def begins(recording: Recording) -> str:
    return recording.steps[0][0]


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason=f"no recordings in {RECORDINGS}")
@pytest.mark.soak
async def test_every_recorded_task_is_delivered_as_kie_really_sent_it(rig: Rig) -> None:
    recordings = sorted(load(RECORDINGS), key=begins)
    assert len(recordings) == 12
    witness = await rig.witness()
    await rig.run(RECONCILER_POLL_RATE="5", RECONCILER_LEASE_SECONDS="30", RECONCILER_SWEEP_SECONDS="15")
    play(rig.kie, recordings)
    ids = [await rig.insert(one.task_id, kind=kind(one), model=one.model, age=0) for one in recordings]
    await rig.delivered(ids, within=100)
    for generation_id, recording in zip(ids, recordings, strict=True):
        row = await rig.pool.fetchrow("SELECT * FROM public.generations WHERE id::text = $1", generation_id)
        addresses = json.loads(row["result_urls"])
        assert [urlsplit(address).path for address in addresses] == list(recording.paths)
        assert {address.removesuffix(urlsplit(address).path) for address in addresses} == {rig.kie.files_url}
        # The last look is the one that saw the success.
        began = ["generating"] * (begins(recording) == "generating" and rig.kie.tasks[recording.task_id].polls > 1)
        assert await witness.statuses(generation_id) == [*began, "success"], recording.model
    assert "generating" in await witness.statuses(ids[0])
    models = await rig.pool.fetch("SELECT model FROM reconciler.timings")
    assert sorted(row["model"] for row in models) == sorted(recording.model for recording in recordings)
    assert rig.kie.counts.creates == 0
    assert rig.kie.counts.limited == 0
