"""Logging: one event a line on standard error, as JSON or for a terminal.

Messages of libraries take the same path. `sampling.py` drops repeated warnings, `redaction.py` removes secrets. A line
for systemd's journal gets its priority as a prefix, which sd-daemon(3) describes. The command line calls `setup` once;
all other code uses structlog.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from reconciler.logs.redaction import Redaction
from reconciler.logs.sampling import Sampling

Level = Literal["debug", "info", "warning", "error"]
Form = Literal["json", "console"]

_NUMBERS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
_IDS = ("generation_id", "task_id")

LONGEST_ID = 300
"""Characters of an id that are logged: a row may hold an id of any length, and every line repeats it."""

# At level info they log every request with its address, and every run of a periodic job.
_VERBOSE_LIBRARIES = ("aiohttp", "apscheduler", "asyncio", "hpack", "httpcore", "httpx", "uvicorn")


def setup(
    *,
    level: Level = "info",
    form: Form | None = None,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Send every log line to `stream` (standard error unless given), without any of `secrets`.

    Without a `form` it is "console" if the stream is a terminal, else "json". `clock` returns seconds; it decides when
    a repeated warning is logged again.
    """
    output = sys.stderr if stream is None else stream
    terminal = output.isatty()
    for_people = form == "console" or (form is None and terminal)
    render: Processor = structlog.processors.JSONRenderer()
    if for_people:
        # Values are quoted, so that foreign text cannot send control sequences to the terminal. Tracebacks are text by
        # now, because the renderer's own would show local variables.
        render = structlog.dev.ConsoleRenderer(colors=terminal, repr_native_str=True, sort_keys=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            Sampling(clock),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _order_fields,
            structlog.processors.format_exc_info,
            Redaction(secrets),
            _cut_ids,
            *([_escape_traceback] if for_people else []),
            _Prefixed(render) if _is_journal(output) else render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_NUMBERS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=_SafeStream(output)),  # type: ignore[arg-type]
        # A cached logger keeps its first processors, so tests and a second setup would not reach it.
        cache_logger_on_first_use=False,
    )
    _take_libraries(_NUMBERS[level])


def _order_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put timestamp, level and event first."""
    first = {name: event.pop(name) for name in ("timestamp", "level", "event")}
    return {**first, **event}


def _cut_ids(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Cut long ids; after redaction, so that no secret is cut in two."""
    for name in _IDS:
        value = event.get(name)
        if isinstance(value, str) and len(value) > LONGEST_ID:
            event[name] = f"{value[: LONGEST_ID - 1]}…"
    return event


def _escape_traceback(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Indent a traceback, and escape control characters in it: an error may repeat foreign text."""
    if text := event.get("exception"):
        escaped = (
            "".join(char if char.isprintable() else repr(char)[1:-1] for char in line) for line in text.splitlines()
        )
        event["exception"] = "\n".join(f"  {line}" for line in escaped)
    return event


def _take_libraries(level: int) -> None:
    root = logging.getLogger()
    root.handlers = [_FromLibraries()]
    root.setLevel(level)
    for name in _VERBOSE_LIBRARIES:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


class _FromLibraries(logging.Handler):
    """Passes the messages of libraries through the same processors as our own events."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record as `library.logged`, with its logger's name and its message."""
        number = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            message = str(record.msg)
        structlog.get_logger().log(
            number, "library.logged", logger=record.name, message=message, exc_info=record.exc_info
        )


class _SafeStream:
    """A stream that ignores write errors: a lost log must never stop a delivery."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write the text if that is possible."""
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush the stream if that is possible."""
        with suppress(OSError, ValueError):
            self._stream.flush()


def _is_journal(stream: TextIO) -> bool:
    """Return whether this stream goes to the journal: JOURNAL_STREAM names its device and inode (systemd.exec(5))."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


class _Prefixed:
    """Renders an event and puts its priority before every line, because the journal splits at line ends."""

    def __init__(self, render: Processor) -> None:
        self._render = render

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        """Return the lines of the event."""
        prefix = f"<{_PRIORITIES[event['level']]}>"
        rendered = self._render(logger, method, event)
        return "\n".join(prefix + line for line in str(rendered).split("\n"))
