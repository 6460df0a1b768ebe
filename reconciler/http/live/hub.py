"""The hub of the event streams: it looks each notified change up once and sends it to every stream that may see it.

An open stream holds no database connection and makes no query. The database listener wakes the hub, the daemon runs
it, and `routes/events.py` adds streams to it.
"""

import asyncio
import time
from collections import defaultdict
from itertools import chain, islice

import structlog

from reconciler.errors import ReconcilerError
from reconciler.http.auth import Caller
from reconciler.http.live.event_stream import RESYNC, EventStream, frame
from reconciler.http.problems import Problem, unavailable
from reconciler.postgres.reports.change_feed import ChangeFeed, GenerationChange

log = structlog.get_logger()

MAX_NOTIFICATIONS = 10_000
"""The most notifications that wait to be looked up; beyond it every page fetches its list anew."""

BATCH = 1000
"""Notifications looked up with one statement."""

RETRY_SECONDS = 1.0
"""Seconds until a database that was away is asked again."""

RESYNC_SECONDS = 15.0
"""The least seconds between two resync events: a listener may lose its connection again and again."""


def change_frame(change: GenerationChange) -> bytes:
    """Return the `generation` event for this change."""
    data = {"id": change.id, "status": change.status, "kind": change.kind}
    if change.asset_url is not None:
        data["assetUrl"] = change.asset_url
    return frame("generation", data, id=change.event)


class Hub:
    """Collects notifications and sends the changes to the streams that may see them, at most once in `gather` seconds.

    This process keeps at most `most` streams open, and at most `each` for one user; the operator has no own limit.
    """

    def __init__(self, changes: ChangeFeed, *, gather: float = 0.1, most: int = 1000, each: int = 20) -> None:
        self._changes = changes
        self._gather = gather
        self._most = most
        self._each = each
        self._streams: defaultdict[str | None, set[EventStream]] = defaultdict(set)
        self._notified: dict[tuple[str, int], None] = {}
        self._missed = False
        self._resynced_at = float("-inf")
        self._database_away = False
        self._closed = False
        self._woken = asyncio.Event()

    def wake(self, generation_id: str, event: int = 0) -> None:
        """Note that this generation changed; `event` is the outbox's id, 0 where there is none."""
        if not self._streams:
            return
        if len(self._notified) >= MAX_NOTIFICATIONS:
            self._notified.clear()
            self._missed = True
        self._notified[generation_id, event] = None
        self._woken.set()

    def gap(self) -> None:
        """Note that notifications may have been missed."""
        if self._streams:
            self._missed = True
            self._woken.set()

    def join(self, caller: Caller) -> EventStream:
        """Open a stream for this caller, which gets every change from now on; Problem 429 or 503 beyond the limits."""
        if self._closed:
            raise unavailable("draining")
        if sum(map(len, self._streams.values())) >= self._most:
            raise unavailable("too many streams are open", seconds=10)
        if not caller.operator and len(self._streams.get(caller.user_id, ())) >= self._each:
            detail = f"one user may have {self._each} streams open"
            raise Problem(429, "too_many_streams", detail, headers={"Retry-After": "10"})
        stream = EventStream(caller.user_id, self._remove)
        self._streams[caller.user_id].add(stream)
        return stream

    def _remove(self, stream: EventStream) -> None:
        of_user = self._streams.get(stream.user_id, set())
        of_user.discard(stream)
        if not of_user:
            self._streams.pop(stream.user_id, None)

    async def greeting(self, caller: Caller, last: str | None) -> bytes:
        """Return the first frames of a stream: hello, and the changes since the event with the id `last`.

        The id of hello says where the next replay begins; it stays `last` while this replay is being sent. Raises
        Transient while the database is away.
        """
        if last is not None and last.isascii() and last.isdigit() and len(last) < 19:
            missed = await self._changes.since(int(last), caller.user_id)
            if missed is not None:
                return frame("hello", {}, id=int(last)) + b"".join(map(change_frame, missed))
        hello = frame("hello", {}, id=await self._changes.newest())
        return hello if last is None else hello + RESYNC

    async def run(self) -> None:
        """Send changes until cancelled."""
        while True:
            await self._woken.wait()
            await asyncio.sleep(await self._send_batch())

    def close(self) -> None:
        """End every stream with a goodbye, and accept no further one."""
        self._closed = True
        for stream in chain.from_iterable(self._streams.values()):
            stream.end()

    async def _send_batch(self) -> float:
        """Look up one batch of notifications and send it; return the seconds until the next batch."""
        self._woken.clear()
        self._resync_if_missed()
        batch = list(islice(self._notified, BATCH))
        for notification in batch:
            del self._notified[notification]
        wait = self._gather
        try:
            if batch and self._streams:
                self._distribute(await self._changes.of(batch))
            self._database_away = False
        except ReconcilerError as error:
            self._notified = dict.fromkeys([*batch, *self._notified])
            wait = RETRY_SECONDS
            if not self._database_away:
                log.warning("events.waiting", code=error.code, reason=str(error))
            self._database_away = True
        if self._notified or self._missed:
            self._woken.set()
        return wait

    def _resync_if_missed(self) -> None:
        """Tell every stream to fetch its list anew, where notifications were missed."""
        now = time.monotonic()
        if self._missed and now - self._resynced_at >= RESYNC_SECONDS:
            self._missed, self._resynced_at = False, now
            for stream in chain.from_iterable(self._streams.values()):
                stream.push(RESYNC)

    def _distribute(self, changes: list[GenerationChange]) -> None:
        frames: defaultdict[str | None, list[bytes]] = defaultdict(list)
        for change in changes:
            encoded = change_frame(change)
            # The operator (None) sees every row; a row without a user is visible to the operator alone.
            for user_id in {None, change.user_id}:
                if user_id in self._streams:
                    frames[user_id].append(encoded)
        for user_id, encoded_frames in frames.items():
            joined = b"".join(encoded_frames)
            for stream in self._streams[user_id]:
                stream.push(joined)
