"""Reads the body of a request before its route runs: by the route's rule, after its sender is admitted, within limits.

A request that is refused is answered at once. What its client still sends is discarded for a moment, because a client
that sends does not read an answer. `bodies.py` has the rules, `limits.py` the limits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reconciler.errors import Transient
from reconciler.http.bodies import BodyRule
from reconciler.http.limits import RequestLimits
from reconciler.http.problems import Problem, from_transient
from reconciler.kie.dialects.parsing import MAX_VALUES, too_many_values

_CLOSE = {"Connection": "close"}
_EMPTY: Final[Message] = {"type": "http.request", "body": b"", "more_body": False}


class BodyLimiter:
    """Passes a request on with its whole body, so that no route waits for a slow client; `rules` are by path."""

    def __init__(self, app: ASGIApp, limits: RequestLimits, rules: Mapping[str, BodyRule]) -> None:
        self._app = app
        self._limits = limits
        self._rules = rules
        self._reserves = {
            rule.reserve: BodyReserve(max(limits.held, rule.longest), limits.bodies) for rule in rules.values()
        }
        self._discarding = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 400, 408, 413, 431, 503 or what the rule's admission raises."""
        incoming = _Incoming(receive)
        rule = self._rules.get(scope["path"]) if scope["method"] == "POST" else None
        try:
            lengths = self._checked_lengths(scope)
            if lengths is None and rule is None:
                await self._app(scope, receive, send)
                return
            body = b"" if rule is None else await self._admitted(scope, incoming, rule, lengths)
        except (Problem, Transient) as error:
            problem = _closing(error)
            if rule is not None:
                rule.refused(problem)
            await problem.answer()(scope, receive, self._discarding_rest(scope, incoming, send))
            return
        if body is not None:
            # Without a rule the body stays unread; what follows on this connection would be a part of it.
            send = self._discarding_rest(scope, incoming, send) if rule is None else send
            await self._app(scope, _replay(body, incoming), send)

    def _checked_lengths(self, scope: Scope) -> int | None:
        """Return the length that the head states, 0 where it is open, None where there is no body."""
        headers = scope["headers"]
        if len(headers) > self._limits.headers:
            raise Problem(431, "too_many_headers", f"no more than {self._limits.headers} headers are read")
        lengths = {name: value for name, value in headers if name in (b"content-length", b"transfer-encoding")}
        if len(lengths) > 1:
            # Request smuggling: a proxy may have used the other header, and would read the rest as the next request.
            raise Problem(400, "invalid_request", "Content-Length and Transfer-Encoding must not both be sent")
        length = int(lengths.get(b"content-length", 0))
        return length if length or b"transfer-encoding" in lengths else None

    async def _admitted(self, scope: Scope, incoming: _Incoming, rule: BodyRule, length: int | None) -> bytes | None:
        """Return the body of a sender that the rule admits, None where the client disconnected."""
        await rule.admit(Request(scope))
        if length is None:
            return b""
        if length > rule.longest:
            raise _too_large(rule)
        body = await self._read(incoming, rule)
        if body is not None and too_many_values(body):
            raise Problem(400, "invalid_request", f"no more than {MAX_VALUES} values are read")
        return body

    async def _read(self, incoming: _Incoming, rule: BodyRule) -> bytes | None:
        reserve = self._reserves[rule.reserve]
        with reserve.reading() as reading:
            try:
                async with asyncio.timeout(self._limits.body_seconds) as reading.timeout:
                    while not incoming.ended:
                        message = await incoming()
                        if message["type"] == "http.disconnect":
                            return None
                        piece = message.get("body", b"")
                        if len(reading.body) + len(piece) > rule.longest:
                            raise _too_large(rule)
                        reserve.add(reading, piece)
            except TimeoutError:
                reading.require_place()
                incoming.ended = True
                detail = f"the body did not come within {self._limits.body_seconds:g} s"
                raise Problem(408, "too_slow", detail) from None
            reading.require_place()
            return bytes(reading.body)

    def _discarding_rest(self, scope: Scope, incoming: _Incoming, send: Send) -> Send:
        """Return a send function that closes the connection once the answer is sent and the rest is discarded."""

        async def send_and_discard(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Connection"] = "close"
            ends = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send({**message, "more_body": True} if ends else message)
            if ends:
                if not any(name == b"expect" for name, _ in scope["headers"]):
                    await self._discard(incoming)
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        return send_and_discard

    async def _discard(self, incoming: _Incoming) -> None:
        if self._discarding >= self._limits.discarding:
            return
        self._discarding += 1
        try:
            async with asyncio.timeout(self._limits.discard_seconds):
                while not incoming.ended and incoming.read < self._limits.discard:
                    await incoming()
        except TimeoutError:
            pass
        finally:
            self._discarding -= 1


@dataclass(eq=False, slots=True)
class _Reading:
    """A body that is being read; a body without its place in the reserve holds no bytes."""

    body: bytearray = field(default_factory=bytearray)
    timeout: asyncio.Timeout | None = None
    placed: bool = True

    def require_place(self) -> None:
        """Raise Problem 503 where the place was given to a later body."""
        if not self.placed:
            detail = "too much is being sent at once"
            raise Problem(503, "unavailable", detail, headers={**_CLOSE, "Retry-After": "10"})


class BodyReserve:
    """The memory of bodies that are being read: at most `held` bytes in `bodies` bodies.

    Where there is no room, the body that has been coming for the longest gives way: slow bodies harm nobody else.
    """

    def __init__(self, held: int, bodies: int) -> None:
        self._most_held = held
        self._most_bodies = bodies
        self._held = 0
        self._readings: dict[_Reading, None] = {}

    @contextmanager
    def reading(self) -> Iterator[_Reading]:
        """Give a body its place."""
        while len(self._readings) >= self._most_bodies:
            self._give_way()
        reading = _Reading()
        self._readings[reading] = None
        try:
            yield reading
        finally:
            self._remove(reading)

    def add(self, reading: _Reading, piece: bytes) -> None:
        """Add a piece to a body; Problem 503 where the body has lost its place."""
        while reading.placed and self._held + len(piece) > self._most_held:
            self._give_way()
        reading.require_place()
        self._held += len(piece)
        reading.body += piece

    def _give_way(self) -> None:
        oldest = next(iter(self._readings))
        self._remove(oldest)
        oldest.placed = False
        oldest.body.clear()
        if oldest.timeout is not None and not oldest.timeout.expired():
            oldest.timeout.reschedule(0)

    def _remove(self, reading: _Reading) -> None:
        if reading in self._readings:
            del self._readings[reading]
            self._held -= len(reading.body)


class _Incoming:
    """The messages of a request, with the bytes read so far, and whether it has ended."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.read = 0
        self.ended = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.read += len(message.get("body", b""))
        self.ended = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message


def _too_large(rule: BodyRule) -> Problem:
    return Problem(413, "too_large", f"no more than {rule.longest} bytes are read")


def _closing(error: Problem | Transient) -> Problem:
    """Return the problem, with the header that closes the connection: a part of the body may be unread."""
    problem = error if isinstance(error, Problem) else from_transient(error)
    problem.headers |= _CLOSE
    return problem


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a receive function that gives the whole body first, and later messages after it."""
    messages: list[Message] = [{**_EMPTY, "body": body}]

    async def receive_body() -> Message:
        return messages.pop() if messages else await receive()

    return receive_body
