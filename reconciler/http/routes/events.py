"""`GET /api/events`: how generations change, as server-sent events, to whoever may see them.

What is told is decided in `hub.py`; here is how it gets to one reader, and how that ends.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass

from fastapi import APIRouter, Depends, Header
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from reconciler.http.auth import Authenticator, Caller
from reconciler.http.live.hub import BEAT, EventStream
from reconciler.http.readiness_gate import ReadinessGate

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

_EXAMPLE = """event: hello
id: 41
data: {}

event: generation
id: 42
data: {"id":"9b2e…","status":"success","kind":"succeeded","assetUrl":"https://…/9b2e…_0.png"}

: still here
"""

# What each event of the stream is.
_EVENT = {
    "type": "object",
    "properties": {
        "event": {"type": "string", "enum": ["hello", "generation", "resync", "bye"]},
        "id": {"type": "string", "description": "for Last-Event-ID"},
        "data": {"type": "string", "description": "JSON"},
    },
    "required": ["event", "data"],
}

_TEXT = """\
The token comes in the Authorization header, so a page reads this with `fetch`, not with EventSource. Fetch the list
after `hello`, then take each event as the newest state of its row: an event may come twice, and its `status` is always
that of now.

* `hello` comes first. Its `id` is what to send as Last-Event-ID next time, until a later event brings another.
* `generation`: `{"id","status","kind","assetUrl"?}`. `kind` is succeeded, failed, gave_up, recovered or healed for the
  end of a generation, repaired or lost for what storage had lost, each with an `id`; else `status`.
* `resync`: something may have been missed; fetch the list anew, after a random part of a second.
* `bye`: the stream ends here, after an hour at most or because this replica stops; connect again after `retry`
  milliseconds, with Last-Event-ID.

A comment comes every 15 seconds where nothing else does. A reader who does not keep up is cut off and comes back."""


@dataclass(frozen=True, slots=True)
class StreamTimes:
    """Seconds: between two signs of life, until a stream ends by itself, and for taking the last words."""

    beat: float = 15.0
    life: float = 3600.0
    grace: float = 2.0


class EventStreamResponse(StreamingResponse):
    """One open stream as a response; it ends when its reader has gone, when it has ended, or when it got stuck."""

    media_type = "text/event-stream"

    def __init__(self, stream: EventStream, greeting: bytes, times: StreamTimes) -> None:
        self._stream = stream
        self._times = times
        super().__init__(self._frames(greeting), headers=_HEADERS)

    async def _frames(self, greeting: bytes) -> AsyncIterator[bytes]:
        yield greeting
        while not self._stream.over:
            try:
                async with asyncio.timeout(self._times.beat):
                    frames = await self._stream.take()
            except TimeoutError:
                frames = BEAT
            yield frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send until the first of the three ends; a reader that takes nothing would hold up `send` for ever."""
        # A token may expire while the stream is open. Not all of them at once: they come back.
        life = self._times.life * random.uniform(0.9, 1)
        ending = asyncio.get_running_loop().call_later(life, self._stream.end)
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
            ending.cancel()
            self._stream.leave()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _stuck(self) -> None:
        await self._stream.ended.wait()
        await asyncio.sleep(self._times.grace)


def routes(gate: Authenticator, entrance: ReadinessGate, times: StreamTimes | None = None) -> APIRouter:
    """Return the route; `times` is how long its streams wait and last."""
    router = APIRouter()
    times = times or StreamTimes()

    @router.get(
        "/api/events",
        tags=["events"],
        summary="Follow how generations change",
        description=_TEXT,
        response_class=EventStreamResponse,
        status_code=200,
        responses={
            200: {
                "description": "The stream; it stays open",
                "content": {"text/event-stream": {"schema": _EVENT, "example": _EXAMPLE}},
            },
            429: {"description": "This user has too many streams open"},
            503: {"description": "Starting, draining, the database is away, or too many streams are open"},
        },
    )
    async def events(
        caller: Caller = Depends(gate.caller),
        last_event_id: str | None = Header(
            None,
            alias="Last-Event-ID",
            description="The id of the last event that was seen: what was missed since then comes first",
        ),
    ) -> EventStreamResponse:
        hub = entrance.go().hub
        with ExitStack() as leaving:
            # Joined before anything is read, so that nothing falls between the replay and what is heard.
            stream = hub.join(caller)
            leaving.callback(stream.leave)
            flow = EventStreamResponse(stream, await hub.greeting(caller, last_event_id), times)
            leaving.pop_all()
        return flow

    return router
