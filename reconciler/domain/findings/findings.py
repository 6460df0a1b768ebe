"""The findings: each problem of the whole system, with what it means and what an operator does about it.

Pure: the leader takes a `Snapshot` of the table, calls `findings` and publishes the result. The names are stable,
because alerts and runbooks refer to them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Literal

from reconciler.domain.failures.series import SEVERAL, Side
from reconciler.domain.findings.snapshot import Snapshot

Severity = Literal["warn", "page"]

NAMES = (
    "no_replica", "replica_lost", "clock_wrong", "stuck", "media_expiring", "lost", "provider_silent",
    "source_failing", "storage_failing", "deaf_listener", "transaction_pooler", "late_sweep", "schema_behind",
    "outbox_growing", "events_dead", "notification_queue", "unpaid_account", "key_rejected", "storage_refuses",
    "table_changed", "host_unlisted", "hook_failed", "row_refused", "row_locked", "parked", "empty_success", "no_task",
    "row_waits", "unreadable_output", "over_limit", "task_unknown", "results_missing", "asset_overwritten",
)  # fmt: skip
"""The names of all findings."""

_DELAYS_NO_DELIVERY = frozenset(
    {
        "deaf_listener", "transaction_pooler", "schema_behind", "outbox_growing", "events_dead", "results_missing",
        "asset_overwritten",
    }
)  # fmt: skip
"""Findings for which no generation waits."""

_KNOWN_TO_DAEMON = frozenset(
    {
        "storage_failing", "deaf_listener", "transaction_pooler", "late_sweep", "schema_behind", "unpaid_account",
        "key_rejected", "storage_refuses", "clock_wrong",
    }
)  # fmt: skip
"""Findings that need not show in the tables: the leader learns of them by its listener, its tasks and its probes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem: how many generations or parts it concerns, what it means, and what to do.

    Severity `page` means that a paid result is lost or every delivery stops unless an operator acts; all others `warn`.
    """

    name: str
    count: int
    severity: Severity
    says: str
    do: str


CANARY_SECONDS = 30.0
"""A canary is sent every ten seconds and comes back within five: after 30 s two were lost."""

FAILING_SECONDS = 300.0
"""A side that has failed at least one row for so long is a finding, also where it fails few rows."""

CLOCK_SECONDS = 60.0
"""So many seconds apart two clocks are a finding."""

STEP_SECONDS = 600.0
"""For so long after a step of the database's clock nothing is concluded from it (`postgres/clock.py`)."""

UNANNOUNCED_SECONDS = 600.0
QUEUE_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class FindingThresholds:
    """The settings that decide from which figure on there is a finding."""

    stuck_after: timedelta = timedelta(minutes=10)
    sweep_seconds: float = 15.0


