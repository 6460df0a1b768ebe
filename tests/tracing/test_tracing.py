"""Traces are sent only if the environment enables them, contain no secret, and stop no delivery."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from reconciler.errors import Transient
from reconciler.http.openapi import described_app
from reconciler.logs.redaction import REDACTED, Redaction
from reconciler.tracing import UNTRACED, chosen, is_enabled
from reconciler.tracing.otel import Otel
from testkit.standins.collector import Collector
from testkit.waiting import until

ROOT = Path(__file__).resolve().parents[2]
SECRET = "kie-0123456789"
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Told:
    """The spans that were recorded, kept in this process."""

    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        self.otel = Otel(instance="i-1", redact=Redaction([SECRET]).text, exporter=self._kept)

    def spans(self) -> dict[str, ReadableSpan]:
        self.otel._provider.force_flush()
        return {span.name: span for span in self._kept.get_finished_spans()}


@pytest.fixture
async def told(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Told]:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    opened = Told()
    yield opened
    await opened.otel.close()


@pytest.fixture
def refused() -> Iterator[str]:
    """Return an address without a listener, reserved for this test."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "shop"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_the_standard_variables_decide_whether_tracing_is_enabled(environment: dict[str, str], expected: bool) -> None:
    assert is_enabled(environment) is expected


def test_without_tracing_the_sdk_is_not_loaded() -> None:
    # FastAPI loads the API package of the library by itself.
    source = """
import sys
import reconciler.cli, reconciler.daemon
from reconciler.tracing import UNTRACED, chosen
assert chosen({}, instance="i", redact=str) is UNTRACED
loaded = [name for name in sys.modules
          if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter", "reconciler.tracing."))]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", source], cwd=ROOT, check=True, timeout=60)


def test_only_one_module_imports_the_library() -> None:
    named = {path.relative_to(ROOT).as_posix() for path in (ROOT / "reconciler").rglob("*.py")
             if "import opentelemetry" in (text := path.read_text()) or "from opentelemetry" in text}  # fmt: skip
    assert named == {"reconciler/tracing/otel.py"}


def test_untraced_spans_are_one_shared_object() -> None:
    with UNTRACED.visit("g", None) as visit, UNTRACED.step("poll", "g", n=1) as step:
        assert visit is step
        step.note(bytes=1)
        step.failed("timeout", "no answer")


@pytest.mark.parametrize("missing", ["sdk.trace", "exporter.otlp.proto.http.trace_exporter"])
def test_without_the_optional_dependency_there_is_one_warning(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "reconciler.tracing.otel")
    monkeypatch.setitem(sys.modules, f"opentelemetry.{missing}", None)
    with structlog.testing.capture_logs() as lines:
        assert chosen(ENDPOINT, instance="i", redact=str) is UNTRACED
    assert [(line["event"], line["do"]) for line in lines] == [
        ("tracing.unavailable", "pip install 'kie-reconciler[otel]'")
    ]


@pytest.mark.parametrize(
    "odd",
    [{"OTEL_TRACES_EXPORTER": "zipkin"}, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
     {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}],
)  # fmt: skip
def test_an_unsupported_exporter_is_one_warning(odd: dict[str, str]) -> None:
    with structlog.testing.capture_logs() as lines:
        assert chosen({**ENDPOINT, **odd}, instance="i", redact=str) is UNTRACED
    assert [line["event"] for line in lines] == ["tracing.unavailable"]


def test_an_error_is_recorded_by_its_code_without_secrets_or_the_query_of_an_address(told: Told) -> None:
    says = f"GET https://files.example/a.png?X-Amz-Signature=deadbeef with {SECRET}"
    with pytest.raises(Transient), told.otel.step("download", "g", n=0, note=says):
        raise Transient(says, code="timeout")
    span = told.spans()["download"]
    assert span.attributes is not None
    assert (span.attributes["generation_id"], span.attributes["code"]) == ("g", "timeout")
    assert span.status.status_code is StatusCode.ERROR
    text = span.to_json()
    assert not span.events
    assert "deadbeef" not in text
    assert SECRET not in text
    assert f"https://files.example/a.png?{REDACTED} with {REDACTED}" in text


async def test_a_cancelled_visit_is_recorded_as_one(told: Told) -> None:
    async def visit() -> None:
        with told.otel.visit("g", PARENT):
            await asyncio.Event().wait()

    task = asyncio.create_task(visit())
    await until(lambda: task.get_stack(limit=1) and "wait" in str(task), within=5, what="a visit under way")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    attributes = told.spans()["visit"].attributes
    assert attributes is not None
    assert attributes["code"] == "CancelledError"


def test_the_root_span_has_the_ids_that_the_visits_name_and_starts_with_the_row(told: Told) -> None:
    created = datetime(2026, 1, 2, tzinfo=UTC)
    with told.otel.visit("g", PARENT):
        told.otel.ended("g", PARENT, created, outcome="delivered")
        with told.otel.step("poll", "g"):
            pass
    spans = told.spans()
    whole, visit, poll = (spans[name] for name in ("generation", "visit", "poll"))
    assert whole.parent is None
    assert f"{whole.context.trace_id:032x}-{whole.context.span_id:016x}" == PARENT[3:-3]
    assert whole.start_time == created.timestamp() * 1e9
    assert visit.parent is not None
    assert visit.parent.span_id == whole.context.span_id
    assert poll.parent is not None
    assert poll.parent.span_id == visit.context.span_id
    assert len({span.context.span_id for span in spans.values()}) == 3


def test_spans_have_our_service_name_unless_the_environment_sets_another(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    with told.otel.step("poll", "g"):
        pass
    made = told.spans()["poll"].resource.attributes
    assert (made["service.name"], made["service.instance.id"]) == ("kie-reconciler", "i-1")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    renamed = Otel(instance="i-1", redact=str, exporter=InMemorySpanExporter())
    assert renamed._provider.resource.attributes["service.name"] == "shop"
    renamed._provider.shutdown()


async def test_an_unreachable_collector_is_logged_and_delays_no_stop(
    refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", refused)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    otel = chosen(os.environ, instance="i", redact=str)
    with structlog.testing.capture_logs() as lines:
        with otel.step("poll", "g"):
            pass
        await until(lambda: lines, within=20, what="a line of the log")
        await asyncio.wait_for(otel.close(), 20)
    assert [(line["event"], line["log_level"], line["count"]) for line in lines] == [
        ("traces.not_exported", "warning", 1)
    ]


async def test_remaining_spans_are_sent_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Collector() as collector:
        for name, value in {**collector.environment(), "OTEL_BSP_SCHEDULE_DELAY": "60000"}.items():
            monkeypatch.setenv(name, value)
        otel = chosen(os.environ, instance="i", redact=str)
        with otel.step("poll", "g"):
            pass
        await otel.close()
        await until(lambda: collector.named("poll"), within=20, what="the last step")


async def test_requests_are_not_traced_even_if_the_process_has_its_own_tracer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", provider)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(described_app()), base_url="http://daemon.example"
    ) as client:
        assert (await client.get(f"/openapi.json?secret={SECRET}")).status_code == 200
    assert not kept.get_finished_spans()
