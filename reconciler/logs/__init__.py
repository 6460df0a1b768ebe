"""How the lines of the log look: one event a line on standard error, JSON or for a terminal.

What libraries log takes the same way, `repeats.py` leaves out what repeats, `redaction.py` takes out what must not be
seen, and `journal.py` tells systemd's journal how bad a line is. The command line calls `setup` once; everybody else
asks structlog.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from reconciler.logs import journal
from reconciler.logs.redaction import Redaction
from reconciler.logs.sampling import Sampling

Level = Literal["debug", "info", "warning", "error"]
Form = Literal["json", "console"]

_NUMBERS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_IDS = ("generation_id", "task_id")

LONGEST_ID = 300
"""So much of an id is told: a row may hold one of any length, and every line about the row repeats it."""

# What they tell at info is every request with its address, and every round with its name.
_TALKATIVE = ("aiohttp", "apscheduler", "asyncio", "hpack", "httpcore", "httpx", "uvicorn")


def setup(
    *,
    level: Level = "info",
    form: Form | None = None,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Send every log line to `stream` (standard error unless given), without any of `secrets`.

    Without a `form` it is for people where the stream is a terminal and JSON elsewhere. `clock`, in seconds, tells when
    a warning that repeats is due again.
    """
    out = sys.stderr if stream is None else stream
    terminal = out.isatty()
    for_people = form == "console" or (form is None and terminal)
    render = _renderer(colors=terminal) if for_people else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            Sampling(clock),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _arranged,
            structlog.processors.format_exc_info,
            Redaction(secrets),
            _bounded,
            *([_tamed] if for_people else []),
            journal.Prefixed(render) if journal.reads(out) else render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_NUMBERS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=_Unbreakable(out)),  # type: ignore[arg-type]
        # A cached logger keeps the steps it was born with: neither tests nor a second setup reach it.
        cache_logger_on_first_use=False,
    )
    _take_libraries(_NUMBERS[level])


def _arranged(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """When, how bad and what first."""
    first = {name: event.pop(name) for name in ("timestamp", "level", "event")}
    return {**first, **event}


def _bounded(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Cut ids, once no secret in them can be cut in two."""
    for name in _IDS:
        told = event.get(name)
        if isinstance(told, str) and len(told) > LONGEST_ID:
            event[name] = f"{told[: LONGEST_ID - 1]}…"
    return event


def _renderer(*, colors: bool) -> Processor:
    # Values are quoted, so that what others wrote cannot move the cursor. A traceback is text by
    # now: the renderer's own would show local variables.
    return structlog.dev.ConsoleRenderer(colors=colors, repr_native_str=True, sort_keys=False)


def _tamed(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Move a traceback in, and escape in it what could move the cursor: an error repeats what others wrote."""
    if text := event.get("exception"):
        lines = ("".join(one if one.isprintable() else repr(one)[1:-1] for one in line) for line in text.splitlines())
        event["exception"] = "\n".join(f"  {line}" for line in lines)
    return event


def _take_libraries(level: int) -> None:
    root = logging.getLogger()
    root.handlers = [_FromLibraries()]
    root.setLevel(level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


class _FromLibraries(logging.Handler):
    """Passes what libraries log through the same steps as our own events."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record as `library.logged`, with its logger's name and its message."""
        number = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            message = str(record.msg)
        structlog.get_logger().log(
            number,
            "library.logged",
            logger=record.name,
            message=message,
            exc_info=record.exc_info,
        )


class _Unbreakable:
    """A stream whose reader may go away: losing the log must never stop a delivery."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write where that is possible."""
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush where that is possible."""
        with suppress(OSError, ValueError):
            self._stream.flush()