# Severity, what the finding says, what to do.
_ADVICE: Mapping[str, tuple[Severity, str, str]] = MappingProxyType(
    {
        "unpaid_account": (
            "page",
            "KIE's account has no credits, or a key's cap is reached ({n} concerned).",
            "Top up at kie.ai or raise the key's cap; everything goes on by itself.",
        ),
        "key_rejected": (
            "page",
            "KIE rejects an API key ({n} concerned).",
            "Check KIE_API_KEY and its siblings, and the key's list of allowed addresses at kie.ai.",
        ),
        "storage_refuses": (
            "page",
            "Storage refuses objects, or browsers cannot read them ({n} concerned).",
            "Run `kie-reconciler stuck` and `doctor` to see why; fix the bucket's types, size limit or policies.",
        ),
        "table_changed": (
            "warn",
            "The application's table has changed, and a write no longer fits it ({n} generations).",
            "Nothing: the table is read again, and they are tried again. If it stays, run `kie-reconciler doctor`.",
        ),
        "host_unlisted": (
            "warn",
            "Results are on a host that is not listed ({n} generations).",
            "If the host is KIE's, add it to RECONCILER_RESULT_HOSTS.",
        ),
        "hook_failed": (
            "warn",
            "The application's hooks fail ({n} concerned).",
            "See the log for what it said, and fix the function; what waits for it is tried again.",
        ),
        "row_refused": (
            "warn",
            "The application's table rejects our write ({n} generations).",
            "Run `kie-reconciler explain ID`; fix the trigger, constraint or column that it names.",
        ),
        "row_locked": (
            "warn",
            "Another session holds a lock that our write needs, for more than two minutes ({n} generations).",
            "Run `kie-reconciler stuck`, then end that session: pg_stat_activity, oldest xact_start.",
        ),
        "parked": (
            "warn",
            "RECONCILER_GIVE_UP_AFTER has passed, but KIE gives no answer that allows failing them ({n} generations).",
            "Run `kie-reconciler explain ID`; the task may belong to another key or account.",
        ),
        "empty_success": (
            "warn",
            "KIE reports success without any output ({n} generations).",
            "Wait: they fail with this reason if KIE keeps answering so for 40 minutes; later output is delivered.",
        ),
        "unreadable_output": (
            "warn",
            "KIE reports success with output that this version cannot read ({n} generations).",
            "Run `kie-reconciler explain ID`: it names model and fields. Upgrade, or report them; the rows wait.",
        ),
        "over_limit": (
            "warn",
            "Results exceed a limit of this installation ({n} generations).",
            "Run `kie-reconciler stuck`; raise RECONCILER_MAX_RESULTS or RECONCILER_MAX_ASSET_BYTES, or add the type.",
        ),
        "task_unknown": (
            "warn",
            "KIE knows these tasks on none of the pages and with none of the keys that were tried ({n} generations).",
            "Run `kie-reconciler explain ID`; check that the key of the account that made the task is configured.",
        ),
        "results_missing": (
            "warn",
            "Delivered without every result: KIE announced more than it has given ({n} generations).",
            "Nothing, if KIE gives them later: they are added. `kie-reconciler explain ID` names the missing ones.",
        ),
        "asset_overwritten": (
            "warn",
            "The application keeps replacing stored addresses by the provider's, which expire ({n} generations).",
            "Let it write asset_url only where it is NULL. They are repaired three times a day at most.",
        ),
        "no_task": (
            "warn",
            "The row has no task id, so KIE cannot be asked ({n} generations).",
            "Check how the application creates tasks, and why it leaves rows without an id.",
        ),
        "row_waits": (
            "warn",
            "These can continue only after a problem is fixed ({n} generations).",
            "Run `kie-reconciler stuck`; it shows what each one waits for.",
        ),
    }
)


def findings(snapshot: Snapshot, thresholds: FindingThresholds) -> tuple[Finding, ...]:
    """Return the open findings in the order in which an operator needs them.

    Those of severity `page` come first. What rows wait for is named before `media_expiring` and `stuck`, which say that
    they wait; last comes what delays no delivery. Equals are in the order of NAMES.
    """
    found = [
        *_replica_findings(snapshot),
        *_row_findings(snapshot, thresholds),
        *_table_findings(snapshot),
        *_failing_findings(snapshot),
        *_listener_findings(snapshot),
        *_periodic_findings(snapshot, thresholds),
        *_hook_findings(snapshot),
        *_waiting_findings(snapshot),
    ]
    return _ordered(found)


