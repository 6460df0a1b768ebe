"""The process: starts, waits for what is away, stops when asked, drains.

The first signal lets the work under way end, the second cuts it off. The command `run` calls this, and the demo.
"""

import asyncio
import contextlib
import signal
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import structlog

from reconciler import __version__
from reconciler.bootstrap import Parts, parts, webhook_sender
from reconciler.bootstrap.http import route_services, routers
from reconciler.bootstrap.periodic import PeriodicTasks, listener, periodic_tasks
from reconciler.errors import Config, Transient
from reconciler.health import DRAINING, Health
from reconciler.http.app import application, serving
from reconciler.http.readiness_gate import ReadinessGate
from reconciler.metrics import Metrics
from reconciler.settings import Settings
from reconciler.systemd.notify import SupervisorSocket, SupervisorUpdates
from reconciler.webhooks.sender import WebhookSender

log = structlog.get_logger()

RETRY = 2.0
"""Seconds between two attempts to start while the database or the storage is away."""


class StopSignals:
    """How often a stop was requested: once means finish the work under way, twice means stop now."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.now = asyncio.Event()

    def request(self) -> None:
        """Request a stop once more."""
        (self.now if self.requested.is_set() else self.requested).set()


async def run(
    settings: Settings,
    *,
    observe: bool = False,
    stop: StopSignals | None = None,
    on_start: Callable[[Parts], None] = lambda _: None,
    supervisor: SupervisorSocket | None = None,
) -> int:
    """Run the daemon until a stop is requested; `on_start` is called whenever work starts.

    Raises Config where only a person can help.
    """
    settings.require("database_url", "kie_api_key", "storage")
    stop = stop or StopSignals()
    instance = uuid.uuid4()
    # Before the port opens: the log lines of requests get it from the context.
    structlog.contextvars.bind_contextvars(instance=str(instance))
    health = Health(patience=3 * settings.sweep_seconds)
    metrics = Metrics()
    files = settings.storage_local_dir if settings.storage_backend == "local" else None
    readiness_gate = ReadinessGate(health)
    app = application(
        health, metrics, files, types=settings.media_types, routers=routers(settings, readiness_gate, metrics)
    )
    updates = SupervisorUpdates(
        supervisor or SupervisorSocket(), health, stop.requested.is_set, drain_seconds=settings.drain_seconds
    )
    with _signals(stop):
        async with serving(app, settings.http_host, settings.http_port) as port, updates.running():
            log.info("daemon.started", version=__version__, port=port, observe=observe)
            while not stop.requested.is_set():
                try:
                    async with (
                        parts(settings, observe=observe, metrics=metrics, instance=instance) as built,
                        webhook_sender(built) as sender,
                    ):
                        on_start(built)
                        await _reconcile(built, readiness_gate, stop, sender=sender, updates=updates)
                except Transient as error:
                    readiness_gate.services = None
                    health.reason = str(error)
                    log.warning("daemon.waiting", code=error.code, reason=str(error), do=error.hint)
                    await _first_of(stop.requested.wait(), asyncio.sleep(RETRY))
    log.info("daemon.stopped")
    return 0


@contextlib.contextmanager
def _signals(stop: StopSignals) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.request)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _reconcile(
    built: Parts,
    readiness_gate: ReadinessGate,
    stop: StopSignals,
    *,
    sender: WebhookSender | None,
    updates: SupervisorUpdates,
) -> None:
    """Work until a stop is requested, then drain; a loop that ends by itself ends the daemon."""
    periodic = periodic_tasks(built, sender)
    services = readiness_gate.services = route_services(built)
    health = readiness_gate.health
    tasks = {
        asyncio.create_task(built.worker.keep(), name="keep"),
        asyncio.create_task(built.worker.run(), name="work"),
        asyncio.create_task(built.locked_rows.run(), name="locked_rows"),
        asyncio.create_task(periodic.table_watch.run(), name="table_watch"),
        asyncio.create_task(listener(built, periodic, services.hub, sender).run(), name="listener"),
        asyncio.create_task(services.hub.run(), name="hub"),
        asyncio.create_task(_end_when_outdated(periodic, stop), name="outdated"),
        asyncio.create_task(stop.requested.wait(), name="stop"),
    }
    periodic.scheduler.start()
    health.reason, health.pulse = None, lambda: periodic.pulse.at
    health.trouble = lambda: built.database.trouble or built.table.trouble
    updates.activity, updates.swept = lambda: _status(built, periodic), lambda: periodic.sweep.finished

    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            # Raises the error that ended a loop; a loop that only returned is wrong, too.
            if task.result() is not True:
                raise RuntimeError(f"{task.get_name()} has finished unexpectedly")
    finally:
        # From here on the pulse no longer runs, and a drain may take longer than the patience for one.
        health.reason, health.pulse = DRAINING, time.monotonic
        updates.update()
        services.hub.close()
        periodic.scheduler.stop()
        await _first_of(_drain(built, readiness_gate, sender, built.settings.drain_seconds), stop.now.wait())
        await _drain(built, readiness_gate, sender, 0)
        await readiness_gate.cut()
        await _cancel(tasks)
        with contextlib.suppress(TimeoutError, Transient):
            async with asyncio.timeout(2):
                await periodic.heartbeat.leave()


async def _end_when_outdated(periodic: PeriodicTasks, stop: StopSignals) -> None:
    """Wait until this version is too old for the database, and raise Config then."""
    try:
        await periodic.heartbeat.until_outdated()
    except Config:
        # A drain would go on writing into a schema that this version does not know.
        stop.now.set()
        raise


def _status(built: Parts, periodic: PeriodicTasks) -> str:
    """Return what this instance has in hand, and where it leads also what is in flight in the whole table."""
    snapshot = periodic.snapshot.last
    table = ""
    if snapshot is not None and snapshot.table_trouble is None:
        table = f"; {sum(snapshot.in_flight.values())} in flight, {snapshot.stuck} stuck"
    return f"{built.worker.in_hand} in hand{table}"


async def _drain(built: Parts, readiness_gate: ReadinessGate, sender: WebhookSender | None, seconds: float) -> None:
    """Let everything under way end for so many seconds, then cut off visits, orders and webhooks."""
    webhooks = [] if sender is None else [sender.drain(seconds)]
    await asyncio.gather(built.worker.drain(seconds), readiness_gate.drain(seconds), *webhooks)


async def _first_of(*waits: Coroutine[Any, Any, Any]) -> None:
    """Wait for the first of these and cancel the others."""
    tasks = {asyncio.ensure_future(wait) for wait in waits}
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await _cancel(tasks)


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
