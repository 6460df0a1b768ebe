"""Adds the priority of a line for systemd's journal, as a prefix that the journal removes.

Only `setup` calls this. sd-daemon(3) describes the prefixes, systemd.exec(5) describes JOURNAL_STREAM.
"""

from __future__ import annotations

import os
from typing import TextIO

from structlog.typing import EventDict, Processor, WrappedLogger

_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}


def reads(stream: TextIO) -> bool:
    """Return whether this stream goes to the journal: JOURNAL_STREAM names its device and inode."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


class Prefixed:
    """Renders an event and puts its priority before every line, because the journal splits at line ends."""

    def __init__(self, render: Processor) -> None:
        self._render = render

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        """Return the lines of the event."""
        prefix = f"<{_PRIORITIES[event['level']]}>"
        rendered = self._render(logger, method, event)
        return "\n".join(prefix + line for line in str(rendered).split("\n"))
