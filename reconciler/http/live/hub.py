"""Who has a stream open, and what is told to whom: everything heard is looked up once for all of them.

Streams hold no connection of the database and ask it nothing while they are open. The listener wakes the hub, the
daemon runs it, the events door joins callers to it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import islice

import structlog

from reconciler.errors import ReconcilerError
from reconciler.http.auth import Caller
from reconciler.http.problems import Problem, unavailable
from reconciler.postgres.reports.change_feed import ChangeFeed, GenerationChange

log = structlog.get_logger()

KEPT = 10_000
"""Notifications kept until they are looked up; beyond that every page fetches its list anew."""

BATCH = 1000
"""Notifications looked up with one statement."""

DEPTH = 64
"""Rounds of news that wait for one reader; a slower one is cut and comes back."""

AWAY = 1.0
"""Seconds before a database that was away is asked again."""

QUIET = 15.0
"""Least seconds between two calls to fetch the list: a deaf listener loses its connection again and again."""


def frame(event: str, said: object, *, id: int | None = None, retry: int | None = None) -> bytes:  # noqa: A002
    """Return one server-sent event with JSON as its content; `retry` is in milliseconds."""
    lines = [f"event: {event}"]
    lines += [] if id is None else [f"id: {id}"]
    lines += [] if retry is None else [f"retry: {retry}"]
    return "\n".join([*lines, f"data: {json.dumps(said, separators=(',', ':'))}", "", ""]).encode()


def told(happening: GenerationChange) -> bytes:
    """Return the event that tells of this."""
    said = {"id": happening.id, "status": happening.status, "kind": happening.kind}
    if happening.asset_url is not None:
        said["assetUrl"] = happening.asset_url
    return frame("generation", said, id=happening.event)


BEAT = b": still here\n\n"
RESYNC = frame("resync", {})
BYE = frame("bye", {}, retry=2000)
TOO_SLOW = b": too slow, come again\n\n"


class EventStream:
    """What waits to be sent to one caller, until it ends."""

    def __init__(self, user_id: str | None, leave: Callable[[EventStream], None]) -> None:
        self.user_id = user_id
        self.ended = asyncio.Event()
        self._leave = leave
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue()

    def push(self, frames: bytes) -> None:
        """Add to what is sent; a reader who has left DEPTH of them lying is cut."""
        if self.ended.is_set():
            return
        if self._waiting.qsize() < DEPTH:
            self._waiting.put_nowait(frames)
            return
        self._taken()
        self.end(TOO_SLOW)
        log.info("stream.cut", user_id=self.user_id)

    def end(self, farewell: bytes = BYE) -> None:
        """Let what waits be sent, then this, and nothing more."""
        if not self.ended.is_set():
            self._waiting.put_nowait(farewell)
            self.ended.set()

    async def take(self) -> bytes:
        """Return all that waits, once something does."""
        return await self._waiting.get() + self._taken()

    def _taken(self) -> bytes:
        return b"".join(self._waiting.get_nowait() for _ in range(self._waiting.qsize()))

    @property
    def over(self) -> bool:
        """Whether it has ended and nothing waits any more."""
        return self.ended.is_set() and self._waiting.empty()

    def leave(self) -> None:
        """Be told nothing more, and count no more."""
        self._leave(self)


class Hub:
    """Gathers what is heard and tells it to those who may see it, at most once in `gather` seconds.

    `most` streams at once in this process, `each` of one user; the operator has no bound of their own.
    """

    def __init__(self, happenings: ChangeFeed, *, gather: float = 0.1, most: int = 1000, each: int = 20) -> None:
        self._happenings = happenings
        self._gather = gather
        self._most = most
        self._each = each
        self._streams: defaultdict[str | None, set[EventStream]] = defaultdict(set)
        self._heard: dict[tuple[str, int], None] = {}
        self._lost = False
        self._called = float("-inf")
        self._away = False
        self._closed = False
        self._stirred = asyncio.Event()

    def wake(self, generation_id: str, event: int = 0) -> None:
        """Remember that something happened to this generation; `event` is the outbox's id, 0 where there is none."""
        if not self._streams:
            return
        if len(self._heard) >= KEPT:
            self._heard.clear()
            self._lost = True
        self._heard[generation_id, event] = None
        self._stirred.set()

    def gap(self) -> None:
        """Remember that something may have happened unheard."""
        if self._streams:
            self._lost = True
            self._stirred.set()

    def join(self, caller: Caller) -> EventStream:
        """Open a stream for this caller, from now on; Problem 429 or 503 where there are too many."""
        if self._closed:
            raise unavailable("draining")
        if sum(map(len, self._streams.values())) >= self._most:
            raise unavailable("too many streams are open", seconds=10)
        if not caller.operator and len(self._streams.get(caller.user_id, ())) >= self._each:
            detail = f"one user may have {self._each} streams open"
            raise Problem(429, "too_many_streams", detail, headers={"Retry-After": "10"})
        stream = EventStream(caller.user_id, self._left)
        self._streams[caller.user_id].add(stream)
        return stream

    def _left(self, stream: EventStream) -> None:
        theirs = self._streams.get(stream.user_id, set())
        theirs.discard(stream)
        if not theirs:
            self._streams.pop(stream.user_id, None)

    async def greeting(self, caller: Caller, last: str | None) -> bytes:
        """Return what a stream begins with: hello, and what was missed since the event with the id `last`.

        Hello's id is where the next replay begins; it is the old one while the replay is still on its way. Raises
        Transient while the database is away.
        """
        missed = None
        if last is not None and last.isascii() and last.isdigit() and len(last) < 19:
            missed = await self._happenings.since(int(last), caller.user_id)
            if missed is not None:
                return frame("hello", {}, id=int(last)) + b"".join(map(told, missed))
        hello = frame("hello", {}, id=await self._happenings.newest())
        return hello if last is None else hello + RESYNC

    async def run(self) -> None:
        """Tell what is heard until cancelled."""
        while True:
            await self._stirred.wait()
            await asyncio.sleep(await self._round())

    def close(self) -> None:
        """Say goodbye to everybody, and let nobody in any more."""
        self._closed = True
        for theirs in self._streams.values():
            for stream in theirs:
                stream.end()

    async def _round(self) -> float:
        """Look up one batch and hand it out; return the seconds until the next."""
        self._stirred.clear()
        self._call()
        batch = list(islice(self._heard, BATCH))
        for one in batch:
            del self._heard[one]
        rest = self._gather
        try:
            if batch and self._streams:
                self._hand_out(await self._happenings.of(batch))
            self._away = False
        except ReconcilerError as error:
            self._heard = dict.fromkeys([*batch, *self._heard])
            rest = AWAY
            if not self._away:
                log.warning("events.waiting", code=error.code, reason=str(error))
            self._away = True
        if self._heard or self._lost:
            self._stirred.set()
        return rest

    def _call(self) -> None:
        """Call on everybody to fetch their list, where something was lost."""
        now = time.monotonic()
        if self._lost and now - self._called >= QUIET:
            self._lost, self._called = False, now
            for theirs in self._streams.values():
                for stream in theirs:
                    stream.push(RESYNC)

    def _hand_out(self, happenings: list[GenerationChange]) -> None:
        frames: defaultdict[str | None, list[bytes]] = defaultdict(list)
        for happening in happenings:
            made = told(happening)
            # The operator sees every row; one without a user is nobody else's.
            for user_id in {None, happening.user_id}:
                if user_id in self._streams:
                    frames[user_id].append(made)
        for user_id, theirs in frames.items():
            joined = b"".join(theirs)
            for stream in self._streams[user_id]:
                stream.push(joined)
