"""Everything that is counted, declared once and recorded through a verb.

An own registry, no globals. Labels are small closed sets: never an id, an address or free text. Table-wide gauges are
set by the leader's snapshot and by nobody else: aggregate them with max.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from reconciler import __version__
from reconciler.domain.findings import NAMES as FINDINGS
from reconciler.domain.findings import Finding, Snapshot
from reconciler.domain.model import OPEN, Trigger
from reconciler.domain.object_keys import Kind
from reconciler.errors import Permanent

DELIVERY_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600, 21600, 86400)
"""The edges of the objectives, and the 20 minutes that a minted link lives."""

REQUEST_SECONDS = (0.01, 0.05, 0.1, 0.3, 1, 3, 10, 30)

EXEMPLAR_LETTERS = 128
"""What OpenMetrics lets the names and values of an exemplar's labels have together."""

REQUESTS = ("ok", "refused", "rate_limited", "away")
CALLBACKS = ("stored", "duplicate", "late", "unknown", "malformed", "unauthorized", "too_large", "unavailable")
"""What became of a callback: `late` is for a row that has ended, `unknown` for a task that no row has yet."""

POLLS = ("working", "ready", "refused", "unknown", "unheard")
ANNOUNCEMENTS = ("told", "again", "dead")
DELIVERIES = ("delivered", "failed", "gave_up")
AUDITS = ("ok", "broken", "repaired", "lost", "left", "away")
"""What audits found, and what became of what was broken; `left` needs nothing from us, `away` is the storage."""


_KINDS = {"kind": tuple(Kind)}
_TRIGGERS = {"trigger": tuple(Trigger)}

Labels = Mapping[str, Iterable[str]]


