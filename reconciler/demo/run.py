"""Runs the demo: starts everything, orders generations, shows their progress, verifies them, prints a summary."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import httpx
from rich.console import Console
from rich.filesize import decimal

from reconciler import daemon, logs, settings
from reconciler.bootstrap import Parts
from reconciler.demo.embedded_postgres import Postgres, free_port
from reconciler.demo.proof import DemoProof, prove_all
from reconciler.demo.shop import KEY, OrderedGeneration, order, wishes
from reconciler.demo.view import DemoView, ProgressLine
from reconciler.errors import Transient
from reconciler.postgres.migrations.migrate import migrate
from reconciler.simulator import Simulator

TIMEOUT = 120.0
"""Seconds after which a missing result counts as lost."""

SPEED = 10.0
"""How much faster than KIE the simulator is."""

_LINES = """
SELECT g.id::text AS id, g.status, g.error,
       extract(epoch FROM CASE WHEN g.status IN ('success', 'failed') THEN g.updated_at ELSE now() END
                          - g.created_at)::float8 AS age,
       (SELECT coalesce(sum(a.size), 0)::bigint FROM reconciler.assets a
         WHERE a.generation_id = g.id::text AND a.verified_by IS NOT NULL) AS size
  FROM public.generations g LEFT JOIN reconciler.work w ON w.generation_id = g.id::text
"""


@dataclass(slots=True)
class DemoStage:
    """Everything that runs during the demo."""

    kie: Simulator
    pool: asyncpg.Pool
    client: httpx.AsyncClient
    address: str
    token: str
    log: Path
    parts: list[Parts] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the daemon has stopped."""

    @property
    def page(self) -> str:
        """The address of the history page with the operator's token in the fragment, which no server gets."""
        return f"{self.address}/#token={self.token}"


def main(*, generations: int = 24, serve: bool = False, faults: bool = False) -> int:
    """Run the demo; return 0 if every byte arrived."""
    try:
        return asyncio.run(_run(generations, serve=serve, faults=faults))
    except KeyboardInterrupt:
        return 130


async def _run(generations: int, *, serve: bool, faults: bool) -> int:
    console = Console()
    started = time.monotonic()
    async with _stage(faults=faults) as stage:
        console.print(f"PostgreSQL, a local KIE and the daemon are up after {time.monotonic() - started:.1f} s")
        if serve:
            console.print(f"watch it in a browser: {stage.page}", soft_wrap=True, highlight=False)
        started = time.monotonic()
        orders = [await order(wish, stage.kie, stage.client, stage.pool) for wish in wishes(generations)]
        ages = await _watch(orders, stage, DemoView(console))
        proof = await prove_all(orders, stage.kie, stage.client, stage.pool)
        _summary(console, stage, orders, proof, ages, time.monotonic() - started)
        if serve:
            console.print(f"running until Ctrl-C: {stage.address}/metrics  {stage.address}/readyz")
            console.print(f"the page on live data: {stage.page}", soft_wrap=True, highlight=False)
            # The daemon handles Ctrl-C: it drains, and the demo ends with it.
            await stage.ended.wait()
        return 1 if proof.faults else 0


