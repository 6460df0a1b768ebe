"""How much and how slowly anybody may send: the head of a request, its headers, its body.

What is over a limit never reaches a route. The web door puts these around the application and under the server.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from reconciler.http.problems import Problem

MOST = 10_000

_CLOSE = {"Connection": "close"}


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What one request may be: bytes and seconds of its body, seconds of its head, how many headers.

    Of a body that is too long no more than `patience` bytes are read: who still sends does not hear an answer. All
    bodies that are being read hold no more than `held` bytes together. An answer may lie untaken for `taking_seconds`.
    No more than `connections` are open at once; 0 is for half of the files that the process may open, and MOST at most:
    the other half is for the database, for KIE and for what is stored.
    """

    body: int = 1 << 20
    body_seconds: float = 10.0
    head_seconds: float = 10.0
    headers: int = 100
    patience: int = 8 << 20
    held: int = 64 << 20
    taking_seconds: float = 60.0
    connections: int = 0


class BodyLimiter:
    """Lets a request in once its body is here whole: nothing behind it waits for a stranger."""

    def __init__(self, app: ASGIApp, limits: RequestLimits) -> None:
        self._app = app
        self._limits = limits
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or raise Problem 400, 408, 413, 431 or 503."""
        headers = scope["headers"]
        if len(headers) > self._limits.headers:
            told = f"no more than {self._limits.headers} headers are read"
            raise Problem(431, "too_many_headers", told, headers=_CLOSE)
        lengths = {name: value for name, value in headers if name in (b"content-length", b"transfer-encoding")}
        if not lengths:
            await self._app(scope, receive, send)
            return
        if len(lengths) > 1:
            # Who stands before us may have believed the other one, and takes what is left for somebody's next request.
            raise Problem(400, "invalid_request", "the body has a length and no end as well", headers=_CLOSE)
        body = bytearray()
        try:
            whole = await self._read(body, receive, int(lengths.get(b"content-length", 0)))
        finally:
            self._held -= len(body)
        if whole:
            await self._app(scope, _first(bytes(body), receive), send)

    async def _read(self, body: bytearray, receive: Receive, length: int) -> bool:
        """Read into `body`; false when the sender went away."""
        read = 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while max(length, read) <= self._limits.patience:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return False
                    piece = message.get("body", b"")
                    read += len(piece)
                    if read <= self._limits.body:
                        self._make_room(len(piece))
                        body += piece
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            told = f"the body did not come within {self._limits.body_seconds:g} s"
            raise Problem(408, "too_slow", told, headers=_CLOSE) from None
        if max(length, read) > self._limits.body:
            raise Problem(413, "too_large", f"no more than {self._limits.body} bytes are read", headers=_CLOSE)
        return True

    def _make_room(self, more: int) -> None:
        if self._held + more > self._limits.held:
            raise Problem(503, "unavailable", "too much is being sent at once", headers={**_CLOSE, "Retry-After": "10"})
        self._held += more


def _first(body: bytes, receive: Receive) -> Receive:
    """Return what tells the whole body, and then what comes after it."""
    told: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receiving() -> Message:
        return told.pop() if told else await receive()

    return receiving


class PromptProtocol(H11Protocol):
    """Closes a connection that sends no whole head in time, or does not take its answer, or is one too many.

    The server itself waits for ever.
    """

    def __init__(self, *arguments: Any, limits: RequestLimits, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._limits = limits
        self._deadline: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request, unless too many wait already."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            transport.abort()
            return
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        self._taken()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begin to wait for what was sent to be taken."""
        super().pause_writing()
        self._taking = self.loop.call_later(self._limits.taking_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Wait no more: enough of it was taken."""
        self._taken()
        super().resume_writing()

    def handle_events(self) -> None:
        """Wait on while what came is only a part of a head."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._deadline is None:
            self._wait()

    def _wait(self) -> None:
        self._deadline = self.loop.call_later(self._limits.head_seconds, self.transport.close)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _taken(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None


def prompt(limits: RequestLimits) -> Callable[..., PromptProtocol]:
    """Return what makes the server's side of a connection."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST if files == resource.RLIM_INFINITY else min(files // 2, MOST)
    bounded = replace(limits, connections=limits.connections or most)

    def made(*arguments: Any, **named: Any) -> PromptProtocol:
        return PromptProtocol(*arguments, limits=bounded, **named)

    return made
