"""What the leader asks of the outside where no generation does."""

from __future__ import annotations

from structlog.testing import capture_logs

from reconciler.daemon import _rounds
from reconciler.postgres.heartbeat import Heartbeat
from tests.worker.rig import Rig


async def test_a_bucket_made_private_under_the_daemon_is_told_until_it_is_public_again(supabase_rig: Rig) -> None:
    """Everything is stored and proven in it, so no delivery tells."""
    assert supabase_rig.storage is not None
    bucket = supabase_rig.storage.buckets["generations"]
    async with supabase_rig.instance() as parts:
        made = _rounds(parts, Heartbeat(parts.database, parts.instance, term=30.0))
        told = parts.metrics.findings.labels("storage_refuses")._value
        bucket.public = False
        with capture_logs() as log:
            await made.bucket()
        assert log == [], "only the leader asks"
        await made.attend()
        with capture_logs() as log:
            await made.bucket()
        assert [(line["event"], line["code"]) for line in log] == [("bucket.closed", "bucket_private")]
        await made.snapshot()
        assert told.get() == 1
        bucket.public = True
        await made.bucket()
        await made.snapshot()
        assert told.get() == 0
