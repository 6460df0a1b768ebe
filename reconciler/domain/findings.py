"""What is amiss, said so that somebody can act: a snapshot of the whole table in, findings out.

The leader takes the snapshot and passes the findings on; nothing here reads a clock or the database. Names are stable:
alerts and runbooks hang on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Literal

Severity = Literal["warn", "page"]

NAMES = (
    "stuck",
    "media_expiring",
    "lost",
    "provider_silent",
    "deaf_listener",
    "transaction_pooler",
    "late_sweep",
    "schema_behind",
    "outbox_growing",
    "events_dead",
    "notification_queue",
    "unpaid_account",
    "key_rejected",
    "storage_refuses",
    "host_unlisted",
    "hook_failed",
    "row_refused",
    "parked",
    "empty_success",
    "no_task",
    "row_waits",
)
"""Every finding there can be."""

_NO_COUNTS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing amiss: how many it concerns, what it means in one sentence, what to do in another.

    `page` is for what loses a paid result or stops every delivery unless somebody acts; the rest is `warn`.
    """

    name: str
    count: int
    severity: Severity
    says: str
    do: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole table at one moment; ages in seconds.

    `waiting` counts rows by the finding they rest with, `unheard` those in flight with three misses in a row or more,
    `expiring` undelivered results past half of their address's life. `canary_age` and `sweep_age` count from the last
    that came back or ended, before the first from the start. `unannounced` (given up: `events_dead`) is
    zero where nobody is to be told. `overdue` are due and in nobody's hands: they wait for a request to spare. `lost`
    was delivered, and was found gone for good within the last day.
    """

    in_flight: Mapping[str, int]
    canary_age: float
    sweep_age: float
    listening: bool
    oldest: float | None = None
    stuck: int = 0
    unheard: int = 0
    expiring: int = 0
    media_deadline: float | None = None
    waiting: Mapping[str, int] = field(default_factory=lambda: _NO_COUNTS)
    unlisted_hosts: tuple[str, ...] = ()
    keys_rejected: int = 0
    keys_unpaid: int = 0
    bucket_closed: int = 0
    transaction_pooler: bool = False
    schema_behind: int = 0
    unannounced: int = 0
    unannounced_age: float = 0.0
    events_dead: int = 0
    queue_usage: float = 0.0
    instances: int = 1
    looks_per_delivery: float | None = None
    overdue: int = 0
    lost: int = 0


SILENT_SECONDS = 30.0
"""A canary is sent every ten seconds and comes back within five: after these, two were lost."""

UNANNOUNCED_SECONDS = 600.0
QUEUE_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class FindingThresholds:
    """What the settings say about when a figure is amiss."""

    stuck_after: timedelta = timedelta(minutes=10)
    sweep_seconds: float = 15.0


@dataclass(frozen=True, slots=True)
class _Advice:
    severity: Severity
    says: str
    do: str


_ADVICE: Mapping[str, _Advice] = MappingProxyType(
    {
        "unpaid_account": _Advice(
            "page",
            "KIE's account has no credits, or a key's cap is reached ({n} concerned).",
            "Top up at kie.ai or raise the key's cap; everything goes on by itself.",
        ),
        "key_rejected": _Advice(
            "page",
            "KIE rejects an API key ({n} concerned).",
            "Check KIE_API_KEY and its siblings, and the key's list of allowed addresses at kie.ai.",
        ),
        "storage_refuses": _Advice(
            "page",
            "Storage refuses what should be stored, or nobody can open it ({n} concerned).",
            "`kie-reconciler stuck` and `doctor` say what is refused: mend the bucket's types, size limit or policies.",
        ),
        "host_unlisted": _Advice(
            "warn",
            "Results lie at a host that is not listed ({n} generations).",
            "If the host is KIE's, add it to RECONCILER_RESULT_HOSTS.",
        ),
        "hook_failed": _Advice(
            "warn",
            "reconciler.on_failed threw, so failures are not written ({n} generations).",
            "Mend the function; failure and refund are then written together.",
        ),
        "row_refused": _Advice(
            "warn",
            "The application's table refuses what should be written ({n} generations).",
            "Run `kie-reconciler explain ID`; mend the trigger, constraint or column that it names.",
        ),
        "parked": _Advice(
            "warn",
            "The time is up, and nothing heard allows to fail them ({n} generations).",
            "Run `kie-reconciler explain ID`; the task may belong to another key or account.",
        ),
        "empty_success": _Advice(
            "warn",
            "KIE reports success without any output ({n} generations).",
            "Nothing yet: they fail with that reason when KIE keeps saying it.",
        ),
        "no_task": _Advice(
            "warn",
            "There is no task id to ask about ({n} generations).",
            "See how the application creates tasks, and which rows it leaves without an id.",
        ),
        "row_waits": _Advice(
            "warn",
            "Something has to be mended before these can go on ({n} generations).",
            "Run `kie-reconciler stuck`; it tells what each one waits for.",
        ),
    }
)


def findings(snapshot: Snapshot, bounds: FindingThresholds) -> tuple[Finding, ...]:
    """Return what is amiss: first what pages somebody, then in the order of NAMES."""
    found = [
        *_of_rows(snapshot, bounds),
        *_of_listening(snapshot),
        *_of_rounds(snapshot, bounds),
        *_of_waiting(snapshot),
    ]
    return tuple(sorted(found, key=lambda finding: (finding.severity != "page", NAMES.index(finding.name))))


def _of_rows(snapshot: Snapshot, bounds: FindingThresholds) -> Iterator[Finding]:
    if snapshot.stuck:
        says = f"{snapshot.stuck} in flight for longer than {span(bounds.stuck_after.total_seconds())}."
        do = "Run `kie-reconciler stuck`; it tells why each one has not ended."
        yield Finding("stuck", snapshot.stuck, "warn", says, do)
    if snapshot.expiring:
        first = "" if snapshot.media_deadline is None else f", the first in {span(max(snapshot.media_deadline, 0))}"
        says = f"{snapshot.expiring} results are not stored and their addresses die{first}."
        do = "Run `kie-reconciler stuck` and `explain` its oldest; remove what stops the delivery."
        yield Finding("media_expiring", snapshot.expiring, "page", says, do)
    if snapshot.lost:
        says = f"{snapshot.lost} delivered results have gone from storage within a day, and KIE has them no more."
        do = "Bring them back from a backup of the storage; `kie-reconciler audit` lists them."
        yield Finding("lost", snapshot.lost, "page", says, do)
    if snapshot.unheard >= 3 and 2 * snapshot.unheard > sum(snapshot.in_flight.values()):
        says = f"KIE tells nothing about {snapshot.unheard} generations, most of those in flight."
        do = "See `kie-reconciler stuck` and KIE's status page; nothing is lost meanwhile, all is asked again."
        yield Finding("provider_silent", snapshot.unheard, "warn", says, do)


def _of_listening(snapshot: Snapshot) -> Iterator[Finding]:
    if snapshot.transaction_pooler:
        says = "DATABASE_URL leads to a pooler in transaction mode, where notifications never come."
        do = "Give it the direct or the session-mode address; until then the sweep finds every row."
        yield Finding("transaction_pooler", 1, "warn", says, do)
    # The pooler explains the deafness: two findings would send somebody looking twice.
    elif not snapshot.listening or snapshot.canary_age > SILENT_SECONDS:
        says = f"No notification has come back for {span(snapshot.canary_age)}; the sweep alone finds rows."
        do = "If it does not heal by itself, look at what stands between the daemon and the database."
        yield Finding("deaf_listener", 1, "warn", says, do)
    if snapshot.queue_usage > QUEUE_SHARE:
        says = f"PostgreSQL's notification queue is {snapshot.queue_usage:.0%} full; once full, every commit fails."
        do = "End the session that listens inside a transaction: pg_stat_activity, oldest xact_start."
        yield Finding("notification_queue", 1, "page", says, do)


def _of_rounds(snapshot: Snapshot, bounds: FindingThresholds) -> Iterator[Finding]:
    if snapshot.sweep_age > 3 * bounds.sweep_seconds:
        says = f"No sweep has ended for {span(snapshot.sweep_age)}."
        do = "Look at the database's load and at the log."
        yield Finding("late_sweep", 1, "page", says, do)
    if snapshot.schema_behind:
        says = f"The database lacks {snapshot.schema_behind} of this version's migrations."
        yield Finding("schema_behind", snapshot.schema_behind, "warn", says, "Run `kie-reconciler migrate`.")
    if snapshot.unannounced and snapshot.unannounced_age > UNANNOUNCED_SECONDS:
        says = f"{snapshot.unannounced} events are not announced, the oldest for {span(snapshot.unannounced_age)}."
        do = "See whether the receiver at RECONCILER_NOTIFY_URL answers with 2xx."
        yield Finding("outbox_growing", snapshot.unannounced, "warn", says, do)
    if snapshot.events_dead:
        says = f"{snapshot.events_dead} events were given up: RECONCILER_NOTIFY_URL did not take them for three days."
        do = "Mend the receiver, then send them again as docs/OPERATIONS.md says."
        yield Finding("events_dead", snapshot.events_dead, "warn", says, do)


def _of_waiting(snapshot: Snapshot) -> Iterator[Finding]:
    parts = {
        "unpaid_account": snapshot.keys_unpaid,
        "key_rejected": snapshot.keys_rejected,
        "storage_refuses": snapshot.bucket_closed,
    }
    strangers = sum(count for word, count in snapshot.waiting.items() if word not in _ADVICE)
    for name, advice in _ADVICE.items():
        # A key or a bucket and the rows that wait for it are one trouble, not two.
        count = max(snapshot.waiting.get(name, 0), parts.get(name, 0))
        if name == "row_waits":
            count += strangers
        if not count:
            continue
        do = advice.do
        if name == "host_unlisted" and snapshot.unlisted_hosts:
            do = f"{do} Seen: {', '.join(snapshot.unlisted_hosts[:5])}."
        yield Finding(name, count, advice.severity, advice.says.format(n=count), do)


def span(seconds: float) -> str:
    """Return a time as a person says it: seconds up to two minutes, then minutes, hours, days."""
    size, unit = next(
        (each for each in ((86400, "d"), (3600, "h"), (60, "min")) if abs(seconds) >= 2 * each[0]), (1, "s")
    )
    count = seconds / size
    return f"{round(count, 1 if abs(count) < 10 else 0):g} {unit}"
