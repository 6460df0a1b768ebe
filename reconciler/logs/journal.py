"""What systemd's journal is told about a line: how bad it is, by a prefix that the journal takes off again.

Only `setup` asks. The prefixes are those of sd-daemon(3), and JOURNAL_STREAM is told in systemd.exec(5).
"""

from __future__ import annotations

import os
from typing import TextIO

from structlog.typing import EventDict, Processor, WrappedLogger

_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}


def reads(stream: TextIO) -> bool:
    """Whether what is written here goes to the journal: JOURNAL_STREAM names the device and inode of this stream."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


class Prefixed:
    """What `render` makes of an event, with its priority before every line: the journal knows lines only."""

    def __init__(self, render: Processor) -> None:
        self._render = render

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        """The event's lines."""
        prefix = f"<{_PRIORITIES[event['level']]}>"
        rendered = self._render(logger, method, event)
        return "\n".join(prefix + line for line in str(rendered).split("\n"))