def with_published(found: Sequence[Finding], published: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return what a command finds in the tables, and of what the leader published what only a daemon can know."""
    names = {finding.name for finding in found}
    only_daemon = [finding for finding in published if finding.name in _KNOWN_TO_DAEMON - names]
    return _ordered([*found, *only_daemon])


def _ordered(found: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(found, key=lambda finding: (_rank(finding), NAMES.index(finding.name))))


def _rank(finding: Finding) -> int:
    match finding.name:
        case "media_expiring":
            return 2
        case "stuck":
            return 3
    if finding.severity == "page":
        return 0
    return 4 if finding.name in _DELAYS_NO_DELIVERY else 1


def _replica_findings(snapshot: Snapshot) -> Iterator[Finding]:
    waiting = sum(snapshot.in_flight.values())
    if waiting and not snapshot.instances:
        says = f"No replica of the daemon is alive, and {waiting} generations are in flight."
        do = "Start it: `systemctl start kie-reconciler`, or `pm2 start kie-reconciler`; its own log says why it ended."
        yield Finding("no_replica", waiting, "page", says, do)
    elif lost := snapshot.replicas_lost:
        says = f"Replicas have ended without signing off: {', '.join(lost[:5])}."
        do = "Start them again where a supervisor has not; their log says why. The others took their rows."
        yield Finding("replica_lost", len(lost), "warn", says, do)
    ahead, age = snapshot.clock_ahead, snapshot.step_age
    if abs(ahead) >= CLOCK_SECONDS:
        way = "ahead of" if ahead > 0 else "behind"
        says = f"The database's clock is {format_seconds(abs(ahead))} {way} the clock of {snapshot.host}."
        do = "Let NTP set the wrong one. Deliveries go on; alerts that compare times may be wrong until then."
        yield Finding("clock_wrong", 1, "warn", says, do)
    elif age is not None and 0 <= age < STEP_SECONDS:
        says = f"The database's clock was set {format_seconds(age)} ago."
        do = "Find what sets it. Nothing is given up or deleted by its age until it has run evenly for ten minutes."
        yield Finding("clock_wrong", 1, "warn", says, do)


def _row_findings(snapshot: Snapshot, thresholds: FindingThresholds) -> Iterator[Finding]:
    if snapshot.stuck:
        says = f"{snapshot.stuck} in flight for longer than {format_seconds(thresholds.stuck_after.total_seconds())}."
        do = "Run `kie-reconciler stuck`; it shows why each one has not ended."
        yield Finding("stuck", snapshot.stuck, "warn", says, do)
    if snapshot.expiring:
        deadline = snapshot.media_deadline
        first = "" if deadline is None else f", the first in {format_seconds(max(deadline, 0))}"
        says = f"{snapshot.expiring} results are not stored, and their addresses expire{first}."
        do = "Run `kie-reconciler stuck`, then `explain` with the oldest; remove what stops the delivery."
        yield Finding("media_expiring", snapshot.expiring, "page", says, do)
    if snapshot.lost:
        says = f"{snapshot.lost} delivered results disappeared from storage within a day, and KIE no longer has them."
        do = "Restore them from a backup of the storage; `kie-reconciler audit` lists them."
        yield Finding("lost", snapshot.lost, "page", says, do)


def _failing_findings(snapshot: Snapshot) -> Iterator[Finding]:
    """Yield the parties that fail rows: KIE's API, the hosts of results, our storage.

    A row counts from its third failure in a row at that party. The finding opens with three such rows, or when the
    oldest failure is five minutes ago; for KIE's API they must also be most of the rows in flight. It closes when they
    are fewer: a row leaves when its party works again, and when it ends or is cancelled. Without any row, our check of
    the storage must have failed for five minutes.
    """
    for side, failing in snapshot.failing.items():
        lasting = failing.rows >= SEVERAL or failing.seconds >= FAILING_SECONDS
        most = 2 * failing.rows > sum(snapshot.in_flight.values())
        if not lasting or (side == "kie" and not most) or (side == "source" and not failing.rows):
            continue
        name, says, do = _FAILING[side]
        what = says.format(n=failing.rows) if failing.rows else _CHECKED
        said = f"{what}, for {format_seconds(max(failing.seconds, 0))}."
        hosts = f" Seen: {', '.join(failing.hosts[:5])}." if failing.hosts else ""
        reason = f" Last words: {failing.reason.rstrip('.')}." if failing.reason else ""
        yield Finding(name, max(failing.rows, 1), "warn", f"{said}{reason}", f"{do}{hosts}")


_CHECKED = "Our storage fails our check of it"

_FAILING: Mapping[Side, tuple[str, str, str]] = MappingProxyType(
    {
        "kie": (
            "provider_silent",
            "KIE gives no usable answer about {n} generations, most of those in flight",
            "See `kie-reconciler stuck` and KIE's status page; nothing is lost, every row is polled again.",
        ),
        "source": (
            "source_failing",
            "The results of {n} generations cannot be fetched",
            "Fetch an address from this machine with curl. If it answers, check DNS and the way out; if not, wait.",
        ),
        "storage": (
            "storage_failing",
            "Our storage fails {n} generations",
            "Run `kie-reconciler doctor`; check the storage's status page, its quota, and the disk of a local folder.",
        ),
    }
)
"""Name, what the finding says, and what to do, by the side that fails."""


def _table_findings(snapshot: Snapshot) -> Iterator[Finding]:
    if snapshot.table_trouble is not None:
        says = f"The application's table cannot be used, so nothing is delivered: {snapshot.table_trouble}."
        do = "Undo that change, or run `kie-reconciler doctor` for the SQL; it goes on by itself within seconds."
        yield Finding("table_changed", 1, "page", says, do)


def _listener_findings(snapshot: Snapshot) -> Iterator[Finding]:
    if snapshot.transaction_pooler:
        says = "DATABASE_URL leads to a pooler in transaction mode, where LISTEN does not work."
        do = "Set it to the direct or the session-mode address; until then the sweep finds every row."
        yield Finding("transaction_pooler", 1, "warn", says, do)
    # The pooler is the cause of missing notifications: one cause, one finding.
    elif not snapshot.listening or snapshot.canary_age > CANARY_SECONDS:
        says = f"No notification has come back for {format_seconds(snapshot.canary_age)}; only the sweep finds rows."
        do = "If it does not recover by itself, check the network between the daemon and the database."
        yield Finding("deaf_listener", 1, "warn", says, do)
    if snapshot.queue_usage > QUEUE_SHARE:
        says = f"PostgreSQL's notification queue is {snapshot.queue_usage:.0%} full; once full, every commit fails."
        do = "End the session that listens inside a transaction: pg_stat_activity, oldest xact_start."
        yield Finding("notification_queue", 1, "page", says, do)


def _periodic_findings(snapshot: Snapshot, thresholds: FindingThresholds) -> Iterator[Finding]:
    # A table that cannot be used is why no sweep ends: one cause, one finding.
    if snapshot.sweep_age > 3 * thresholds.sweep_seconds and snapshot.table_trouble is None:
        says = f"No sweep has ended for {format_seconds(snapshot.sweep_age)}."
        do = "Check the database's load and the log."
        yield Finding("late_sweep", 1, "page", says, do)
    if snapshot.schema_behind:
        says = f"The database lacks {snapshot.schema_behind} of this version's migrations."
        yield Finding("schema_behind", snapshot.schema_behind, "warn", says, "Run `kie-reconciler migrate`.")
    if snapshot.unannounced and snapshot.unannounced_age > UNANNOUNCED_SECONDS:
        age = format_seconds(snapshot.unannounced_age)
        says = f"{snapshot.unannounced} events are not delivered, the oldest for {age}."
        do = "Check whether the receiver at RECONCILER_NOTIFY_URL answers with 2xx."
        yield Finding("outbox_growing", snapshot.unannounced, "warn", says, do)
    if snapshot.events_dead:
        says = f"{snapshot.events_dead} events were given up: RECONCILER_NOTIFY_URL did not accept them for three days."
        do = "Fix the receiver, then send them again as docs/OPERATIONS.md says."
        yield Finding("events_dead", snapshot.events_dead, "warn", says, do)


def _hook_findings(snapshot: Snapshot) -> Iterator[Finding]:
    failing = {"on_failed": snapshot.waiting.get("hook_failed", 0), **snapshot.hooks}
    said = [_HOOKS[hook].format(n=count) for hook, count in failing.items() if count]
    if said:
        severity, _, do = _ADVICE["hook_failed"]
        yield Finding("hook_failed", sum(failing.values()), severity, f"{'; '.join(said)}.", do)


_HOOKS: Mapping[str, str] = MappingProxyType(
    {
        "on_failed": "reconciler.on_failed throws: {n} failures are not written",
        "on_order": "reconciler.on_order throws: {n} orders were not taken",
        "on_delivered": "reconciler.on_delivered throws: {n} deliveries wait to be told",
    }
)
"""What each hook of the application holds up while it fails."""


def _waiting_findings(snapshot: Snapshot) -> Iterator[Finding]:
    keys_and_bucket = {
        "unpaid_account": snapshot.keys_unpaid,
        "key_rejected": snapshot.keys_rejected,
        "storage_refuses": snapshot.bucket_closed,
    }
    others = sum(count for word, count in snapshot.waiting.items() if word not in _ADVICE)
    for name, (severity, says, do) in _ADVICE.items():
        # A key or bucket and the rows that wait for it are one problem.
        count = max(snapshot.waiting.get(name, 0), keys_and_bucket.get(name, 0))
        if name == "row_waits":
            count += others
        if not count or name == "hook_failed" or (name == "table_changed" and snapshot.table_trouble is not None):
            continue
        hosts = snapshot.unlisted_hosts[:5] if name == "host_unlisted" else ()
        yield Finding(name, count, severity, says.format(n=count), f"{do} Seen: {', '.join(hosts)}." if hosts else do)


def format_seconds(seconds: float) -> str:
    """Return a duration as text: seconds up to two minutes, then minutes, hours, days."""
    size, unit = next(
        (unit for unit in ((86400, "d"), (3600, "h"), (60, "min")) if abs(seconds) >= 2 * unit[0]), (1, "s")
    )
    count = seconds / size
    return f"{round(count, 1 if abs(count) < 10 else 0):g} {unit}"
