"""What a visit logs and measures: one line for each end, and figures that add up."""

from __future__ import annotations

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from reconciler.bootstrap import Parts
from reconciler.domain.model import Trigger
from reconciler.simulator import Failure, MediaSpec, never
from tests.worker.rig import Rig


async def test_a_delivery_is_logged_once_and_counted(rig: Rig, parts: Parts) -> None:
    task = rig.kie.add_task(life=100.0, results=(MediaSpec(size=10_000), MediaSpec("video", "mp4", size=20_000)))
    rig.kie.skip(103)
    generation_id = await rig.insert(task, age=120)
    with capture_logs() as lines:
        await rig.visit(parts, generation_id, Trigger.CALLBACK)
    (line,) = [line for line in lines if line["event"] == "generation.delivered"]
    assert (line["generation_id"], line["task_id"], line["trigger"]) == (generation_id, task, "callback")
    assert (line["assets"], line["bytes"], line["event_kind"]) == (2, 30_000, "succeeded")
    assert 119_000 < line["ms"] < 130_000

    figures = parts.metrics
    assert figures.deliveries.labels("delivered", "callback")._value.get() == 1
    assert (figures.downloaded._value.get(), figures.uploaded._value.get()) == (30_000, 30_000)
    assert 119 < figures.time_to_delivery.labels("image")._sum.get() < 130
    assert 2 < figures.completion_to_delivery.labels("image")._sum.get() < 10
    assert 2 < figures.detection_lag.labels("callback")._sum.get() < 10
    assert examples(parts) == {generation_id}
    assert figures.polls.labels("ready")._value.get() == 1
    assert parts.deliverer.transfers == {}
    assert await rig.pool.fetchval("SELECT took FROM reconciler.timings") == 100


def examples(parts: Parts) -> set[str]:
    """The generations that the exemplars of OpenMetrics name."""
    text, _ = parts.metrics.exposition("application/openmetrics-text; version=1.0.0")
    samples = [sample for family in text_string_to_metric_families(text.decode()) for sample in family.samples]
    exemplars = [dict(sample.exemplar.labels) for sample in samples if sample.exemplar]
    assert len(exemplars) == 3, "created to delivered, completed to delivered, completed to seen"
    return {labels["generation_id"] for labels in exemplars}


async def test_every_step_of_an_asset_is_logged_with_its_size_and_time(rig: Rig, parts: Parts) -> None:
    task = rig.kie.add_task(results=(MediaSpec(size=10_000), MediaSpec("video", "mp4", size=20_000)))
    generation_id = await rig.insert(task)
    with capture_logs() as lines:
        await rig.visit(parts, generation_id, Trigger.CALLBACK)
    steps = [line for line in lines if line["event"].startswith("asset.")]
    assert [(line["event"], line["n"], line["bytes"]) for line in steps] == [
        ("asset.downloaded", 0, 10_000), ("asset.stored", 0, 10_000),
        ("asset.downloaded", 1, 20_000), ("asset.stored", 1, 20_000),
    ]  # fmt: skip
    assert {(line["generation_id"], line["task_id"], line["log_level"]) for line in steps} == {
        (generation_id, task, "info")
    }
    assert all(0 <= line["took"] < 10 for line in steps)
    assert sorted(line["path"] for line in steps if "path" in line) == rig.names()


async def test_a_failure_and_a_give_up_are_logged_apart(rig: Rig, parts: Parts) -> None:
    refused = await rig.order(fate="fail", failure=Failure("500", "no luck"))
    late = await rig.order(life=never(), age=90_000)
    with capture_logs() as lines:
        await rig.visit(parts, refused)
        await rig.visit(parts, late)
    reasons = {line["event"]: line["reason"] for line in lines if line["event"].startswith("generation.")}
    assert reasons == {
        "generation.failed": "no luck (500)",
        "generation.gave_up": "gave up after 24 h; last: KIE says waiting",
    }


async def test_a_failed_attempt_is_counted_under_its_stage_and_its_reason(rig: Rig, parts: Parts) -> None:
    for fault in ("record.http_500", "file.500"):
        generation_id = await rig.order()
        rig.kie.strike(fault)
        await rig.visit(parts, generation_id)
    counted = {
        (sample.labels["stage"], sample.labels["reason"]): sample.value
        for metric in parts.metrics.failures.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }
    assert counted == {("ask", "server_error"): 1, ("fetch", "http_5xx"): 1}