class Metrics:
    """The daemon's figures; times in seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._told = CollectorRegistry()
        self._told.register(_WithoutCreated(self.registry))
        self._declare_work()
        self._declare_traffic()
        self._declare_table_wide()
        self._declare_instance()
        # Until they are drawn they are unknown, and unknown is not zero.
        self.forget()

    def _declare_work(self) -> None:
        self.deliveries = self._counter("deliveries", "Generations ended.", {"outcome": DELIVERIES, **_TRIGGERS})
        self.time_to_delivery = self._histogram(
            "time_to_delivery_seconds", "From the row's creation to its delivery.", DELIVERY_SECONDS, _KINDS
        )
        self.completion_to_delivery = self._histogram(
            "completion_to_delivery_seconds", "From KIE's completion to delivery.", DELIVERY_SECONDS, _KINDS
        )
        self.detection_lag = self._histogram(
            "detection_lag_seconds", "From KIE's completion until it was seen.", DELIVERY_SECONDS, _TRIGGERS
        )
        self.polls = self._counter("polls", "Answers to recordInfo, by what they meant.", {"outcome": POLLS})
        self.failures = self._counter("attempt_failures", "Attempts that brought nothing.", {"stage": (), "reason": ()})
        self.audits = self._counter("audits", "Deliveries compared with storage.", {"outcome": AUDITS})
        self.leases_lost = self._counter("leases_lost", "Visits that found another instance in their place.")

    def _declare_traffic(self) -> None:
        self.kie_seconds = self._histogram(
            "kie_request_seconds", "Requests to KIE.", REQUEST_SECONDS,
            {"endpoint": ("record", "create", "download_url", "credit"), "outcome": REQUESTS},
        )  # fmt: skip
        self.storage_seconds = self._histogram(
            "storage_request_seconds", "Calls of the storage.", REQUEST_SECONDS,
            {"operation": ("put", "prove"), "outcome": ("ok", "refused", "away")},
        )  # fmt: skip
        self.downloaded = self._counter("downloaded_bytes", "Bytes fetched from sources.")
        self.uploaded = self._counter("uploaded_bytes", "Bytes stored and proven.")
        self.callbacks = self._counter("callbacks", "Callbacks of KIE.", {"result": CALLBACKS})
        self.announcements = self._counter(
            "announcements", "Tries to tell the receiver of an event, by how they ended.", {"outcome": ANNOUNCEMENTS}
        )
        self.notifications = self._counter("notifications", "Notifications heard.")

    def _declare_table_wide(self) -> None:
        self.in_flight = self._gauge("in_flight_generations", "Generations in flight.", {"status": OPEN})
        self.stuck = self._gauge("stuck_generations", "Generations in flight for too long.")
        self.oldest = self._gauge("oldest_in_flight_age_seconds", "Age of the oldest generation in flight.")
        self.expiring = self._gauge("undelivered_expiring_generations", "Results past half of their address's life.")
        self.media_deadline = self._gauge(
            "media_deadline_seconds", "Least time left before an undelivered result dies."
        )
        self.polls_per_delivery = self._gauge("polls_per_delivery", "Looks that one delivery took, last 24 h.")
        self.poll_budget_waiting = self._gauge("poll_budget_waiting", "Generations due and waiting for a request.")
        self.events_unannounced = self._gauge("events_unannounced", "Events in the outbox that nobody has been told.")
        self.queue_usage = self._gauge("notification_queue_usage", "Share of PostgreSQL's notification queue in use.")
        self.instances = self._gauge("instances", "Replicas seen within two leases.")
        self.findings = self._gauge("findings", "What is amiss, by name.", {"name": FINDINGS})
        self.kie_credits = self._gauge("kie_credits", "Credits left at KIE, with the first key.")

    def _declare_instance(self) -> None:
        self.listener_connected = self._gauge("listener_connected", "Whether notifications are heard.")
        self.canary = self._gauge("canary_seconds", "How long the last canary took to come back.")
        self.canary_seen = self._gauge("canary_last_seen_timestamp_seconds", "When a canary last came back.")
        self.is_leader = self._gauge("is_leader", "Whether this replica draws the table-wide figures.")
        self.last_sweep = self._gauge("last_sweep_timestamp_seconds", "When the last sweep ended.")
        self.database_up = self._gauge("database_up", "Whether the last statement to the database succeeded.")
        self.database_up.set(math.nan)
        self.schema_behind = self._gauge("schema_behind", "Migrations that are not applied.")
        self._gauge("build_info", "What runs here.", {"version": (__version__,)}).labels(__version__).set(1)

    def ended(self, outcome: str, trigger: Trigger) -> None:
        """Count a generation that ended in one of DELIVERIES."""
        self.deliveries.labels(outcome, trigger).inc()

    def delivered(
        self, kind: str, age: timedelta, since_completion: timedelta | None, *, generation_id: str | None = None
    ) -> None:
        """Record how long a delivered generation took, which is then an example of what takes so long."""
        example = _exemplar(generation_id)
        self.time_to_delivery.labels(kind).observe(max(age.total_seconds(), 0), example)
        if since_completion is not None:
            self.completion_to_delivery.labels(kind).observe(max(since_completion.total_seconds(), 0), example)

    def seen(self, trigger: Trigger, since_completion: timedelta, *, generation_id: str | None = None) -> None:
        """Record how long a completed task went unseen."""
        lag = max(since_completion.total_seconds(), 0)
        self.detection_lag.labels(trigger).observe(lag, _exemplar(generation_id))

    def totals(self) -> dict[str, int]:
        """Return what this process has done since it began, as `top` makes rates of it: counts and bytes."""
        counters = {
            "polls": self.polls,
            "deliveries": self.deliveries,
            "downloaded": self.downloaded,
            "uploaded": self.uploaded,
        }
        return {name: int(_sum(counter)) for name, counter in counters.items()}

    def missed(self, stage: str, reason: str) -> None:
        """Count an attempt that brought nothing; both words are stable."""
        self.failures.labels(stage, reason).inc()

    def heard_canary(self, seconds: float | None, now: float) -> None:
        """Record how long the canary took, None when the listener is deaf; `now` is Unix time."""
        self.listener_connected.set(seconds is not None)
        if seconds is not None:
            self.canary.set(seconds)
            self.canary_seen.set(now)

    def draw(self, snapshot: Snapshot, found: Iterable[Finding]) -> None:
        """Set the table-wide gauges from the leader's snapshot."""
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
        counts = {finding.name: finding.count for finding in found}
        for name in FINDINGS:
            self.findings.labels(name).set(counts.get(name, 0))

    def forget(self) -> None:
        """Drop the table-wide figures: another replica draws them now, and old ones must not outlive its own."""
        for gauge in (self.stuck, self.oldest, self.expiring, self.media_deadline, self.events_unannounced,
                      self.queue_usage, self.instances, self.schema_behind, self.polls_per_delivery,
                      self.poll_budget_waiting, self.kie_credits):  # fmt: skip
            gauge.set(math.nan)
        for status in OPEN:
            self.in_flight.labels(status).set(math.nan)
        for name in FINDINGS:
            self.findings.labels(name).set(math.nan)

    @contextmanager
    def asking(self, endpoint: str) -> Iterator[None]:
        """Record how long a request to KIE takes and how it ends."""
        with self._timed(self.kie_seconds, endpoint):
            yield

    @contextmanager
    def storing(self, operation: str) -> Iterator[None]:
        """Record how long a call of the storage takes and how it ends."""
        with self._timed(self.storage_seconds, operation):
            yield

    @contextmanager
    def _timed(self, histogram: Histogram, what: str) -> Iterator[None]:
        began, outcome = time.monotonic(), "away"
        try:
            yield
            outcome = "ok"
        except Permanent:
            outcome = "refused"
            raise
        finally:
            histogram.labels(what, outcome).observe(time.monotonic() - began)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the figures and their content type, as the scraper's Accept header asks; exemplars in OpenMetrics."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):
            # The library reads a version that is none, and anybody may send one.
            encode, content_type = choose_encoder("")
        return encode(self._told), content_type

    def _counter(self, name: str, says: str, labels: Labels | None = None) -> Counter:
        counter = Counter(name, says, tuple(labels or ()), namespace="kie_reconciler", registry=self.registry)
        _begin(counter, labels)
        return counter

    def _gauge(self, name: str, says: str, labels: Labels | None = None) -> Gauge:
        gauge = Gauge(name, says, tuple(labels or ()), namespace="kie_reconciler", registry=self.registry)
        _begin(gauge, labels)
        return gauge

    def _histogram(self, name: str, says: str, edges: tuple[float, ...], labels: Labels) -> Histogram:
        histogram = Histogram(
            name, says, tuple(labels), namespace="kie_reconciler", registry=self.registry, buckets=edges
        )
        _begin(histogram, labels)
        return histogram


class _WithoutCreated(Collector):
    """What a scrape is told: all but the moments at which the series began, which are a quarter of the bytes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


def _exemplar(generation_id: str | None) -> dict[str, str] | None:
    # The library raises on a longer one, and an example is not worth a delivery's figures.
    if generation_id is None or len("generation_id") + len(generation_id) > EXEMPLAR_LETTERS:
        return None
    return {"generation_id": generation_id}


def _sum(counter: Counter) -> float:
    (family,) = counter.collect()
    return sum(sample.value for sample in family.samples if sample.name.endswith("_total"))


def _begin(metric: MetricWrapperBase, labels: Labels | None) -> None:
    """Make every known label set exist from the start, so that a rate over it has a beginning."""
    for values in product(*(labels or {}).values()):
        if values:
            metric.labels(*values)
