"""The process: starts the parts, waits for what is away, stops when asked, drains.

Two signals are two wishes: the first lets what is in hand end, the second does not. The command `run` calls this, and
the demo.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import structlog

from reconciler import __version__
from reconciler.bootstrap import Parts, announcer, parts
from reconciler.domain.findings import FindingThresholds
from reconciler.errors import Transient
from reconciler.front import inside, routers
from reconciler.health import DRAINING, Health
from reconciler.http.app import application, serving
from reconciler.http.live.hub import Hub
from reconciler.http.readiness_gate import ReadinessGate
from reconciler.metrics import Metrics
from reconciler.postgres.heartbeat import Heartbeat
from reconciler.postgres.listener import Listener, NotificationHandlers
from reconciler.postgres.poll_stats import PollStats
from reconciler.postgres.preflight import missing
from reconciler.postgres.retention import Retention
from reconciler.settings import Settings
from reconciler.systemd.lifecycle import SupervisorUpdates
from reconciler.systemd.notify import SupervisorSocket
from reconciler.webhooks.sender import WebhookSender
from reconciler.worker.activity import doing
from reconciler.worker.periodic.probes import Probes
from reconciler.worker.periodic.scheduler import Bearings, Every, Eyes, PeriodicTasks

log = structlog.get_logger()

RETRY = 2.0
"""Seconds between two tries to begin while the database or the storage is away."""


class StopSignals:
    """How often we were asked to stop: once means finish what is in hand, twice means now."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.now = asyncio.Event()

    def ask(self) -> None:
        """Ask once more."""
        (self.now if self.asked.is_set() else self.asked).set()


async def run(
    settings: Settings,
    *,
    observe: bool = False,
    stop: StopSignals | None = None,
    begun: Callable[[Parts], None] = lambda _: None,
    supervisor: SupervisorSocket | None = None,
) -> int:
    """Be the daemon until asked to stop; `begun` is told when work begins. Config where only a person can help."""
    settings.require("database_url", "kie_api_key", "storage")
    stop = stop or StopSignals()
    instance = uuid.uuid4()
    # Before the port opens: what requests log takes it from here.
    structlog.contextvars.bind_contextvars(instance=str(instance))
    health = Health(patience=3 * settings.sweep_seconds)
    metrics = Metrics()
    files = settings.storage_local_dir if settings.storage_backend == "local" else None
    entrance = ReadinessGate(health)
    app = application(health, metrics, files, routers=routers(settings, entrance, metrics))
    lifeline = SupervisorUpdates(
        supervisor or SupervisorSocket(), health, stop.asked.is_set, drain_seconds=settings.drain_seconds
    )
    with _signals(stop):
        async with serving(app, settings.http_host, settings.http_port) as port, lifeline.held():
            log.info("daemon.started", version=__version__, port=port, observe=observe)
            while not stop.asked.is_set():
                try:
                    async with (
                        parts(settings, observe=observe, metrics=metrics, instance=instance) as built,
                        announcer(built) as telling,
                    ):
                        begun(built)
                        entrance.inside = inside(built)
                        await _reconcile(built, entrance, stop, telling=telling, lifeline=lifeline)
                except Transient as error:
                    entrance.inside = None
                    health.reason = str(error)
                    log.warning("daemon.waiting", code=error.code, reason=str(error))
                    await _either(stop.asked.wait(), asyncio.sleep(RETRY))
    log.info("daemon.stopped")
    return 0


