"""Sends the steps of visits to a collector as OpenTelemetry's spans: OTLP over HTTP, set up by its standard variables.

A generation has one trace over all replicas. Its root, `generation`, is told when it ends, under the very id that the
first claim has written down and every visit names as its parent. Only `chosen` imports this.
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
from reconciler.tracing import Value

log = structlog.get_logger()

CLOSING = 2.0
"""Seconds that a stop waits for a collector, which may be away."""


class Otel:
    """Tells a collector; `exporter` stands in for the one that the environment describes."""

    on = True

    def __init__(self, *, instance: str, discreet: Callable[[str], str], exporter: SpanExporter | None = None) -> None:
        # What it cannot send it says as an error every few seconds; `traces.not_exported` says it, too.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        ours = {"service.name": "kie-reconciler", "service.version": __version__, "service.instance.id": instance}
        resource = Resource.create(dict(Resource(ours).merge(OTELResourceDetector().detect()).attributes))
        self._ids = _Ids()
        self._discreet = discreet
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_Exporting(exporter or OTLPSpanExporter())))
        self._tracer = self._provider.get_tracer("kie-reconciler", __version__)

    def visit(self, generation_id: str, traceparent: str | None, **values: Value) -> _Step:
        """Begin a visit: a part of the generation's trace, whichever replica began that."""
        step = self.step("visit", generation_id, **values)
        step.context = _context(traceparent)
        return step

    def step(self, name: str, generation_id: str, **values: Value) -> _Step:
        """Begin a step of the visit that this task makes; an error that leaves it is told."""
        step = _Step(self._tracer, name, self._discreet)
        step.note(generation_id=generation_id, **values)
        return step

    def ended(self, generation_id: str, traceparent: str | None, since: datetime, **values: Value) -> None:
        """Tell the whole way of a generation that has ended, of which everything else was a part."""
        root = get_current_span(_context(traceparent)).get_span_context()
        step = self.step("generation", generation_id, **values)
        step.context, step.began = Context(), int(since.timestamp() * 1e9)
        if root.is_valid:
            self._ids.next = root.trace_id, root.span_id
        try:
            with step:
                pass
        finally:
            self._ids.next = None

    async def close(self) -> None:
        """Send what is left, for a short time."""
        loop, closed = asyncio.get_running_loop(), asyncio.Event()

        def close() -> None:
            self._provider.shutdown()
            # The loop may have ended before the collector answered.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(closed.set)

        # Not the loop's own threads: it waits for them at its end.
        threading.Thread(target=close, name="traces", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING):
                await closed.wait()


class _Step:
    """A span that begins with a `with` and ends with it."""

    def __init__(self, tracer: Tracer, name: str, discreet: Callable[[str], str]) -> None:
        self.context: Context | None = None
        self.began: int | None = None
        self._tracer = tracer
        self._name = name
        self._discreet = discreet
        self._values: dict[str, str | int | float | bool] = {}
        self._failed: Status | None = None
        self._under_way = contextlib.ExitStack()

    def note(self, **values: Value) -> None:
        """Say more of this step, in the words of the log's fields."""
        for name, value in values.items():
            if value is not None:
                self._values[name] = self._discreet(value) if isinstance(value, str) else value

    def failed(self, code: str, says: str) -> None:
        """Say that this step brought nothing, by a stable word and for a person."""
        self._values["code"] = code
        self._failed = Status(StatusCode.ERROR, self._discreet(says))

    def __enter__(self) -> Self:
        begun = self._tracer.start_as_current_span(
            self._name, self.context, start_time=self.began, record_exception=False, set_status_on_exception=False
        )
        self._span = self._under_way.enter_context(begun)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            self.failed(str(getattr(error, "code", type(error).__name__)), str(error))
        self._span.set_attributes(self._values)
        if self._failed is not None:
            self._span.set_status(self._failed)
        self._under_way.close()


class _Ids(RandomIdGenerator):
    """Random ids, but for a span whose ids were drawn before."""

    next: tuple[int, int] | None = None

    def generate_trace_id(self) -> int:
        return super().generate_trace_id() if self.next is None else self.next[0]

    def generate_span_id(self) -> int:
        return super().generate_span_id() if self.next is None else self.next[1]


class _Exporting(SpanExporter):
    """An exporter that says in our own log when the collector takes nothing."""

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
