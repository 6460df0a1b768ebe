"""A generation has one trace across all replicas: every step is a span, and a failed step has its code."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from reconciler.domain.model import Finish, Reschedule, Trigger
from testkit.standins.collector import Collector, Span
from testkit.waiting import until
from tests.worker.rig import Rig


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    async with Collector() as opened:
        for name, value in opened.environment().items():
            monkeypatch.setenv(name, value)
        yield opened


async def root(collector: Collector, generation_id: str) -> Span:
    """The root span, once it and the visit that ended the generation are there: all other spans were sent before."""

    def come() -> Span | None:
        spans = {span.fields.get("decision", span.name): span for span in collector.of(generation_id)}
        return spans.get("generation") if "finish" in spans else None

    return await until(come, within=20, what=f"the trace of {generation_id}")


async def test_a_delivery_is_one_trace_of_poll_download_upload_and_verify(rig: Rig, collector: Collector) -> None:
    async with rig.instance() as built:
        generation_id = await rig.order()
        await rig.visit(built, generation_id)
        whole = await root(collector, generation_id)
    spans = {span.name: span for span in collector.of(generation_id)}
    assert set(spans) == {"generation", "visit", "poll", "download", "upload", "verify"}
    assert {span.trace for span in spans.values()} == {whole.trace}
    assert (whole.parent, spans["visit"].parent) == ("", whole.id)
    assert {spans[step].parent for step in ("poll", "download", "upload", "verify")} == {spans["visit"].id}
    assert not [span for span in spans.values() if span.failed]
    created = (await rig.books.generation(generation_id))["created_at"]
    assert abs(whole.began / 1e9 - created.timestamp()) < 0.001
    assert all(whole.began <= span.began <= span.ended for span in spans.values())
    size = sum(media.size for media in rig.kie.tasks[spans["visit"].fields["task_id"]].results)
    assert [spans[step].fields["bytes"] for step in ("download", "upload", "verify")] == [size] * 3
    assert (spans["poll"].fields["outcome"], spans["visit"].fields["decision"]) == ("ready", "finish")
    assert collector.paths == {"/v1/traces"}


async def test_two_replicas_work_on_one_trace(rig: Rig, collector: Collector) -> None:
    async with rig.instance() as first, rig.instance() as second:
        generation_id = await rig.order()
        task = rig.kie.tasks[(await rig.books.generation(generation_id))["task_id"]]
        rig.kie.strike("file.500", task=task.id, n=0)
        assert isinstance((await rig.visit(first, generation_id)).decision, Reschedule)
        assert isinstance((await rig.visit(second, generation_id)).decision, Finish)
        whole = await root(collector, generation_id)
        # The first replica can send its visit a little later.
        await until(lambda: len(collector.named("visit")) == 2, within=20, what="both visits")
    spans = collector.of(generation_id)
    assert {span.trace for span in spans} == {whole.trace}
    assert {span.replica for span in spans if span.name == "visit"} == {str(first.instance), str(second.instance)}
    assert {span.parent for span in spans if span.name == "visit"} == {whole.id}
    work = await rig.books.work(generation_id)
    assert work is not None
    assert work["traceparent"] == f"00-{whole.trace}-{whole.id}-01"


async def test_two_generations_are_two_traces(rig: Rig, collector: Collector) -> None:
    async with rig.instance() as built:
        ids = [await rig.order() for _ in range(2)]
        for generation_id in ids:
            await rig.visit(built, generation_id)
        roots = [await root(collector, generation_id) for generation_id in ids]
    assert roots[0].trace != roots[1].trace
    for span in collector.spans:
        assert span.trace == roots[ids.index(span.fields["generation_id"])].trace


async def test_a_step_that_fails_has_its_code(rig: Rig, collector: Collector) -> None:
    async with rig.instance() as built:
        generation_id = await rig.order()
        rig.kie.strike("record.http_500")
        await rig.visit(built, generation_id)
        rig.kie.strike("file.500")
        await rig.visit(built, generation_id)
        await until(lambda: len(collector.named("visit")) == 2, within=20, what="two visits")
    failed = {(span.name, span.fields.get("code")) for span in collector.of(generation_id) if span.failed}
    assert failed == {("poll", "server_error"), ("download", "http_5xx")}
    assert not collector.named("generation")


async def test_every_way_to_claim_names_the_trace_that_was_drawn_first(rig: Rig, collector: Collector) -> None:
    async with rig.instance() as built:
        generation_id = await rig.order()
        (woken,) = await built.claims.woken({generation_id: Trigger.NOTIFY})
        assert woken.traceparent is not None
        for claim in (built.claims.due, built.claims.due, built.claims.early):
            await rig.books.set(generation_id, "lease = NULL, due_at = now(), early_at = now(), lease_until = NULL")
            (again,) = await claim(1)
            assert again.traceparent == woken.traceparent
        await rig.books.set(generation_id, "lease = NULL, due_at = now(), lease_until = NULL")
        (once_more,) = await built.claims.woken({generation_id: Trigger.SYNC})
        assert once_more.traceparent == woken.traceparent
        await rig.books.set(generation_id, "lease_until = NULL, traceparent = NULL, due_at = now()")
        (fresh,) = await built.claims.due(1)
        assert fresh.traceparent not in {None, woken.traceparent}


async def test_without_tracing_no_trace_is_drawn(rig: Rig) -> None:
    async with rig.instance() as built:
        generation_id = await rig.order()
        await rig.visit(built, generation_id)
    work = await rig.books.work(generation_id)
    assert work is not None
    assert work["traceparent"] is None


async def test_without_its_column_the_daemon_works_and_traces_nothing(rig: Rig, collector: Collector) -> None:
    await rig.pool.execute("ALTER TABLE reconciler.work RENAME COLUMN traceparent TO elsewhere")
    try:
        async with rig.instance() as built:
            generation_id = await rig.order()
            await rig.visit(built, generation_id)
            assert not built.worker.visitor.tracing.on
    finally:
        await rig.pool.execute("ALTER TABLE reconciler.work RENAME COLUMN elsewhere TO traceparent")
    await rig.proves(generation_id)
    assert not collector.spans
