"""Incidents on our side: the database and the way to it, the replicas, their clocks, the rows."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from benchmarks.incidents.scene import LATE, Look, Scene
from benchmarks.stage import free_port
from reconciler.postgres.connection import IGNORED
from reconciler.postgres.migrations.migration_files import trigger_names
from reconciler.simulator import never
from testkit.standins.clock import Clock
from testkit.waiting import until

HOUR = 3600


_POOLER = """
[databases]
{name} = host={parts.hostname} port={parts.port} user={parts.username} password={parts.password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
ignore_startup_parameters = {ignored}
"""


@contextlib.asynccontextmanager
async def trigger_dropped(on: Scene) -> AsyncIterator[Look]:
    """A migration of the application has dropped our triggers."""
    replica = await on.replica()
    for name in trigger_names():
        await on.rig.pool.execute(f"DROP TRIGGER {name} ON public.generations")
    ids = [await on.rig.insert(on.rig.kie.add_task(), age=0) for _ in range(2)]
    waiting = await on.rig.insert(on.rig.kie.add_task(life=never()), age=0)
    yield Look(
        [replica],
        first="schema_behind",
        alerts=frozenset({"SchemaBehind"}),
        figures=("findings", "deliveries_total", "listener_connected", "notifications_total"),
        log=("sweep.found", "finding.open"),
        explain=waiting,
        waiting=ids,
    )


@contextlib.asynccontextmanager
async def pooler(on: Scene) -> AsyncIterator[Look]:
    """DATABASE_URL leads to a pooler in transaction mode."""
    with _pgbouncer(on.rig.dsn, on.folder / "pgbouncer") as dsn:
        on.settings["DATABASE_URL"] = dsn
        replica = await on.replica()
        waiting = await on.rig.insert(on.rig.kie.add_task(life=never()), age=0)
        ids = [await on.rig.insert(on.rig.kie.add_task(), age=0) for _ in range(2)]
        yield Look(
            [replica],
            first="transaction_pooler",
            alerts=frozenset({"FindingOpen", "ListenerDeaf"}),
            figures=("findings", "listener_connected", "notifications_total", "deliveries_total"),
            log=("finding.open", "listener.deaf"),
            explain=waiting,
            waiting=ids,
        )


@contextlib.contextmanager
def _pgbouncer(dsn: str, folder: Path) -> Iterator[str]:
    """Run Debian's pooler in front of this database; it refuses to be root, as the database does."""
    parts, port = urlsplit(dsn), free_port()
    folder.mkdir(parents=True)
    (folder / "pgbouncer.ini").write_text(
        _POOLER.format(parts=parts, name=parts.path[1:], port=port, ignored=IGNORED.rpartition("= ")[2])
    )
    root = ("unshare", "-U", "--map-user=65534", "--") if os.geteuid() == 0 else ()
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(
            [*root, shutil.which("pgbouncer") or "/usr/sbin/pgbouncer", "pgbouncer.ini"],
            cwd=folder, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield parts._replace(netloc=f"pooled@127.0.0.1:{port}").geturl()
    finally:
        process.terminate()
        process.wait(10)


@contextlib.asynccontextmanager
async def replica_killed(on: Scene) -> AsyncIterator[Look]:
    """One of two replicas dies with rows in its hands."""
    doomed, other = await on.replica(), await on.replica()
    ids = [await on.rig.insert(on.rig.kie.add_task(), age=0) for _ in range(12)]
    for task_id in on.rig.kie.tasks:
        on.rig.kie.strike("file.slow", task=task_id)

    async def holds() -> bool:
        return doomed.pid in await on.rig.delivering()

    await until(holds, 30, "rows in the hands of the one that dies")
    # One that is started after the last sign of a dead one is taken for its successor.
    later = (
        f"SELECT a.seen_at > b.started_at FROM reconciler.instances a, reconciler.instances b"
        f" WHERE a.pid = {doomed.pid} AND b.pid = {other.pid}"
    )
    await until(lambda: on.rig.pool.fetchval(later), 30, "a heartbeat beside the other one")
    (held, *_) = await on.fetch(
        "SELECT w.generation_id FROM reconciler.work w JOIN reconciler.instances i ON i.id = w.instance"
        f" WHERE i.pid = {doomed.pid} AND w.lease_until > now()"
    )
    gone = await doomed.port()
    await doomed.kill()
    yield Look(
        [other],
        gone=(gone,),
        first="replica_lost",
        alerts=frozenset({"ReplicaMissing"}),
        figures=("instances", "is_leader", "leases_lost_total", "deliveries_total", "in_flight_generations"),
        log=("generation.delivered",),
        explain=held,
        waiting=ids,
    )


@contextlib.asynccontextmanager
async def clock_skewed(on: Scene) -> AsyncIterator[Look]:
    """The clock of the daemon's host is an hour slow."""
    with Clock(on.folder / "clock", -HOUR) as clock:
        on.settings.update(clock.environment)
        replica = await on.replica()
        waiting = await on.rig.insert(on.rig.kie.add_task(life=never()), age=0)
        ids = [await on.rig.insert(on.rig.kie.add_task(), age=0) for _ in range(2)]
        yield Look(
            [replica],
            first="clock_wrong",
            alerts=frozenset({"LoopStalled", "ListenerDeaf"}),
            figures=("findings", "last_sweep_timestamp_seconds", "deliveries_total"),
            log=("generation.delivered",),
            explain=waiting,
            waiting=ids,
        )


@contextlib.asynccontextmanager
async def poisoned_row(on: Scene) -> AsyncIterator[Look]:
    """One task's result is at an address that no picture can lie at; the rows beside it are as any other."""
    poisoned = on.rig.kie.add_task(wrap=lambda _: {"resultUrls": ["file:///etc/passwd"]})
    one = await on.rig.insert(poisoned, age=LATE)
    ids = await on.late(3)
    replica = await on.replica()
    yield Look(
        [replica],
        first="unreadable_output",
        alerts=frozenset({"GenerationsStuck"}),
        figures=("stuck_generations", "findings", "attempt_failures_total", "deliveries_total"),
        log=("kie.output_unreadable", "finding.open"),
        explain=one,
        waiting=ids,
    )


@contextlib.asynccontextmanager
async def table_altered(on: Scene) -> AsyncIterator[Look]:
    """A migration of the application has renamed a column that every delivery needs."""
    replica = await on.replica()
    ids = await on.late(2)
    await on.rig.delivered(ids, within=60)
    await on.rig.pool.execute("ALTER TABLE public.generations RENAME COLUMN asset_url TO picture_url")
    ids = await on.late(2)
    yield Look(
        [replica],
        first="kie-reconciler: public.generations lacks asset_url",
        alerts=frozenset({"FindingOpen"}),
        figures=("findings", "deliveries_total"),
        log=("table.unusable", "finding.open"),
        explain=ids[0],
        waiting=ids,
    )
    await on.rig.pool.execute("ALTER TABLE public.generations RENAME COLUMN picture_url TO asset_url")


@contextlib.asynccontextmanager
async def clock_stepped(on: Scene) -> AsyncIterator[Look]:
    """The clock of the database's server jumps ahead by 25 hours while the daemon works."""
    assert on.clock is not None
    replica = await on.replica()
    waiting = await on.rig.order(life=never())
    done = [await on.rig.insert(on.rig.kie.add_task(), age=0) for _ in range(2)]
    await on.rig.delivered(done, within=60)
    on.clock.turn(25 * HOUR)
    ids = [await on.rig.insert(on.rig.kie.add_task(), age=0) for _ in range(2)]
    yield Look(
        [replica],
        first="clock_wrong",
        alerts=frozenset(),
        figures=("findings", "deliveries_total", "stuck_generations"),
        log=("clock.stepped", "finding.open"),
        explain=waiting,
        waiting=ids,
    )
    on.clock.turn(0)


_REFUND = """
CREATE TABLE public.wallet (user_id uuid PRIMARY KEY, refunded int);
INSERT INTO public.wallet SELECT gen_random_uuid(), 0;
CREATE FUNCTION reconciler.on_failed(generation_id uuid, reason text) RETURNS void LANGUAGE sql
    AS 'UPDATE public.wallet SET refunded = refunded + 1';
"""


@contextlib.asynccontextmanager
async def hook_blocked(on: Scene) -> AsyncIterator[Look]:
    """A session of the application holds the wallet that the refund hook updates, and does not end."""
    await on.rig.pool.execute(_REFUND)
    replica = await on.replica()
    refused = on.rig.kie.add_task(fate="fail")
    async with on.rig.pool.acquire() as application, _held(application):
        one = await on.rig.insert(refused, age=LATE)
        ids = await on.late(2)
        yield Look(
            [replica],
            first="row_locked",
            patience=300.0,
            alerts=frozenset({"FindingOpen"}),
            figures=("findings", "deliveries_total", "stuck_generations"),
            log=("finding.open",),
            explain=one,
            waiting=ids,
        )


@contextlib.asynccontextmanager
async def _held(application: asyncpg.Connection) -> AsyncIterator[None]:
    async with application.transaction():
        await application.execute("UPDATE public.wallet SET refunded = refunded")
        yield


@contextlib.asynccontextmanager
async def no_replica_runs(on: Scene) -> AsyncIterator[Look]:
    """The operator has stopped the only replica."""
    replica = await on.replica()
    port = await replica.port()
    replica.signal(signal.SIGTERM)
    await replica.ended(30)
    ids = await on.late(2)
    yield Look(
        [],
        gone=(port,),
        first="no_replica",
        alerts=frozenset({"DaemonDown"}),
        figures=("findings",),
        log=(),
        explain=ids[0],
        waiting=ids,
    )
    await on.replica()
