"""Incidents outside: KIE and the storage."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from benchmarks.incidents.scene import TOKEN, Look, Scene
from testkit.replica import Replica
from testkit.standins.storage import Fault
from testkit.waiting import until


@contextlib.asynccontextmanager
async def kie_down(on: Scene) -> AsyncIterator[Look]:
    """Nothing comes back from KIE's address any more."""
    await on.kie.refuse()
    ids = await on.late(4)
    replica = await on.replica()
    yield Look(
        [replica],
        first="provider_silent",
        alerts=frozenset({"GenerationsStuck", "KieErrorRate", "FindingOpen"}),
        figures=(
            "stuck_generations",
            "findings",
            'attempt_failures_total{reason="network"',
            'polls_total{outcome="unheard"',
        ),
        log=("kie.request_failed", "finding.open"),
        explain=ids[0],
        waiting=ids,
        retry=True,
    )
    on.kie.mend()


@contextlib.asynccontextmanager
async def wrong_key(on: Scene) -> AsyncIterator[Look]:
    """The key was changed at KIE, and not here."""
    ids = await on.late(2)
    replica = await on.replica(KIE_API_KEY="key-that-was-revoked")
    yield Look(
        [replica],
        first="key_rejected",
        alerts=frozenset({"GenerationsStuck", "KieUnauthorized"}),
        figures=("stuck_generations", "findings", "attempt_failures_total", "kie_credits"),
        log=("kie.request_failed", "key.refused", "finding.open"),
        explain=ids[0],
        waiting=ids,
    )
    await replica.kill()
    await on.replica()


@contextlib.asynccontextmanager
async def no_credits(on: Scene) -> AsyncIterator[Look]:
    """The account is empty: KIE refuses what is ordered; what it has made before is delivered."""
    on.rig.kie.credits = 0.0
    on.rig.kie.strike("create.body_402", times=math.inf)
    replica = await on.replica()
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        answer = await client.post(
            f"http://127.0.0.1:{await replica.port()}/api/kie/createTask",
            headers={"Authorization": f"Bearer {TOKEN}"},
            json={"model": "nano-banana-2", "kind": "image", "input": {"prompt": "a"}},
        )
    assert answer.status_code >= 400, answer.text
    (refused,) = await on.fetch("SELECT id::text FROM public.generations")
    yield Look(
        [replica],
        first="unpaid_account",
        alerts=frozenset({"KieOutOfCredits"}),
        figures=("kie_credits", "findings", "attempt_failures_total", 'kie_request_seconds_count{endpoint="create"'),
        log=("create.refused", "finding.open"),
        explain=refused,
        waiting=await on.late(1),
    )


@contextlib.asynccontextmanager
async def storage_full(on: Scene) -> AsyncIterator[Look]:
    """Local storage, and its disk is full."""
    disk = on.folder / "stored"
    disk.mkdir(parents=True)
    mounted = 'mount -t tmpfs -o size=1m kie "$0" && head -c 1M /dev/zero >"$0/filler" 2>/dev/null; exec "$@"'
    on.settings.update(
        SUPABASE_URL="", SUPABASE_SERVICE_ROLE_KEY="", RECONCILER_STORAGE_BACKEND="local",
        RECONCILER_STORAGE_LOCAL_DIR=str(disk), RECONCILER_PUBLIC_URL="https://shop.example.com",
    )  # fmt: skip
    replica = await on.replica(through=("unshare", "-rm", "sh", "-c", mounted, str(disk)))
    ids = await on.late(4)
    yield Look(
        [replica],
        first="storage_failing",
        alerts=frozenset({"GenerationsStuck", "StorageErrorRate"}),
        figures=("stuck_generations", "findings", "attempt_failures_total", "storage_request_seconds_count"),
        log=("asset.not_stored", "finding.open"),
        explain=ids[0],
        waiting=ids,
        retry=True,
    )
    # The process has a file system of its own, which can be read only through it.
    (Path("/proc") / str(replica.pid) / "root" / str(disk).lstrip(os.sep) / "filler").unlink()


@contextlib.asynccontextmanager
async def bucket_private(on: Scene) -> AsyncIterator[Look]:
    """The bucket was made private while the daemon ran: uploads go on, and no browser can open them."""
    replica = await on.replica()
    on.storage.buckets["generations"].public = False
    ids = await on.late(2)
    sql = "SELECT count(*) = 2 FROM public.generations WHERE status = 'success'"

    async def stored() -> bool:
        return bool(await on.rig.pool.fetchval(sql))

    await until(stored, 60, "two deliveries")
    yield Look(
        [replica],
        first="storage_refuses",
        alerts=frozenset({"StorageRejecting"}),
        figures=("findings", "deliveries_total"),
        log=("generation.delivered", "bucket.closed", "finding.open"),
        explain=ids[0],
        waiting=ids,
    )
    on.storage.buckets["generations"].public = True


@contextlib.asynccontextmanager
async def storage_down(on: Scene) -> AsyncIterator[Look]:
    """The storage answers everything with 544: its database does not answer it."""
    async with _storage_fails(on, 544) as look:
        yield look


@contextlib.asynccontextmanager
async def quota_reached(on: Scene) -> AsyncIterator[Look]:
    """The storage answers everything with 402: the project has used up its quota."""
    async with _storage_fails(on, 402) as look:
        yield look


@contextlib.asynccontextmanager
async def _storage_fails(on: Scene, status: int) -> AsyncIterator[Look]:
    replica = await on.replica()
    on.storage.faults.roll = lambda *_: Fault("error", status=status)
    ids = await on.late(4)
    yield _look(replica, ids, "storage_failing", {"GenerationsStuck", "StorageErrorRate", "FindingOpen"})
    on.storage.faults.clear()


@contextlib.asynccontextmanager
async def results_down(on: Scene) -> AsyncIterator[Look]:
    """The host of the results answers every download with 500; KIE itself answers."""
    on.rig.kie.strike("file.500", times=math.inf)
    replica = await on.replica()
    ids = await on.late(4)
    yield _look(replica, ids, "source_failing", {"GenerationsStuck", "FindingOpen"})
    on.rig.kie.calm()


def _look(replica: Replica, ids: list[str], first: str, alerts: set[str]) -> Look:
    """Look at transfers that fail, and retry them once the incident is over."""
    return Look(
        [replica],
        first=first,
        alerts=frozenset(alerts),
        figures=("stuck_generations", "findings", "attempt_failures_total"),
        log=("asset.not_stored", "finding.open"),
        explain=ids[0],
        waiting=ids,
        retry=True,
    )
