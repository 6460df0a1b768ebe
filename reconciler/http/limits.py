"""Limits of requests: size and time of head, headers and body, and how many connections are open.

A request beyond a limit never reaches a route. `body_limiter.py` applies the limits of bodies, `app.py` puts the
connection limits under the server.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 10_000


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The limits of requests: seconds of a body and of a head, number of headers.

    All bodies of one reserve that are being read are at most `bodies`, with at most `held` bytes in memory. Of a
    request that is refused, up to `discard` bytes are discarded within `discard_seconds` after the answer, of
    `discarding` requests at once. A client may leave an answer unread for `read_answer_seconds`. At most `connections`
    are open at once; 0 means half of the files that the process may open, and at most MAX_CONNECTIONS: the database,
    KIE and storage need the other half.
    """

    body_seconds: float = 10.0
    head_seconds: float = 10.0
    headers: int = 100
    held: int = 32 << 20
    bodies: int = 200
    discard: int = 8 << 20
    discard_seconds: float = 5.0
    discarding: int = 100
    read_answer_seconds: float = 60.0
    connections: int = 0


class LimitedProtocol(H11Protocol):
    """Closes a connection that sends no whole head in time or does not read its answer; uvicorn would wait for ever.

    Of too many connections it closes the one that has been waiting for a head the longest. `waiting` are those of all
    protocols, the longest first.
    """

    def __init__(
        self, *arguments: Any, limits: RequestLimits, waiting: dict[LimitedProtocol, None], **keywords: Any
    ) -> None:
        super().__init__(*arguments, **keywords)
        self._limits = limits
        self._waiting = waiting
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the first request; where too many connections are open, close one."""
        super().connection_made(transport)
        self._start_head_timer()
        if len(self.connections) > self._limits.connections:
            # This one, where all others are being served.
            next(iter(self._waiting)).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers."""
        self._cancel("head")
        self._cancel("answer")
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the timer for the client to read its answer."""
        super().pause_writing()
        self._timers["answer"] = self.loop.call_later(self._limits.read_answer_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Cancel the timer: the client has read enough."""
        self._cancel("answer")
        super().resume_writing()

    def handle_events(self) -> None:
        """Keep the timer running while only a part of a head has come."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel("head")
        elif "head" not in self._timers:
            self._start_head_timer()

    def _start_head_timer(self) -> None:
        self._waiting[self] = None
        self._timers["head"] = self.loop.call_later(self._limits.head_seconds, self.transport.close)

    def _cancel(self, timer: str) -> None:
        if timer == "head":
            self._waiting.pop(self, None)
        if timer in self._timers:
            self._timers.pop(timer).cancel()


def protocol_factory(limits: RequestLimits) -> Callable[..., LimitedProtocol]:
    """Return the function with which uvicorn creates the protocol of each connection."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_CONNECTIONS if files == resource.RLIM_INFINITY else min(files // 2, MAX_CONNECTIONS)
    waiting: dict[LimitedProtocol, None] = {}
    bounded = replace(limits, connections=limits.connections or most)

    def create(*arguments: Any, **keywords: Any) -> LimitedProtocol:
        return LimitedProtocol(*arguments, limits=bounded, waiting=waiting, **keywords)

    return create
