"""Builds what makes a daemon work by itself: the periodic tasks and the listener. The daemon calls it."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.bootstrap import Parts
from reconciler.domain.findings import FindingThresholds
from reconciler.health import Pulse
from reconciler.http.live.hub import Hub
from reconciler.malloc import MemoryRelease
from reconciler.postgres.heartbeat import Heartbeat
from reconciler.postgres.listener import Listener
from reconciler.postgres.poll_stats import PollStats
from reconciler.postgres.retention import Retention
from reconciler.webhooks.sender import WebhookSender
from reconciler.worker.activity import doing
from reconciler.worker.periodic.heartbeat import InstanceHeartbeat, WatchedHeartbeat
from reconciler.worker.periodic.leadership import Leadership
from reconciler.worker.periodic.poll_statistics import PollStatisticsUpdate
from reconciler.worker.periodic.probes import BucketProbe, CreditProbe, ProbeResults
from reconciler.worker.periodic.retention import RetentionCleanup
from reconciler.worker.periodic.scheduler import Scheduler
from reconciler.worker.periodic.snapshot import SnapshotRefresh
from reconciler.worker.periodic.sweep import ListenerStatus, MakeUpSweep, Sweep
from reconciler.worker.periodic.webhooks import WebhookDispatch


@dataclass(frozen=True, slots=True)
class PeriodicTasks:
    """The scheduler, which has every periodic task, and those that the daemon and the listener need by themselves."""

    scheduler: Scheduler
    pulse: Pulse
    sweep: Sweep
    listener_status: ListenerStatus
    heartbeat: InstanceHeartbeat
    snapshot: SnapshotRefresh


def periodic_tasks(parts: Parts, sender: WebhookSender | None = None) -> PeriodicTasks:
    """Return the periodic tasks of one instance; without a sender no webhooks are sent."""
    settings, database, metrics = parts.settings, parts.database, parts.metrics
    interval = settings.lease_seconds / 3
    leadership = Leadership(trust_window=2 * interval)
    heartbeat = InstanceHeartbeat(
        Heartbeat(database, parts.instance, term=settings.lease_seconds),
        leadership,
        lambda: doing(parts.deliverer, parts.worker, metrics),
        metrics,
        interval=interval,
    )
    sweep = Sweep(parts.claims, parts.worker, metrics, interval=settings.sweep_seconds)
    listener_status = ListenerStatus(metrics)
    probes = ProbeResults()
    snapshot = SnapshotRefresh(
        parts.reports,
        database,
        metrics,
        leadership,
        sweep=sweep,
        listener=listener_status,
        probes=probes,
        thresholds=FindingThresholds(stuck_after=settings.stuck_after, sweep_seconds=settings.sweep_seconds),
    )
    poll_stats = PollStats(database, parts.table, rate=settings.poll_rate * len(parts.keys))
    retention = Retention(database, parts.table, term=settings.lease_seconds, webhooks=bool(settings.notify_url))
    # An instance that only observes deletes no row of the application's.
    failed_days = 0 if parts.policy.limits.observe else settings.failed_retention_days
    pulse = Pulse()
    scheduler = Scheduler(
        [
            pulse,
            MakeUpSweep(sweep, listener_status),
            sweep,
            heartbeat,
            WatchedHeartbeat(heartbeat),
            parts.verification,
            MemoryRelease(),
            *([] if sender is None else [WebhookDispatch(sender)]),
            snapshot,
            PollStatisticsUpdate(poll_stats, leadership, parts.policy),
            CreditProbe(parts.kie, leadership, probes, metrics, keys=[key.key_hash for key in parts.keys]),
            BucketProbe(parts.store, leadership, probes),
            RetentionCleanup(retention, poll_stats, leadership, failed_days=failed_days),
        ]
    )
    return PeriodicTasks(scheduler, pulse, sweep, listener_status, heartbeat, snapshot)


def listener(parts: Parts, periodic: PeriodicTasks, hub: Hub, sender: WebhookSender | None) -> Listener:
    """Return the listener, wired to everything that a notification wakes."""

    def on_generation(generation_id: str) -> None:
        parts.metrics.notifications.inc()
        parts.worker.wake(generation_id)
        hub.wake(generation_id)

    def on_connected() -> None:
        # A sweep that is under way may have begun before the listener heard anything.
        periodic.scheduler.run_beside(periodic.sweep)
        hub.gap()

    def on_event(generation_id: str, event_id: int) -> None:
        hub.wake(generation_id, event_id)
        if sender is not None:
            sender.wake()

    return Listener(
        parts.settings.database_url.get_secret_value(),
        parts.database,
        on_generation=on_generation,
        on_connected=on_connected,
        on_canary=periodic.listener_status.record_canary,
        on_event=on_event,
    )
