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
from dataclasses import dataclass
from typing import Any

import asyncpg
import structlog

from reconciler.edges.db import SETTINGS, Database, translated
from reconciler.errors import ReconcilerError, Transient

CHANNEL = "reconciler_generations"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Hears:
    """Who is told what: a generation's id, that a gap in hearing has ended, and how the canary did (None = deaf)."""

    wake: Callable[[str], None]
    gap: Callable[[], None]
    canary: Callable[[float | None], None]


class Listener:
    """One LISTEN connection that is rebuilt until the task is cancelled; times in seconds."""

    def __init__(
        self,
        dsn: str,
        database: Database,
        hears: Hears,
        *,
        every: float = 10.0,
        within: float = 5.0,
    ) -> None:
        self._dsn = dsn
        self._database = database
        self._hears = hears
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
            self._hears.canary(None)
            await asyncio.sleep(pause)

    async def _listen(self) -> None:
        connection = await translated(
            lambda: asyncpg.connect(self._dsn, timeout=10, command_timeout=10, server_settings=SETTINGS)
        )
        self._lost.clear()
        connection.add_termination_listener(lambda _: self._lost.set())
        try:
            await translated(lambda: connection.add_listener(CHANNEL, self._notified))
            self._hears.gap()
            log.info("listener.connected")
            while await self._canary_returns():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._lost.wait(), self._every)
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
            await asyncio.wait_for(self._heard.wait(), self._within)
        except TimeoutError:
            log.warning("listener.deaf", within=self._within)
            return False
        self._hears.canary(time.monotonic() - sent)
        return True

    # A plain function: asyncpg makes coroutine listeners into tasks that nobody holds.
    def _notified(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        try:
            said = json.loads(payload)
            canary, generation_id = said.get("canary"), said.get("id")
        except (ValueError, AttributeError, RecursionError):
            log.warning("notification.malformed")
            return
        if canary is not None:
            if canary == self._canary:
                self._heard.set()
        elif generation_id is not None:
            self._hears.wake(str(generation_id))
