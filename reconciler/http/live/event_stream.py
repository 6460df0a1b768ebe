"""One open event stream: the frames that wait for its reader, and the response that sends them.

`hub.py` decides which frames a stream gets; `routes/events.py` opens it.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import structlog
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

log = structlog.get_logger()

MAX_WAITING = 64
"""The most batches of frames that wait for one reader; a slower reader is disconnected and connects again."""


def frame(event: str, data: object, *, id: int | None = None, retry: int | None = None) -> bytes:  # noqa: A002
    """Return one server-sent event with JSON as its data; `retry` is in milliseconds."""
    lines = [f"event: {event}"]
    lines += [] if id is None else [f"id: {id}"]
    lines += [] if retry is None else [f"retry: {retry}"]
    return "\n".join([*lines, f"data: {json.dumps(data, separators=(',', ':'))}", "", ""]).encode()


KEEP_ALIVE = b": still here\n\n"
RESYNC = frame("resync", {})
BYE = frame("bye", {}, retry=2000)
TOO_SLOW = b": too slow, come again\n\n"

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@dataclass(frozen=True, slots=True)
class StreamTimes:
    """Seconds: between two keep-alive comments, until a stream ends by itself, and for sending the last frames."""

    keep_alive: float = 15.0
    life: float = 3600.0
    grace: float = 2.0


class EventStream:
    """The frames that wait to be sent to one caller, until the stream ends."""

    def __init__(self, user_id: str | None, leave: Callable[[EventStream], None]) -> None:
        self.user_id = user_id
        self.ended = asyncio.Event()
        self._leave = leave
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue()

    def push(self, frames: bytes) -> None:
        """Queue these frames; a reader with MAX_WAITING batches in the queue is disconnected."""
        if self.ended.is_set():
            return
        if self._waiting.qsize() < MAX_WAITING:
            self._waiting.put_nowait(frames)
            return
        self._take_waiting()
        self.end(TOO_SLOW)
        log.info("stream.cut", user_id=self.user_id)

    def end(self, last_frame: bytes = BYE) -> None:
        """End the stream: the waiting frames are sent, then this one, and nothing more."""
        if not self.ended.is_set():
            self._waiting.put_nowait(last_frame)
            self.ended.set()

    async def take(self) -> bytes:
        """Wait for a frame and return all that wait."""
        return await self._waiting.get() + self._take_waiting()

    def _take_waiting(self) -> bytes:
        return b"".join(self._waiting.get_nowait() for _ in range(self._waiting.qsize()))

    @property
    def over(self) -> bool:
        """Whether it has ended and nothing waits any more."""
        return self.ended.is_set() and self._waiting.empty()

    def leave(self) -> None:
        """Leave the hub: no further frame comes, and the stream no longer counts."""
        self._leave(self)


class EventStreamResponse(StreamingResponse):
    """One open stream as a response.

    It ends when the reader disconnects, when the stream ends or its token expires, or when it is stuck. `expires` is in
    Unix seconds, None for a token that does not expire.
    """

    media_type = "text/event-stream"

    def __init__(
        self, stream: EventStream, greeting: bytes, times: StreamTimes, *, expires: float | None = None
    ) -> None:
        self._stream = stream
        self._times = times
        self._expires = float("inf") if expires is None else expires
        super().__init__(self._frames(greeting), headers=_HEADERS)

    async def _frames(self, greeting: bytes) -> AsyncIterator[bytes]:
        yield greeting
        while not self._stream.over:
            try:
                async with asyncio.timeout(self._times.keep_alive):
                    frames = await self._stream.take()
            except TimeoutError:
                frames = KEEP_ALIVE
            if self._left() <= 0:
                # The clock was set: the timer comes too late.
                self._stream.end()
            yield frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send until the stream is over, its reader has gone, or it is stuck: a reader may block `send` for ever."""
        # The random part keeps clients from returning all at once.
        life = min(self._times.life * random.uniform(0.9, 1), max(self._left(), 0))
        end_timer = asyncio.get_running_loop().call_later(life, self._stream.end)
        tasks = {
            asyncio.create_task(self.stream_response(send)),
            asyncio.create_task(self.listen_for_disconnect(receive)),
            asyncio.create_task(self._stuck()),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            end_timer.cancel()
            self._stream.leave()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _left(self) -> float:
        """Return the seconds until the token expires."""
        return self._expires - time.time()

    async def _stuck(self) -> None:
        await self._stream.ended.wait()
        await asyncio.sleep(self._times.grace)
