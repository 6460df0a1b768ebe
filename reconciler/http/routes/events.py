"""`GET /api/events`: the changes of the caller's generations, as server-sent events.

`live/hub.py` decides which changes a stream gets; `live/event_stream.py` sends them.
"""

import time
from contextlib import ExitStack

from fastapi import APIRouter, Depends, Header

from reconciler.http.auth import Authenticator, Caller, unauthorized
from reconciler.http.live.event_stream import EventStreamResponse, StreamTimes
from reconciler.http.readiness_gate import ReadinessGate

_EXAMPLE = """event: hello
id: 41
data: {}

event: generation
id: 42
data: {"id":"9b2e…","status":"success","kind":"succeeded","assetUrl":"https://…/9b2e…_0.png"}

: still here
"""

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
the present one.

* `hello` comes first. Its `id` is what to send as Last-Event-ID next time, until a later event brings another.
* `generation`: `{"id","status","kind","assetUrl"?}`. `kind` is succeeded, failed, gave_up, recovered or healed for the
  end of a generation, repaired or lost for a file that storage had lost, each with an `id`; else `status`.
* `resync`: something may have been missed; fetch the list anew, after a random part of a second.
* `bye`: the stream ends here, after an hour at most, because the token expires, or because this replica stops; connect
  again after `retry` milliseconds, with Last-Event-ID and a valid token.

A comment comes every 15 seconds where nothing else does. A reader that does not keep up is disconnected and connects
again."""


def routes(authenticator: Authenticator, readiness_gate: ReadinessGate, times: StreamTimes | None = None) -> APIRouter:
    """Return the route; `times` bounds its streams."""
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
        caller: Caller = Depends(authenticator.caller),
        last_event_id: str | None = Header(
            None,
            alias="Last-Event-ID",
            description="The id of the last event that was seen: the changes since then come first",
        ),
    ) -> EventStreamResponse:
        if caller.expires is not None and caller.expires <= time.time():
            # Other routes allow for a clock that differs. A stream would end at once, and its client come again.
            raise unauthorized("the token has expired")
        hub = readiness_gate.enter().hub
        with ExitStack() as on_error:
            # The stream joins before the replay is read, so that no change falls between the two.
            stream = hub.join(caller)
            on_error.callback(stream.leave)
            greeting = await hub.greeting(caller, last_event_id)
            response = EventStreamResponse(stream, greeting, times, expires=caller.expires)
            on_error.pop_all()
        return response

    return router
