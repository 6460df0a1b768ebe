"""Builds what makes a daemon work by itself: the periodic tasks and the listener. The daemon calls it."""

from dataclasses import dataclass
from functools import partial

from reconciler.bootstrap import Parts, report_scope
from reconciler.domain.findings.findings import FindingThresholds
from reconciler.health import Pulse
from reconciler.http.live.hub import Hub
from reconciler.malloc import release_memory
from reconciler.postgres.clock import CheckedDatabase
from reconciler.postgres.heartbeat import Heartbeat
from reconciler.postgres.hooks import DeliveredHook
from reconciler.postgres.listener import Listener
from reconciler.postgres.migrations.schema_level import alive_within
from reconciler.postgres.poll_stats import PollStats
from reconciler.postgres.retention import Retention
from reconciler.postgres.stuck import StuckRows
from reconciler.webhooks.sender import WebhookSender
from reconciler.worker.periodic.heartbeat import InstanceHeartbeat
from reconciler.worker.periodic.hook_calls import HookCalls
from reconciler.worker.periodic.leadership import KNOWN_AFTER, Leadership
from reconciler.worker.periodic.poll_statistics import update_poll_statistics
from reconciler.worker.periodic.probes import Probes
from reconciler.worker.periodic.retention import clean_up
from reconciler.worker.periodic.scheduler import PeriodicTask, Scheduler
from reconciler.worker.periodic.snapshot import SnapshotRefresh
from reconciler.worker.periodic.stuck_log import StuckLog
from reconciler.worker.periodic.sweep import ListenerStatus, Sweep
from reconciler.worker.periodic.table_watch import TableWatch
from reconciler.worker.poll import Poller

SNAPSHOT_SECONDS = 15.0
"""The most seconds between two snapshots; with a shorter interval of the sweep the figures are fresher, too."""

LASTING_SECONDS = 2.0
"""A transfer's stage or a request to KIE that takes longer is reported each second, so that `explain` can show it."""


@dataclass(frozen=True, slots=True)
class PeriodicTasks:
    """The scheduler, which has every periodic task, and those that the daemon and the listener need by themselves."""

    scheduler: Scheduler
    pulse: Pulse
    sweep: Sweep
    heartbeat: InstanceHeartbeat
    snapshot: SnapshotRefresh
    table_watch: TableWatch


def periodic_tasks(parts: Parts, sender: WebhookSender | None = None) -> PeriodicTasks:
    """Return the periodic tasks of one instance; without a sender no webhooks are sent."""
    settings, database, metrics = parts.settings, parts.database, parts.metrics
    interval = settings.lease_seconds / 3
    leadership = Leadership(trust_window=2 * interval)
    clock = parts.ledger.clock
    beats = Heartbeat(parts.pools.leases, parts.instance, term=settings.lease_seconds, clock=clock)
    heartbeat = InstanceHeartbeat(
        beats, leadership, partial(_activity, parts), metrics, parts.worker.stir, partial(_has_lasting_step, parts)
    )
    listener_status = ListenerStatus(metrics)
    sweep = Sweep(parts.claims, parts.worker, metrics, listener_status, settings.sweep_seconds)
    keys = [key.key_hash for key in parts.keys]
    probes = Probes(parts.kie, parts.store, leadership, metrics, keys)
    snapshot = _snapshot_refresh(parts, leadership, sweep, probes)
    stuck_log = StuckLog(StuckRows(database, parts.table, report_scope(settings)), leadership)
    poll_stats = PollStats(database, parts.table, rate=settings.poll_rate * len(keys))
    update = partial(update_poll_statistics, poll_stats, leadership, parts.policy)
    checked, webhooks = CheckedDatabase(parts.pools.application, clock), bool(settings.notify_url)
    retention = Retention(checked, parts.table, term=settings.lease_seconds, webhooks=webhooks)
    # An instance that only observes deletes no row of the application's.
    failed_days = 0 if parts.policy.limits.observe else settings.failed_retention_days
    cleanup = partial(clean_up, retention, poll_stats, leadership, failed_days=failed_days)
    pulse = Pulse()
    tasks = [
        PeriodicTask("beat", 1.0, pulse.run_once),
        PeriodicTask("make_up", 1.0, sweep.make_up),
        PeriodicTask("sweep", sweep.interval, sweep.run_once),
        PeriodicTask("attend", interval, heartbeat.run_once),
        PeriodicTask("show", 1.0, heartbeat.show_if_needed),
        PeriodicTask("audit", 15.0, parts.verification.run_once),
        PeriodicTask("tidy", 15.0, release_memory),
        PeriodicTask("snapshot", min(settings.sweep_seconds, SNAPSHOT_SECONDS), snapshot.run_once, KNOWN_AFTER),
        PeriodicTask("stuck", min(settings.sweep_seconds, SNAPSHOT_SECONDS), stuck_log.run_once, KNOWN_AFTER),
        PeriodicTask("pace", 30.0, update, KNOWN_AFTER),
        PeriodicTask("credit", 300.0, probes.ask_credit, KNOWN_AFTER),
        PeriodicTask("bucket", 60.0, probes.check_bucket, KNOWN_AFTER),
        PeriodicTask("upkeep", 3600.0, cleanup, KNOWN_AFTER),
    ]
    if not parts.policy.limits.observe:
        hook_calls = HookCalls(DeliveredHook(parts.pools.application, parts.table), settings.sweep_seconds)
        parts.sinks.append(hook_calls.on_visit)
        tasks.append(PeriodicTask("hooks", 1.0, hook_calls.run_once))
    if sender is not None:
        # An event that no notification announced is sent all the same.
        tasks.append(PeriodicTask("look", 1.0, sender.send_due))
    scheduler = Scheduler(tasks)
    watch = TableWatch(parts.table, parts.claims, database.table_doubted, parts.worker.stir)
    return PeriodicTasks(scheduler, pulse, sweep, heartbeat, snapshot, watch)


