"""Limits of requests: size and time of head, headers and body, and how many connections are open.

A request beyond a limit never reaches a route. `app.py` puts the body limit around the application and the connection
limits under the server.
"""

import asyncio
import resource
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from reconciler.http.problems import Problem

MAX_CONNECTIONS = 10_000

_CLOSE = {"Connection": "close"}


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The limits of one request: bytes and seconds of its body, seconds of its head, number of its headers.

    Up to `discard` bytes of a body that is too long are read, because a client that still sends does not read an
    answer. All bodies that are being read hold at most `held` bytes in memory. A client may leave an answer unread for
    `read_answer_seconds`. At most `connections` are open at once; 0 means half of the files that the process may open,
    and at most MAX_CONNECTIONS: the database, KIE and storage need the other half.
    """

    body: int = 1 << 20
    body_seconds: float = 10.0
    head_seconds: float = 10.0
    headers: int = 100
    discard: int = 8 << 20
    held: int = 64 << 20
    read_answer_seconds: float = 60.0
    connections: int = 0


class BodyLimiter:
    """Reads the whole body before it passes a request on, so that no route waits for a slow client."""

    def __init__(self, app: ASGIApp, limits: RequestLimits) -> None:
        self._app = app
        self._limits = limits
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or raise Problem 400, 408, 413, 431 or 503."""
        headers = scope["headers"]
        if len(headers) > self._limits.headers:
            detail = f"no more than {self._limits.headers} headers are read"
            raise Problem(431, "too_many_headers", detail, headers=_CLOSE)
        lengths = {name: value for name, value in headers if name in (b"content-length", b"transfer-encoding")}
        if not lengths:
            await self._app(scope, receive, send)
            return
        if len(lengths) > 1:
            # Request smuggling: a proxy may have used the other header, and would read the rest as the next request.
            raise Problem(
                400, "invalid_request", "Content-Length and Transfer-Encoding must not both be sent", headers=_CLOSE
            )
        body = bytearray()
        try:
            whole = await self._read(body, receive, int(lengths.get(b"content-length", 0)))
        finally:
            self._held -= len(body)
        if whole:
            await self._app(scope, _replay(bytes(body), receive), send)

    async def _read(self, body: bytearray, receive: Receive, length: int) -> bool:
        """Read into `body`; return False when the client disconnected."""
        read = 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while max(length, read) <= self._limits.discard:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return False
                    piece = message.get("body", b"")
                    read += len(piece)
                    if read <= self._limits.body:
                        self._reserve(len(piece))
                        body += piece
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            detail = f"the body did not come within {self._limits.body_seconds:g} s"
            raise Problem(408, "too_slow", detail, headers=_CLOSE) from None
        if max(length, read) > self._limits.body:
            raise Problem(413, "too_large", f"no more than {self._limits.body} bytes are read", headers=_CLOSE)
        return True

    def _reserve(self, more: int) -> None:
        if self._held + more > self._limits.held:
            raise Problem(503, "unavailable", "too much is being sent at once", headers={**_CLOSE, "Retry-After": "10"})
        self._held += more


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a receive function that gives the whole body first, and later messages after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_body() -> Message:
        return messages.pop() if messages else await receive()

    return receive_body


class LimitedProtocol(H11Protocol):
    """Closes a connection that is one too many, sends no whole head in time, or does not read its answer.

    uvicorn itself would wait for ever.
    """

    def __init__(self, *arguments: Any, limits: RequestLimits, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._limits = limits
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the first request; close the connection at once where too many are open."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            transport.abort()
            return
        self._start_head_timer()

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
        self._timers["head"] = self.loop.call_later(self._limits.head_seconds, self.transport.close)

    def _cancel(self, timer: str) -> None:
        if timer in self._timers:
            self._timers.pop(timer).cancel()


def protocol_factory(limits: RequestLimits) -> Callable[..., LimitedProtocol]:
    """Return the function with which uvicorn creates the protocol of each connection."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_CONNECTIONS if files == resource.RLIM_INFINITY else min(files // 2, MAX_CONNECTIONS)
    bounded = replace(limits, connections=limits.connections or most)

    def create(*arguments: Any, **keywords: Any) -> LimitedProtocol:
        return LimitedProtocol(*arguments, limits=bounded, **keywords)

    return create
