"""All Prometheus metrics, declared once; other code records them through the methods of `Metrics`.

The registry is not global. Labels are small closed sets: never an id, an address or free text. Only the leader sets the
table-wide gauges, from its snapshot: aggregate them with max.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from itertools import product
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from reconciler import __version__
from reconciler.domain.findings.findings import NAMES as FINDINGS
from reconciler.domain.findings.findings import Finding
from reconciler.domain.findings.snapshot import Snapshot
from reconciler.domain.model import OPEN, Trigger
from reconciler.domain.object_keys import Kind
from reconciler.errors import Permanent

DELIVERY_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600, 21600, 86400)
"""Bucket edges: the service level objectives, and the 20 minutes that a new result address works."""

REQUEST_SECONDS = (0.01, 0.05, 0.1, 0.3, 1, 3, 10, 30)

EXEMPLAR_LENGTH = 128
"""The most characters that OpenMetrics allows for the labels of an exemplar."""

REQUESTS = ("ok", "refused", "rate_limited", "away")
CALLBACKS = ("stored", "duplicate", "late", "unknown", "malformed", "unauthorized", "too_large", "unavailable")
"""Results of a callback: `late` is for a row that has ended, `unknown` for a task that no row has yet."""

POLLS = ("working", "ready", "refused", "unknown", "unheard")
ANNOUNCEMENTS = ("told", "again", "dead")
DELIVERIES = ("delivered", "failed", "gave_up")
AUDITS = ("ok", "broken", "repaired", "lost", "left", "away")
"""Outcomes of audits and repairs; `left` needs no action, `away` means that storage is unreachable."""


_KINDS = {"kind": tuple(Kind)}
_TRIGGERS = {"trigger": tuple(Trigger)}

Labels = Mapping[str, Iterable[str]]
_M = TypeVar("_M", bound=MetricWrapperBase)


class Metrics:
    """The metrics of the daemon; times are in seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._exposed = CollectorRegistry()
        self._exposed.register(_WithoutCreated(self.registry))
        self._declare_work()
        self._declare_traffic()
        self._declare_table_wide()
        self._declare_instance()
        # Until the leader sets them they are unknown, which is NaN and not zero.
        self.forget()

    def _declare_work(self) -> None:
        self.deliveries = self._new(Counter, "deliveries", "Generations ended.", {"outcome": DELIVERIES, **_TRIGGERS})
        self.time_to_delivery = self._new(
            Histogram,
            "time_to_delivery_seconds",
            "From the row's creation to its delivery.",
            _KINDS,
            buckets=DELIVERY_SECONDS,
        )
        self.completion_to_delivery = self._new(
            Histogram,
            "completion_to_delivery_seconds",
            "From KIE's completion to delivery.",
            _KINDS,
            buckets=DELIVERY_SECONDS,
        )
        self.detection_lag = self._new(
            Histogram,
            "detection_lag_seconds",
            "From KIE's completion until it was seen.",
            _TRIGGERS,
            buckets=DELIVERY_SECONDS,
        )
        self.polls = self._new(Counter, "polls", "Answers to recordInfo, by meaning.", {"outcome": POLLS})
        self.failures = self._new(Counter, "attempt_failures", "Attempts that failed.", {"stage": (), "reason": ()})
        self.audits = self._new(Counter, "audits", "Deliveries compared with storage.", {"outcome": AUDITS})
        self.leases_lost = self._new(Counter, "leases_lost", "Leases that another instance took over during a visit.")

    def _declare_traffic(self) -> None:
        self.kie_seconds = self._new(Histogram,
            "kie_request_seconds", "Requests to KIE.",
            {"endpoint": ("record", "create", "download_url", "credit"), "outcome": REQUESTS}, buckets=REQUEST_SECONDS,
        )  # fmt: skip
        self.storage_seconds = self._new(Histogram,
            "storage_request_seconds", "Calls of the storage.",
            {"operation": ("put", "prove"), "outcome": ("ok", "refused", "away")}, buckets=REQUEST_SECONDS,
        )  # fmt: skip
        self.downloaded = self._new(Counter, "downloaded_bytes", "Bytes fetched from sources.")
        self.uploaded = self._new(Counter, "uploaded_bytes", "Bytes stored and proven.")
        self.callbacks = self._new(Counter, "callbacks", "Callbacks of KIE.", {"result": CALLBACKS})
        self.announcements = self._new(
            Counter,
            "announcements",
            "Attempts to deliver an event to the receiver, by outcome.",
            {"outcome": ANNOUNCEMENTS},
        )
        self.notifications = self._new(Counter, "notifications", "Notifications received.")

    def _declare_table_wide(self) -> None:
        self.in_flight = self._new(Gauge, "in_flight_generations", "Generations in flight.", {"status": OPEN})
        self.stuck = self._new(Gauge, "stuck_generations", "Generations in flight for too long.")
        self.oldest = self._new(Gauge, "oldest_in_flight_age_seconds", "Age of the oldest generation in flight.")
        self.expiring = self._new(
            Gauge, "undelivered_expiring_generations", "Results past half of their address's life."
        )
        self.media_deadline = self._new(
            Gauge, "media_deadline_seconds", "Least time left before an undelivered result expires."
        )
        self.polls_per_delivery = self._new(Gauge, "polls_per_delivery", "Polls for each delivery, last 24 h.")
        self.poll_budget_waiting = self._new(
            Gauge, "poll_budget_waiting", "Generations that are due and wait for the rate limit."
        )
        self.events_unannounced = self._new(
            Gauge, "events_unannounced", "Events in the outbox that are not delivered yet."
        )
        self.queue_usage = self._new(
            Gauge, "notification_queue_usage", "Share of PostgreSQL's notification queue in use."
        )
        self.instances = self._new(Gauge, "instances", "Replicas seen within two leases.")
        self.findings = self._new(Gauge, "findings", "Open findings, by name.", {"name": FINDINGS})
        self.kie_credits = self._new(Gauge, "kie_credits", "Credits left at KIE, with the first key.")

    def _declare_instance(self) -> None:
        self.listener_connected = self._new(Gauge, "listener_connected", "Whether the listener receives notifications.")
        self.canary = self._new(Gauge, "canary_seconds", "How long the last canary took to come back.")
        self.canary_seen = self._new(Gauge, "canary_last_seen_timestamp_seconds", "When a canary last came back.")
        self.is_leader = self._new(
            Gauge, "is_leader", "Whether this replica is the leader, which sets the table-wide gauges."
        )
        self.last_sweep = self._new(Gauge, "last_sweep_timestamp_seconds", "When the last sweep ended.")
        self.database_up = self._new(Gauge, "database_up", "Whether the last statement to the database succeeded.")
        self.database_up.set(math.nan)
        self.schema_behind = self._new(Gauge, "schema_behind", "Migrations that are not applied.")
        self._new(Gauge, "build_info", "What runs here.", {"version": (__version__,)}).labels(__version__).set(1)

    def ended(self, outcome: str, trigger: Trigger) -> None:
        """Count a generation that ended in one of DELIVERIES."""
        self.deliveries.labels(outcome, trigger).inc()

    def delivered(
        self, kind: str, age: timedelta, since_completion: timedelta | None, *, generation_id: str | None = None
    ) -> None:
        """Record how long a delivered generation took; its id becomes the exemplar."""
        exemplar = _exemplar(generation_id)
        self.time_to_delivery.labels(kind).observe(max(age.total_seconds(), 0), exemplar)
        if since_completion is not None:
            self.completion_to_delivery.labels(kind).observe(max(since_completion.total_seconds(), 0), exemplar)

    def seen(self, trigger: Trigger, since_completion: timedelta, *, generation_id: str | None = None) -> None:
        """Record the time from a task's completion until the daemon saw it."""
        lag = max(since_completion.total_seconds(), 0)
        self.detection_lag.labels(trigger).observe(lag, _exemplar(generation_id))

    def totals(self) -> dict[str, int]:
        """Return the counts and bytes of this process since its start, for the rates in `top`."""
        counters = {
            "polls": self.polls,
            "deliveries": self.deliveries,
            "downloaded": self.downloaded,
            "uploaded": self.uploaded,
        }
        return {name: int(_sum(counter)) for name, counter in counters.items()}

    def missed(self, stage: str, reason: str) -> None:
        """Count a failed attempt; stage and reason are stable words."""
        self.failures.labels(stage, reason).inc()

    def heard_canary(self, seconds: float | None, now: float) -> None:
        """Record the seconds that the canary took, None if it did not come back; `now` is Unix time."""
        self.listener_connected.set(seconds is not None)
        if seconds is not None:
            self.canary.set(seconds)
            self.canary_seen.set(now)

    def draw(self, snapshot: Snapshot, found: Iterable[Finding]) -> None:
        """Set the table-wide gauges from the leader's snapshot, NaN where there are no figures of the table."""
        if snapshot.table_trouble is None:
            self._draw_figures(snapshot)
        else:
            self._forget_figures()
        counts = {finding.name: finding.count for finding in found}
        for name in FINDINGS:
            self.findings.labels(name).set(counts.get(name, 0))

    def _draw_figures(self, snapshot: Snapshot) -> None:
        for status in OPEN:
            self.in_flight.labels(status).set(snapshot.in_flight.get(status, 0))
        self.stuck.set(snapshot.stuck)
        self.oldest.set(snapshot.oldest or 0)
        self.expiring.set(snapshot.expiring)
        self.media_deadline.set(math.inf if snapshot.media_deadline is None else snapshot.media_deadline)
        self.events_unannounced.set(snapshot.unannounced)
        self.queue_usage.set(snapshot.queue_usage)
        self.instances.set(snapshot.instances)
        self.schema_behind.set(snapshot.schema_behind)
        self.polls_per_delivery.set(math.nan if snapshot.polls_per_delivery is None else snapshot.polls_per_delivery)
        self.poll_budget_waiting.set(snapshot.overdue)

    def forget(self) -> None:
        """Set the table-wide gauges to NaN: another replica is the leader now, and old values would mislead."""
        self._forget_figures()
        self.kie_credits.set(math.nan)
        for name in FINDINGS:
            self.findings.labels(name).set(math.nan)

    def _forget_figures(self) -> None:
        for gauge in (self.stuck, self.oldest, self.expiring, self.media_deadline, self.events_unannounced,
                      self.queue_usage, self.instances, self.schema_behind, self.polls_per_delivery,
                      self.poll_budget_waiting):  # fmt: skip
            gauge.set(math.nan)
        for status in OPEN:
            self.in_flight.labels(status).set(math.nan)

    def asking(self, endpoint: str) -> AbstractContextManager[None]:
        """Record the duration and outcome of a request to KIE."""
        return _timed(self.kie_seconds, endpoint)

    def storing(self, operation: str) -> AbstractContextManager[None]:
        """Record the duration and outcome of a call of the storage."""
        return _timed(self.storage_seconds, operation)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the exposition and its content type for the scraper's Accept header; exemplars only in OpenMetrics."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):
            # The library raises on an invalid version in the header.
            encode, content_type = choose_encoder("")
        return encode(self._exposed), content_type

    def _new(self, kind: type[_M], name: str, description: str, labels: Labels | None = None, **options: Any) -> _M:
        """Declare a metric, and create the series of every known label set, so that its first increase counts."""
        labels = labels or {}
        metric = kind(name, description, tuple(labels), namespace="kie_reconciler", registry=self.registry, **options)
        for values in product(*labels.values()) if labels else ():
            metric.labels(*values)
        return metric


@contextmanager
def _timed(histogram: Histogram, operation: str) -> Iterator[None]:
    started, outcome = time.monotonic(), "away"
    try:
        yield
        outcome = "ok"
    except Permanent:
        outcome = "refused"
        raise
    finally:
        histogram.labels(operation, outcome).observe(time.monotonic() - started)


class _WithoutCreated(Collector):
    """Collects everything but the creation times of the series, which are a quarter of the bytes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


def _exemplar(generation_id: str | None) -> dict[str, str] | None:
    # The library raises on a longer exemplar; the figures matter more.
    if generation_id is None or len("generation_id") + len(generation_id) > EXEMPLAR_LENGTH:
        return None
    return {"generation_id": generation_id}


def _sum(counter: Counter) -> float:
    (family,) = counter.collect()
    return sum(sample.value for sample in family.samples if sample.name.endswith("_total"))