@contextlib.asynccontextmanager
async def _stage(*, faults: bool) -> AsyncIterator[DemoStage]:
    """Start database, KIE and daemon in this process and a temporary folder; stop them at the end."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kie-reconciler-demo-")))
        postgres = stack.enter_context(Postgres.start(folder / "postgres"))
        await migrate(postgres.dsn(), application=True)
        simulator = Simulator(speed=SPEED, keys=(KEY,), limits=False, faults=1 / 3 if faults else 0.0, fault_times=1,
                              hang_seconds=2.0, slow_seconds=0.2)  # fmt: skip
        kie = await stack.enter_async_context(simulator)
        pool = await stack.enter_async_context(asyncpg.create_pool(postgres.dsn(), min_size=1, max_size=2))
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=30, trust_env=False))
        port = free_port()
        stage = DemoStage(
            kie, pool, client, f"http://127.0.0.1:{port}", secrets.token_urlsafe(24), folder / "daemon.log"
        )
        logs.setup(form="json", stream=stack.enter_context(stage.log.open("w")))
        stop, up = daemon.StopSignals(), asyncio.Event()

        def daemon_started(parts: Parts) -> None:
            stage.parts.append(parts)
            up.set()

        environment = {**_environment(postgres.dsn(), kie, folder, port), "RECONCILER_API_TOKEN": stage.token}
        chosen = settings.load(environment, folder)
        running = asyncio.create_task(daemon.run(chosen, stop=stop, on_start=daemon_started))
        running.add_done_callback(lambda _: stage.ended.set())
        waiting = asyncio.create_task(up.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
            raise Transient("the daemon stopped before it began", code="daemon_stopped")
        try:
            yield stage
        finally:
            stop.request()
            await running


def _environment(dsn: str, kie: Simulator, folder: Path, port: int) -> dict[str, str]:
    return {
        "DATABASE_URL": dsn,
        "KIE_API_KEY": KEY,
        "KIE_MARKET_BASE_URL": kie.url,
        "RECONCILER_ALLOW_PRIVATE_HOSTS": "true",
        "RECONCILER_HTTP_PORT": str(port),
        "RECONCILER_POLL_RATE": "20",
        "RECONCILER_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "RECONCILER_RESULT_HOSTS": "127.0.0.1",
        "RECONCILER_SPOOL_DIR": str(folder / "spool"),
        "RECONCILER_STORAGE_BACKEND": "local",
        "RECONCILER_STORAGE_LOCAL_DIR": str(folder / "files"),
    }


async def _watch(orders: Sequence[OrderedGeneration], stage: DemoStage, view: DemoView) -> list[float]:
    """Show the generations until all have ended or the timeout is over; return the ages of the delivered ones."""
    deadline = time.monotonic() + TIMEOUT
    lines: list[ProgressLine] = []
    with view.shown():
        while time.monotonic() < deadline:
            lines = await _lines(orders, stage.pool)
            view.show(lines, stage.parts[-1].deliverer.transfers)
            if all(line.status in ("success", "failed") for line in lines):
                break
            await asyncio.sleep(0.2)
    return [line.age for line in lines if line.status == "success"]


async def _lines(orders: Sequence[OrderedGeneration], pool: asyncpg.Pool) -> list[ProgressLine]:
    rows = {row["id"]: row for row in await pool.fetch(_LINES)}
    pairs = ((ordered, rows[ordered.generation_id]) for ordered in orders)
    return [ProgressLine(ordered, row["status"], row["age"], row["size"], row["error"]) for ordered, row in pairs]


def _summary(
    console: Console,
    stage: DemoStage,
    orders: Sequence[OrderedGeneration],
    proof: DemoProof,
    ages: Sequence[float],
    seconds: float,
) -> None:
    refused = sum(ordered.wish.fails for ordered in orders)
    console.print(
        f"\n{len(orders)} generations in {seconds:.1f} s: {len(ages)} delivered, {refused} refused by KIE on purpose. "
        f"{proof.objects} objects, {decimal(proof.size)}, each compared with its source by SHA-256."
    )
    if ages:
        console.print(f"from the row's creation to its delivery: median {statistics.median(ages):.1f} s, "
                      f"longest {max(ages):.1f} s, at {SPEED:g} times KIE's speed")  # fmt: skip
    if stage.kie.counts.faults:
        count = sum(stage.kie.counts.faults.values())
        console.print(f"{count} faults were injected: {dict(stage.kie.counts.faults)}")
    for fault in proof.faults:
        console.print(f"[red]missing[/red] {fault}")
    if not proof.faults:
        console.print("[green]everything arrived[/green]")