@contextlib.contextmanager
def _signals(stop: StopSignals) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.ask)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _reconcile(
    built: Parts,
    entrance: ReadinessGate,
    stop: StopSignals,
    *,
    telling: WebhookSender | None,
    lifeline: SupervisorUpdates,
) -> None:
    """Work until asked to stop, then drain; whatever ends unasked ends the daemon."""
    presence = Heartbeat(built.database, built.instance, term=built.settings.lease_seconds)
    rounds = _rounds(built, presence, telling)
    assert entrance.inside is not None
    hub, health = entrance.inside.hub, entrance.health
    hears = _hears(built, rounds, hub)
    listener = Listener(built.settings.database_url.get_secret_value(), built.database, hears)
    keeping = asyncio.create_task(built.work.keep(), name="keep")
    tasks = {
        asyncio.create_task(built.work.run(), name="work"),
        asyncio.create_task(listener.run(), name="listener"),
        asyncio.create_task(hub.run(), name="hub"),
        asyncio.create_task(stop.asked.wait(), name="stop"),
    }
    rounds.start()
    health.reason, health.pulse, health.trouble = None, lambda: rounds.pulse, lambda: built.database.trouble
    lifeline.doing, lifeline.swept = lambda: _doing(built, rounds), lambda: rounds.swept
    try:
        done, _ = await asyncio.wait({*tasks, keeping}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            # Raises what a loop died of; a loop that merely returned is as wrong.
            if task.result() is not True:
                raise RuntimeError(f"{task.get_name()} has finished unexpectedly")
    finally:
        # From here on no round turns, and a drain may take longer than anybody's patience with one.
        health.reason, health.pulse = DRAINING, time.monotonic
        lifeline.look()
        hub.close()
        rounds.stop()
        await _either(_drained(built, entrance, telling, built.settings.drain_seconds), stop.now.wait())
        await _drained(built, entrance, telling, 0)
        await entrance.cut()
        await _cancelled({*tasks, keeping})
        with contextlib.suppress(TimeoutError, Transient):
            async with asyncio.timeout(2):
                await presence.leave()


def _doing(built: Parts, rounds: PeriodicTasks) -> str:
    """Return what is in hand, and where we lead what is in flight."""
    drawn = rounds.drawn
    table = "" if drawn is None else f"; {sum(drawn.in_flight.values())} in flight, {drawn.stuck} stuck"
    return f"{built.work.in_hand} in hand{table}"


async def _drained(built: Parts, entrance: ReadinessGate, telling: WebhookSender | None, seconds: float) -> None:
    assert entrance.inside is not None
    told = () if telling is None else (telling.drain(seconds),)
    creation = entrance.inside.creation
    await asyncio.gather(built.work.drain(seconds), entrance.emptied(seconds), creation.drain(seconds), *told)


def _hears(built: Parts, rounds: PeriodicTasks, hub: Hub) -> NotificationHandlers:
    def wake(generation_id: str) -> None:
        built.metrics.notifications.inc()
        built.work.wake(generation_id)
        hub.wake(generation_id)

    def gap() -> None:
        rounds.gap()
        hub.gap()

    def event(generation_id: str, event_id: int) -> None:
        hub.wake(generation_id, event_id)
        rounds.event()

    return NotificationHandlers(wake=wake, gap=gap, canary=rounds.heard, event=event)


def _rounds(built: Parts, presence: Heartbeat, telling: WebhookSender | None = None) -> PeriodicTasks:
    settings, database, table = built.settings, built.database, built.table
    eyes = Eyes(
        claims=built.claims,
        presence=presence,
        tempo=PollStats(database, table, rate=settings.poll_rate * len(built.keys)),
        reports=built.reports,
        upkeep=Retention(database, table, term=settings.lease_seconds, webhooks=bool(settings.notify_url)),
        outside=Probes(
            built.ways.kie,
            built.ways.store.check,
            built.metrics,
            keys=tuple(key.key_hash for key in built.keys),
        ),
        audit=built.audit,
        behind=lambda: _count(missing(database)),
        pooled=lambda: database.pooled,
        doing=lambda: doing(built.deliveries, built.work, built.metrics),
        announcer=telling,
    )
    # Who only observes deletes no row of the application's.
    days = 0 if built.current.limits.observe else settings.failed_retention_days
    bounds = FindingThresholds(stuck_after=settings.stuck_after, sweep_seconds=settings.sweep_seconds)
    return PeriodicTasks(
        eyes,
        built.work,
        built.metrics,
        every=Every(
            sweep=settings.sweep_seconds,
            presence=settings.lease_seconds / 3,
            # Whoever looks for rows more often wants to know of them as often.
            snapshot=min(settings.sweep_seconds, 15.0),
        ),
        bearings=Bearings(days, bounds),
        current=built.current,
    )


async def _count(listing: Coroutine[Any, Any, list[str]]) -> int:
    return len(await listing)


async def _either(*waits: Coroutine[Any, Any, Any]) -> None:
    """Wait for the first of these, and drop the others."""
    tasks = {asyncio.ensure_future(wait) for wait in waits}
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await _cancelled(tasks)


async def _cancelled(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