def _snapshot_refresh(parts: Parts, leadership: Leadership, sweep: Sweep, probes: Probes) -> SnapshotRefresh:
    settings = parts.settings
    thresholds = FindingThresholds(stuck_after=settings.stuck_after, sweep_seconds=settings.sweep_seconds)
    alive = alive_within(settings.lease_seconds)
    return SnapshotRefresh(
        reports=parts.reports,
        database=parts.database,
        instance=parts.instance,
        table=parts.table,
        metrics=parts.metrics,
        leadership=leadership,
        sweep=sweep,
        probes=probes,
        thresholds=thresholds,
        alive=alive,
    )


def _activity(parts: Parts) -> dict[str, object]:
    """Return what this process is doing: its transfers, its lasting requests, how many generations it holds, totals.

    The totals count from its beginning. Every heartbeat reports it to the other replicas, in place of the report
    before. `postgres/reports/activity.py` reads it for `top`, `postgres/reports/generation_details.py` for `explain`.
    """
    transfers = [transfer.to_json() for transfer in parts.deliverer.transfers.values()]
    asking = [
        {"generation_id": generation_id, "seconds": round(seconds, 3)}
        for generation_id, seconds in _poller(parts).under_way.items()
        if seconds >= LASTING_SECONDS
    ]
    return {"transfers": transfers, "asking": asking, "held": parts.worker.in_hand, **parts.metrics.totals()}


def _has_lasting_step(parts: Parts) -> bool:
    """Return whether a stage of a transfer or a request to KIE has taken LASTING_SECONDS."""
    steps = [transfer.seconds for transfer in parts.deliverer.transfers.values()]
    return max([*steps, *_poller(parts).under_way.values()], default=0.0) >= LASTING_SECONDS


def _poller(parts: Parts) -> Poller:
    return parts.worker.visitor.poller


def listener(parts: Parts, periodic: PeriodicTasks, hub: Hub, sender: WebhookSender | None) -> Listener:
    """Return the listener, wired to everything that a notification wakes."""

    def on_generation(generation_id: str) -> None:
        parts.metrics.notifications.inc()
        parts.worker.wake(generation_id)
        hub.wake(generation_id)

    def on_connected() -> None:
        # A sweep that is under way may have begun before the listener heard anything.
        periodic.scheduler.run_beside("sweep")
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
        on_canary=periodic.sweep.listener.record_canary,
        on_event=on_event,
    )
