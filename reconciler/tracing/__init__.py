"""Tracing of visits: spans for OpenTelemetry if the environment enables it, else nothing.

The composition root chooses once; visits and deliveries record spans. `otel.py` sends them, and alone imports the
library, only if tracing is on.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Self

import structlog

log = structlog.get_logger()

Value = str | int | float | bool | None


class Span:
    """A step in progress; this one records nothing."""

    def note(self, **values: Value) -> None:
        """Add attributes, named like the fields of the log."""

    def failed(self, code: str, message: str) -> None:
        """Mark this step as failed, with a stable code and a message."""

    def __enter__(self) -> Self:
        """Start the span."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the span; an exception that leaves it marks it as failed."""


_NO_SPAN = Span()


class Tracing:
    """Records the spans of visits; `on` is false if they go nowhere, as here."""

    on = False

    def visit(self, generation_id: str, traceparent: str | None, **values: Value) -> Span:
        """Start the span of a visit, in the generation's trace, which another replica may have started."""
        return _NO_SPAN

    def step(self, name: str, generation_id: str, **values: Value) -> Span:
        """Start the span of a step of the current visit; an exception that leaves it marks it as failed."""
        return _NO_SPAN

    def ended(self, generation_id: str, traceparent: str | None, since: datetime, **values: Value) -> None:
        """Record the root span of a generation that has ended."""

    async def close(self) -> None:
        """Send the remaining spans; give up after a short time."""


UNTRACED = Tracing()


def is_enabled(environment: Mapping[str, str]) -> bool:
    """Return whether OpenTelemetry's variables name an endpoint or exporter, and do not disable tracing."""
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter == "none" or environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return bool(exporter or any(environment.get(name) for name in endpoints))


def chosen(environment: Mapping[str, str], *, instance: str, redact: Callable[[str], str]) -> Tracing:
    """Return the tracing that the environment enables; if it is not available, log a warning and return UNTRACED.

    `redact` removes secrets from a text.
    """
    if not is_enabled(environment):
        return UNTRACED
    if not _is_supported(environment):
        log.warning(
            "tracing.unavailable", do="traces are sent by the exporter otlp with the protocol http/protobuf only"
        )
        return UNTRACED
    try:
        from reconciler.tracing.otel import Otel  # noqa: PLC0415 - an optional dependency
    except ImportError:
        log.warning("tracing.unavailable", do="pip install 'kie-reconciler[otel]'")
        return UNTRACED
    return Otel(instance=instance, redact=redact)


def _is_supported(environment: Mapping[str, str]) -> bool:
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    protocols = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next((environment[name] for name in protocols if environment.get(name)), "http/protobuf")
    return exporter in {"", "otlp"} and protocol == "http/protobuf"
