"""Repeated warnings are logged a few times and then once a minute, and every dropped one is counted."""

from __future__ import annotations

import io
import json
import logging
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from reconciler.domain.model import Row
from reconciler.domain.observations import Unreachable
from reconciler.kie.client import KieClient
from reconciler.logs import setup
from reconciler.logs.sampling import ALWAYS, RepeatCounter
from reconciler.metrics import Metrics
from reconciler.net.http_clients import kie_session
from reconciler.worker.poll import Poller
from reconciler.worker.route import RingKey


class Log:
    """A log with a clock that the test sets, in seconds."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.now = 0.0
        setup(stream=self.stream, form="json", level="debug", clock=lambda: self.now)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def suppressed(self, name: str) -> int:
        """Return how many events of this name were dropped, according to the lines."""
        return sum(one.get("suppressed", 0) for one in self.events if name in (one["event"], one.get("of")))

    def told(self, name: str) -> int:
        return sum(one["event"] == name for one in self.events)


@pytest.fixture
def log() -> Iterator[Log]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield Log()
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


class Free:
    """A rate limit that always has a spare request."""

    async def take(self, key_hash: str) -> None:
        pass

    async def pause(self, key_hash: str, seconds: float) -> None:
        pass


async def test_a_thousand_failed_polls_are_a_few_lines_that_add_up_to_a_thousand(log: Log) -> None:
    key = RingKey("k", None)
    async with kie_session() as session:
        free: Any = Free()
        nobody = "http://127.0.0.1:1"
        asking = Poller(KieClient(session, nobody, {"k": "a-secret"}), free, free, [key], Metrics())
        for n in range(1000):
            log.now += 0.2
            # Of one row: a page that answers none of several is not asked again.
            row = Row("g", None, f"t{n}", "queued", None, None, None, datetime.now(UTC))
            _, seen = await asking.ask(row, datetime.now(UTC), lambda: None)
            assert isinstance(seen, Unreachable)
    structlog.get_logger().info("daemon.stopped")
    # 200 seconds: five lines at once, one a minute, and the final report.
    assert log.told("kie.request_failed") == 5 + 3
    assert log.told("kie.request_failed") + log.suppressed("kie.request_failed") == 1000
    assert {one["code"] for one in log.events if one["event"] == "kie.request_failed"} == {"network"}


def test_another_reason_is_logged_at_once(log: Log) -> None:
    for _ in range(20):
        structlog.get_logger().warning("kie.request_failed", code="timeout")
    structlog.get_logger().warning("kie.request_failed", code="server_error")
    assert [one["code"] for one in log.events] == ["timeout"] * 5 + ["server_error"]


def test_warnings_that_differ_only_in_ids_and_texts_are_one_sort(log: Log) -> None:
    for n in range(20):
        structlog.get_logger().warning("visit.interrupted", code="network", generation_id=n, reason=f"no way to {n}")
    assert len(log.events) == 5


def test_warnings_dropped_before_the_end_of_an_outage_are_reported_by_a_separate_line(log: Log) -> None:
    for _ in range(20):
        structlog.get_logger().warning("claims.failed", code="away")
    log.now = 59.9
    structlog.get_logger().info("generation.delivered")
    assert log.suppressed("claims.failed") == 0
    log.now = 60.0
    structlog.get_logger().info("generation.delivered")
    (line,) = [one for one in log.events if one["event"] == "lines.suppressed"]
    assert (line["of"], line["code"], line["suppressed"]) == ("claims.failed", "away", 15)
    structlog.get_logger().info("generation.delivered")
    assert log.told("lines.suppressed") == 1


def test_a_new_outage_is_logged_from_its_beginning(log: Log) -> None:
    for began in (0.0, 120.0):
        log.now = began
        for _ in range(20):
            structlog.get_logger().warning("claims.failed", code="away")
    assert log.told("claims.failed") == 10


def test_the_last_line_reports_every_dropped_warning(log: Log) -> None:
    for _ in range(20):
        structlog.get_logger().warning("claims.failed", code="away")
    structlog.get_logger().info("daemon.stopped")
    assert [one["event"] for one in log.events[-2:]] == ["lines.suppressed", "daemon.stopped"]
    assert log.suppressed("claims.failed") == 15


@pytest.mark.parametrize("level", ["error", "exception", "critical", "info", "debug"])
def test_only_warnings_are_ever_dropped(log: Log, level: str) -> None:
    for _ in range(100):
        getattr(structlog.get_logger(), level)("visit.broke", code="same")
    assert log.told("visit.broke") == 100


@pytest.mark.parametrize("name", sorted(ALWAYS))
def test_warnings_that_occur_once_for_each_cause_are_never_dropped(log: Log, name: str) -> None:
    for _ in range(100):
        structlog.get_logger().warning(name, reason="same")
    assert log.told(name) == 100


def test_the_ends_of_generations_are_never_dropped() -> None:
    assert {"generation.failed", "generation.gave_up", "event.dead", "create.unknown"} <= ALWAYS


def test_a_field_that_is_not_hashable_stops_no_line(log: Log) -> None:
    structlog.get_logger().warning("callback.refused", status=["odd"])
    assert log.told("callback.refused") == 1


_steps = st.lists(st.tuples(st.sampled_from("abcde"), st.floats(0, 90)), max_size=200)


@given(_steps)
def test_logged_and_dropped_warnings_add_up_and_the_number_of_sorts_is_limited(
    steps: list[tuple[str, float]],
) -> None:
    repeats, now = RepeatCounter(few=2, window=60.0, most=3), 0.0
    counted: Counter[str] = Counter()
    for name, seconds in steps:
        now += seconds
        suppressed = repeats.ask((("event", name),), now)
        counted[name] += 0 if suppressed is None else 1 + suppressed
        for ((_, owing),), count in repeats.expire(now):
            counted[str(owing)] += count
        assert len(repeats._sorts) <= 3
    for ((_, owing),), count in repeats.expire(now, everything=True):
        counted[str(owing)] += count
    assert +counted == Counter(name for name, _ in steps)


def test_within_a_window_no_more_than_the_few_and_one_are_logged() -> None:
    repeats = RepeatCounter(few=5, window=60.0)
    passed = [repeats.ask((("event", "e"),), now / 10) for now in range(600)]
    assert [one for one in passed if one is not None] == [0] * 5
    assert repeats.ask((("event", "e"),), 60.5) == 595
