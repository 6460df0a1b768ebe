"""Sends the spans of visits to a collector by OTLP over HTTP, configured by OpenTelemetry's standard variables.

A generation has one trace over all replicas. The first claim saves the id of its root span `generation`, and every
visit uses that id as its parent. The root span is recorded under it when the generation ends. Only `chosen` imports
this.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Status, StatusCode, Tracer, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from reconciler import __version__
from reconciler.tracing import Span, Tracing, Value

log = structlog.get_logger()

CLOSING = 2.0
"""Seconds that a stop waits for the collector, which may be unreachable."""


class Otel(Tracing):
    """Tracing to a collector; `exporter` replaces the one that the environment configures."""

    on = True

    def __init__(self, *, instance: str, redact: Callable[[str], str], exporter: SpanExporter | None = None) -> None:
        # The library logs an error every few seconds if it cannot send; `traces.not_exported` reports that already.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        attributes = {"service.name": "kie-reconciler", "service.version": __version__, "service.instance.id": instance}
        resource = Resource.create(dict(Resource(attributes).merge(OTELResourceDetector().detect()).attributes))
        self._ids = _Ids()
        self._redact = redact
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_LoggingExporter(exporter or OTLPSpanExporter())))
        self._tracer = self._provider.get_tracer("kie-reconciler", __version__)

    def visit(self, generation_id: str, traceparent: str | None, **values: Value) -> _Step:
        """Start the span of a visit, in the generation's trace, which another replica may have started."""
        step = self.step("visit", generation_id, **values)
        step.context = _context(traceparent)
        return step

    def step(self, name: str, generation_id: str, **values: Value) -> _Step:
        """Start the span of a step of the current visit; an exception that leaves it marks it as failed."""
        step = _Step(self._tracer, name, self._redact)
        step.note(generation_id=generation_id, **values)
        return step

    def ended(self, generation_id: str, traceparent: str | None, since: datetime, **values: Value) -> None:
        """Record the root span of a generation that has ended."""
        root = get_current_span(_context(traceparent)).get_span_context()
        step = self.step("generation", generation_id, **values)
        step.context, step.start_time = Context(), int(since.timestamp() * 1e9)
        if root.is_valid:
            self._ids.next = root.trace_id, root.span_id
        try:
            with step:
                pass
        finally:
            self._ids.next = None

    async def close(self) -> None:
        """Send the remaining spans; give up after a short time."""
        loop, closed = asyncio.get_running_loop(), asyncio.Event()

        def close() -> None:
            self._provider.shutdown()
            # The event loop may have ended before the collector answers.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(closed.set)

        # Not a thread of the event loop's executor: the loop waits for those at its end.
        threading.Thread(target=close, name="traces", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING):
                await closed.wait()


class _Step(Span):
    """A span that starts and ends with its `with` block."""

    def __init__(self, tracer: Tracer, name: str, redact: Callable[[str], str]) -> None:
        self.context: Context | None = None
        self.start_time: int | None = None
        self._tracer = tracer
        self._name = name
        self._redact = redact
        self._values: dict[str, str | int | float | bool] = {}
        self._failed: Status | None = None
        self._exit_stack = contextlib.ExitStack()

    def note(self, **values: Value) -> None:
        """Add attributes, named like the fields of the log."""
        for name, value in values.items():
            if value is not None:
                self._values[name] = self._redact(value) if isinstance(value, str) else value

    def failed(self, code: str, message: str) -> None:
        """Mark this step as failed, with a stable code and a message."""
        self._values["code"] = code
        self._failed = Status(StatusCode.ERROR, self._redact(message))

    def __enter__(self) -> Self:
        span = self._tracer.start_as_current_span(
            self._name, self.context, start_time=self.start_time, record_exception=False, set_status_on_exception=False
        )
        self._span = self._exit_stack.enter_context(span)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            self.failed(str(getattr(error, "code", type(error).__name__)), str(error))
        self._span.set_attributes(self._values)
        if self._failed is not None:
            self._span.set_status(self._failed)
        self._exit_stack.close()


class _Ids(RandomIdGenerator):
    """Random ids, except for a span whose ids are given in `next`."""

    next: tuple[int, int] | None = None

    def generate_trace_id(self) -> int:
        return super().generate_trace_id() if self.next is None else self.next[0]

    def generate_span_id(self) -> int:
        return super().generate_span_id() if self.next is None else self.next[1]


class _LoggingExporter(SpanExporter):
    """An exporter that logs in our log if the collector does not accept the spans."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            log.warning("traces.not_exported", count=len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _context(traceparent: str | None) -> Context:
    return TraceContextTextMapPropagator().extract({"traceparent": traceparent or ""}, Context())
