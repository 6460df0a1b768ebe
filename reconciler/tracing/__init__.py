"""What a visit tells of its steps, to OpenTelemetry where the environment asks for it and to nobody elsewhere.

The composition root chooses once; visits and deliveries tell. What is sent how is in `otel.py`, which alone imports the
library, and only where tracing is on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self

import structlog

log = structlog.get_logger()

Value = str | int | float | bool | None


class Span(Protocol):
    """One step under way."""

    def note(self, **values: Value) -> None:
        """Say more of this step, in the words of the log's fields."""

    def failed(self, code: str, says: str) -> None:
        """Say that this step brought nothing, by a stable word and for a person."""


class Tracing(Protocol):
    """What visits tell; `on` says whether anybody listens."""

    on: bool

    def visit(self, generation_id: str, traceparent: str | None, **values: Value) -> AbstractContextManager[Span]:
        """Begin a visit: a part of the generation's trace, whichever replica began that."""

    def step(self, name: str, generation_id: str, **values: Value) -> AbstractContextManager[Span]:
        """Begin a step of the visit that this task makes; an error that leaves it is told."""

    def ended(self, generation_id: str, traceparent: str | None, since: datetime, **values: Value) -> None:
        """Tell the whole way of a generation that has ended, of which everything else was a part."""

    async def close(self) -> None:
        """Send what is left, for a short time."""


class _Nothing:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def note(self, **values: Value) -> None:
        pass

    def failed(self, code: str, says: str) -> None:
        pass


_NOTHING = _Nothing()


class Untraced:
    """Nobody listens: every call costs a call."""

    on = False

    def visit(self, generation_id: str, traceparent: str | None, **values: Value) -> AbstractContextManager[Span]:
        """A visit that nobody hears of."""
        return _NOTHING

    def step(self, name: str, generation_id: str, **values: Value) -> AbstractContextManager[Span]:
        """A step that nobody hears of."""
        return _NOTHING

    def ended(self, generation_id: str, traceparent: str | None, since: datetime, **values: Value) -> None:
        """An end that nobody hears of."""

    async def close(self) -> None:
        """Nothing is left."""


UNTRACED = Untraced()


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's own variables ask for traces: an endpoint or an exporter, and nothing against it."""
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter == "none" or environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return bool(exporter or any(environment.get(name) for name in endpoints))


def chosen(environment: Mapping[str, str], *, instance: str, discreet: Callable[[str], str]) -> Tracing:
    """What the environment asks for; where that cannot be had, a warning and nothing.

    `discreet` takes secrets out of a text.
    """
    if not wanted(environment):
        return UNTRACED
    if not _possible(environment):
        log.warning(
            "tracing.unavailable", do="traces are sent by the exporter otlp with the protocol http/protobuf only"
        )
        return UNTRACED
    try:
        from reconciler.tracing.otel import Otel  # noqa: PLC0415 - an extra, and nothing of it is loaded unless asked for
    except ImportError:
        log.warning("tracing.unavailable", do="pip install 'kie-reconciler[otel]'")
        return UNTRACED
    return Otel(instance=instance, discreet=discreet)


def _possible(environment: Mapping[str, str]) -> bool:
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    protocols = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next((environment[name] for name in protocols if environment.get(name)), "http/protobuf")
    return exporter in {"", "otlp"} and protocol == "http/protobuf"
