"""Hears NOTIFY on a connection of its own, and knows when it has gone deaf.

Half-open sockets and transaction poolers stay silent for days without an error. So every ten seconds a canary is sent
from a pooled connection and must come back here within five; otherwise the connection is built anew, and the caller
sweeps, since whatever was announced meanwhile is lost. A hint lost costs seconds, never a generation.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import asyncpg
import structlog

from reconciler.errors import ReconcilerError, Transient
from reconciler.postgres.connection import SETTINGS, reached
from reconciler.postgres.pool import Database, translated

CHANNEL = "reconciler_generations"
EVENTS = "reconciler_events"

_LARGEST = 1 << 63
"""One above what the outbox's ids, a bigint, can be."""

log = structlog.get_logger()


class Listener:
    """One LISTEN connection that is rebuilt until the task is cancelled; times in seconds.

    `on_generation` gets the id of a generation. `on_connected` is called whenever listening starts: what was announced
    before is lost. `on_canary` gets the seconds until a canary came back, None when it did not. `on_event` gets the ids
    of a generation and of an event in the outbox; without it that channel is not listened to.
    """

    def __init__(
        self,
        dsn: str,
        database: Database,
        *,
        on_generation: Callable[[str], None],
        on_connected: Callable[[], None],
        on_canary: Callable[[float | None], None],
        on_event: Callable[[str, int], None] | None = None,
        every: float = 10.0,
        within: float = 5.0,
    ) -> None:
        self._dsn = dsn
        self._database = database
        self._on_generation = on_generation
        self._on_connected = on_connected
        self._on_canary = on_canary
        self._on_event = on_event
        self._every = every
        self._within = within
        self._canary: str = ""
        self._heard = asyncio.Event()
        self._lost = asyncio.Event()

    async def run(self) -> None:
        """Listen until cancelled."""
        pause = 0.5
        while True:
            try:
                await self._listen()
                pause = 0.5
            except ReconcilerError as error:
                log.warning("listener.lost", code=error.code, reason=str(error))
                pause = min(pause * 2, 10.0)
            self._on_canary(None)
            await asyncio.sleep(pause)

    async def _listen(self) -> None:
        async def connect() -> asyncpg.Connection:
            return await asyncpg.connect(self._dsn, timeout=10, command_timeout=10, server_settings=SETTINGS)

        connection = await translated(lambda: reached(self._dsn, connect))
        self._lost.clear()
        connection.add_termination_listener(lambda _: self._lost.set())
        try:
            await translated(lambda: connection.add_listener(CHANNEL, self._notified))
            if self._on_event is not None:
                await translated(lambda: connection.add_listener(EVENTS, self._happened))
            self._on_connected()
            log.info("listener.connected")
            while await self._canary_returns():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._every):
                        await self._lost.wait()
                    raise Transient("the listening connection was closed", code="database_away")
        finally:
            connection.terminate()

    async def _canary_returns(self) -> bool:
        """Send a canary through the pool; whether it came back, and tell how long it took."""
        self._canary = uuid.uuid4().hex
        self._heard.clear()
        sent = time.monotonic()
        await self._database.execute("SELECT pg_notify($1, $2)", CHANNEL, json.dumps({"canary": self._canary}))
        try:
            async with asyncio.timeout(self._within):
                await self._heard.wait()
        except TimeoutError:
            log.warning("listener.deaf", within=self._within)
            return False
        self._on_canary(time.monotonic() - sent)
        return True

    # Plain functions: asyncpg makes coroutine listeners into tasks that nobody holds.
    def _notified(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        said = _read(payload)
        if "canary" in said:
            if said["canary"] == self._canary:
                self._heard.set()
        elif "id" in said:
            self._on_generation(str(said["id"]))

    def _happened(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        said = _read(payload)
        event = said.get("event")
        if self._on_event is not None and "id" in said and type(event) is int and 0 < event < _LARGEST:
            self._on_event(str(said["id"]), event)


def _read(payload: str) -> dict[str, Any]:
    """Read what anybody may have sent; empty where it cannot be read. What is null is not there."""
    try:
        said = json.loads(payload)
        return {name: value for name, value in said.items() if value is not None}
    except (ValueError, AttributeError, RecursionError):
        log.warning("notification.malformed")
        return {}
