"""A collector of traces: OpenTelemetry's protocol over HTTP; it records every span and every byte."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    """One span as it came; ids in hexadecimal, times in nanoseconds, `failed` says whether its status is an error."""

    name: str
    trace: str
    id: str
    parent: str
    replica: str
    fields: dict[str, Any]
    began: int
    ended: int
    failed: bool
    says: str


class Collector:
    """Listens on loopback while it is entered."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.raw: list[bytes] = []
        self.paths: set[str] = set()
        self._port = 0
        self._runner: web.AppRunner | None = None

    def environment(self) -> dict[str, str]:
        """What makes a daemon send its traces here, and soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._port}", "OTEL_BSP_SCHEDULE_DELAY": "50"}

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def of(self, generation_id: str) -> list[Span]:
        return [span for span in self.spans if span.fields.get("generation_id") == generation_id]

    async def _taken(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.raw.append(body)
        self.paths.add(request.path)
        for batch in ExportTraceServiceRequest.FromString(body).resource_spans:
            replica = _fields(batch.resource)["service.instance.id"]
            self.spans += [_span(one, replica) for scope in batch.scope_spans for one in scope.spans]
        return web.Response(body=b"", content_type="application/x-protobuf")

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._taken)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()


def _span(span: Any, replica: str) -> Span:
    return Span(
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        replica=replica,
        fields=_fields(span),
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        failed=span.status.code == 2,
        says=span.status.message,
    )


def _fields(told: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in told.attributes}
