"""How much and how slowly anybody may send: the head of a request, its headers, its body.

What is over a limit never reaches a route. The web door puts these around the application and under the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from reconciler.doors.problems import Problem

_CLOSE = {"Connection": "close"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may be: bytes and seconds of its body, seconds of its head, how many headers.

    Of a body that is too long no more than `patience` bytes are read: who still sends does not hear an answer.
    """

    body: int = 1 << 20
    body_seconds: float = 10.0
    head_seconds: float = 10.0
    headers: int = 100
    patience: int = 8 << 20


class Bodies:
    """Lets a request in once its body is here whole: nothing behind it waits for a stranger."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or raise Problem 408, 413 or 431."""
        headers = scope["headers"]
        if len(headers) > self._limits.headers:
            told = f"no more than {self._limits.headers} headers are read"
            raise Problem(431, "too_many_headers", told, headers=_CLOSE)
        lengths = {name: value for name, value in headers if name in (b"content-length", b"transfer-encoding")}
        if not lengths:
            await self._app(scope, receive, send)
            return
        body = await self._read(receive, int(lengths.get(b"content-length", 0)))
        if body is not None:
            await self._app(scope, _first(body, receive), send)

    async def _read(self, receive: Receive, length: int) -> bytes | None:
        """Return the body; None when the sender went away."""
        body, read = bytearray(), 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while max(length, read) <= self._limits.patience:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    piece = message.get("body", b"")
                    read += len(piece)
                    if read <= self._limits.body:
                        body += piece
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            told = f"the body did not come within {self._limits.body_seconds:g} s"
            raise Problem(408, "too_slow", told, headers=_CLOSE) from None
        if max(length, read) > self._limits.body:
            raise Problem(413, "too_large", f"no more than {self._limits.body} bytes are read", headers=_CLOSE)
        return bytes(body)


def _first(body: bytes, receive: Receive) -> Receive:
    """Return what tells the whole body, and then what comes after it."""
    told: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receiving() -> Message:
        return told.pop() if told else await receive()

    return receiving


class Prompt(H11Protocol):
    """Closes a connection that does not send the whole head of a request in time; the server itself waits for ever."""

    def __init__(self, *arguments: Any, head_seconds: float, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_seconds = head_seconds
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Wait on while what came is only a part of a head."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._deadline is None:
            self._wait()

    def _wait(self) -> None:
        self._deadline = self.loop.call_later(self._head_seconds, self.transport.close)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def prompt(limits: Limits) -> Callable[..., Prompt]:
    """Return what makes the server's side of a connection."""

    def made(*arguments: Any, **named: Any) -> Prompt:
        return Prompt(*arguments, head_seconds=limits.head_seconds, **named)

    return made
