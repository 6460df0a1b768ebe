"""A scrape of /metrics: its size at worst, its exemplars, and that it makes no database query."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as plain_families

from reconciler.bootstrap.periodic import periodic_tasks
from reconciler.domain.model import Trigger
from reconciler.domain.object_keys import Kind
from reconciler.metrics import DELIVERY_SECONDS, EXEMPLAR_LENGTH, REQUEST_SECONDS, Metrics
from reconciler.simulator import Simulator
from tests.http.api import ServedApi, opened

ROWS = 100_000
LARGEST = 100_000
REASONS = 40
"""More reasons than any stage has."""

OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}

_FILL = f"""
ALTER TABLE public.generations DISABLE TRIGGER USER;
INSERT INTO public.generations (user_id, status, task_id, kind, model_key)
SELECT '{UUID(int=7)}', CASE n % 3 WHEN 0 THEN 'queued' ELSE 'generating' END, 'task-' || n, 'image', 'nano-banana-2'
  FROM generate_series(1, {ROWS}) AS n
"""

_LAST_QUERIES = """
SELECT pid, query_start FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend' ORDER BY pid
"""


def busy(metrics: Metrics) -> None:
    """Create every series that can exist, with an exemplar in every bucket of a delivery."""
    for seconds in (*DELIVERY_SECONDS, 1_000_000):
        for kind in Kind:
            duration = timedelta(seconds=seconds)
            metrics.delivered(kind, duration, duration, generation_id=str(uuid4()))
        for trigger in Trigger:
            metrics.seen(trigger, timedelta(seconds=seconds), generation_id=str(uuid4()))
    for histogram in (metrics.kie_seconds, metrics.storage_seconds):
        for child in histogram._metrics.values():
            for seconds in (*REQUEST_SECONDS, 1000):
                child.observe(seconds)
    for stage in ("ask", "create", "fetch", "store", "prove", "visit"):
        for n in range(REASONS):
            metrics.missed(stage, f"a_longish_word_{n}")


@pytest.fixture
async def api(dsn: str, tmp_path: Path) -> AsyncIterator[ServedApi]:
    async with Simulator(limits=False) as kie, opened(dsn, kie, tmp_path) as api:
        yield api


async def scrape(api: ServedApi, **headers: str) -> httpx.Response:
    answer = await api.nobody.get("/metrics", headers=headers)
    assert answer.status_code == 200
    return answer


@pytest.mark.soak
async def test_with_a_hundred_thousand_rows_in_flight_a_scrape_is_small_and_makes_no_query(
    api: ServedApi, dsn: str
) -> None:
    observer = await asyncpg.connect(dsn)
    await observer.execute(_FILL)
    periodic = periodic_tasks(api.parts)
    await periodic.heartbeat.run_once()
    await periodic.snapshot.run_once()
    busy(api.parts.metrics)
    before = await observer.fetch(_LAST_QUERIES)

    plain, open_metrics = await scrape(api), await scrape(api, **OPENMETRICS)

    assert await observer.fetch(_LAST_QUERIES) == before
    await observer.close()
    assert max(len(plain.content), len(open_metrics.content)) < LARGEST
    for families in (plain_families(plain.text), text_string_to_metric_families(open_metrics.text)):
        found = {
            sample.labels["status"]: sample.value
            for family in families
            for sample in family.samples
            if sample.name == "kie_reconciler_in_flight_generations"
        }
        assert sum(found.values()) == ROWS
        assert found["queued"] == ROWS // 3


def exemplars(metrics: Metrics) -> dict[str, list[dict[str, str]]]:
    """Return the labels of every exemplar of an OpenMetrics scrape, by family."""
    text = metrics.exposition(OPENMETRICS["Accept"])[0].decode()
    return {
        family.name.removeprefix("kie_reconciler_"): labels
        for family in text_string_to_metric_families(text)
        if (labels := [dict(sample.exemplar.labels) for sample in family.samples if sample.exemplar])
    }


def test_the_duration_of_a_delivery_has_the_generation_as_its_exemplar() -> None:
    metrics = Metrics()
    metrics.delivered("image", timedelta(seconds=40), timedelta(seconds=3), generation_id="the-one")
    metrics.seen(Trigger.SWEEP, timedelta(seconds=2), generation_id="another")

    assert exemplars(metrics) == {
        "time_to_delivery_seconds": [{"generation_id": "the-one"}],
        "completion_to_delivery_seconds": [{"generation_id": "the-one"}],
        "detection_lag_seconds": [{"generation_id": "another"}],
    }
    assert "the-one" not in metrics.exposition("text/plain")[0].decode()


def test_an_id_that_is_too_long_for_an_exemplar_is_left_out_and_still_counted() -> None:
    longest = "x" * (EXEMPLAR_LENGTH - len("generation_id"))
    for generation_id, expected in ((longest, [{"generation_id": longest}]), (longest + "x", [])):
        metrics = Metrics()
        metrics.delivered("image", timedelta(seconds=40), None, generation_id=generation_id)
        assert exemplars(metrics).get("time_to_delivery_seconds", []) == expected
        counted = metrics.registry.get_sample_value("kie_reconciler_time_to_delivery_seconds_count", {"kind": "image"})
        assert counted == 1


def test_the_bucket_edges_are_the_documented_ones() -> None:
    metrics = Metrics()
    for name, edges in (
        ("time_to_delivery_seconds", "1 2 5 10 20 30 60 120 300 600 1200 3600 21600 86400"),
        ("completion_to_delivery_seconds", "1 2 5 10 20 30 60 120 300 600 1200 3600 21600 86400"),
        ("detection_lag_seconds", "1 2 5 10 20 30 60 120 300 600 1200 3600 21600 86400"),
        ("kie_request_seconds", "0.01 0.05 0.1 0.3 1 3 10 30"),
        ("storage_request_seconds", "0.01 0.05 0.1 0.3 1 3 10 30"),
    ):
        (family,) = [one for one in metrics.registry.collect() if one.name == f"kie_reconciler_{name}"]
        found = {sample.labels["le"] for sample in family.samples if sample.name.endswith("_bucket")}
        assert found - {"+Inf"} == {str(float(edge)) for edge in edges.split()}


def test_every_series_with_a_fixed_set_of_labels_exists_from_the_start() -> None:
    metrics = Metrics()
    empty = {family.name for family in metrics.registry.collect() if not family.samples}
    assert empty == {"kie_reconciler_attempt_failures"}
    for outcome in ("delivered", "failed", "gave_up"):
        for trigger in Trigger:
            labels = {"outcome": outcome, "trigger": trigger.value}
            assert metrics.registry.get_sample_value("kie_reconciler_deliveries_total", labels) == 0


def test_no_created_timestamps_are_exposed() -> None:
    for accept in ("text/plain", OPENMETRICS["Accept"]):
        assert "_created" not in Metrics().exposition(accept)[0].decode()
