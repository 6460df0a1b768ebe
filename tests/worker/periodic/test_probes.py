"""The probes of KIE and storage, which only the leader runs."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

from reconciler.bootstrap.periodic import periodic_tasks
from reconciler.errors import Transient
from testkit.standins.storage import Fault
from tests.worker.rig import Rig


async def test_a_storage_that_is_away_is_known_before_any_result_waits_for_it(supabase_rig: Rig) -> None:
    assert supabase_rig.storage is not None
    async with supabase_rig.instance() as parts:
        periodic = periodic_tasks(parts)
        probe, snapshot = periodic.scheduler.tasks["bucket"], periodic.snapshot
        await periodic.heartbeat.run_once()
        supabase_rig.storage.faults.add("bucket", Fault("html", status=503), times=2)
        for _ in range(2):
            with pytest.raises(Transient):
                await probe.run_once()
        await snapshot.run_once()
        assert snapshot.last is not None
        storage = snapshot.last.failing["storage"]
        place = urlsplit(supabase_rig.storage.url).netloc
        assert (storage.rows, storage.reason) == (0, f"check: storage_5xx, storage failed: 503 (HTTP 503, {place})")
        assert storage.seconds > 0
        await probe.run_once()
        await snapshot.run_once()
        assert snapshot.last.failing == {}


async def test_a_bucket_that_becomes_private_is_a_finding_until_it_is_public_again(supabase_rig: Rig) -> None:
    """A private bucket accepts and proves everything, so no delivery shows it."""
    assert supabase_rig.storage is not None
    bucket = supabase_rig.storage.buckets["generations"]
    async with supabase_rig.instance() as parts:
        periodic = periodic_tasks(parts)
        probe = periodic.scheduler.tasks["bucket"]
        finding = parts.metrics.findings.labels("storage_refuses")._value
        bucket.public = False
        with capture_logs() as log:
            await probe.run_once()
        assert log == [], "only the leader asks"
        await periodic.heartbeat.run_once()
        with capture_logs() as log:
            await probe.run_once()
        assert [(line["event"], line["code"]) for line in log] == [("bucket.closed", "bucket_private")]
        await periodic.snapshot.run_once()
        assert finding.get() == 1
        bucket.public = True
        await probe.run_once()
        await periodic.snapshot.run_once()
        assert finding.get() == 0
