"""Receives NOTIFY on a connection of its own, and notices when it has gone deaf.

Half-open sockets and transaction poolers stay silent for days without an error. So every ten seconds a canary is sent
from a pooled connection and must come back here within five. Otherwise the connection is rebuilt and the caller sweeps,
because every notification meanwhile is lost. A lost hint costs seconds, never a generation.
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import asyncpg
import structlog

from reconciler.errors import ReconcilerError, Transient
from reconciler.postgres.connection import SETTINGS, QualifiedConnection, pin, reached
from reconciler.postgres.errors import translated
from reconciler.postgres.pool import Database
from reconciler.postgres.refusals import Peer

CHANNEL = "reconciler_generations"
EVENTS = "reconciler_events"

_ABOVE_LARGEST = 1 << 63
"""One more than the largest id of the outbox, a bigint."""

log = structlog.get_logger()


@dataclass(eq=False, repr=False)
class Listener:
    """One LISTEN connection that is rebuilt until the task is cancelled; times in seconds.

    `on_generation` gets the id of a generation. `on_connected` is called whenever listening starts: what was announced
    before is lost. `on_canary` gets the seconds until a canary came back, None when it did not. `on_event` gets the ids
    of a generation and of an event in the outbox; without it that channel is not listened to.
    """

    dsn: str
    database: Database
    _: KW_ONLY
    on_generation: Callable[[str], None]
    on_connected: Callable[[], None]
    on_canary: Callable[[float | None], None]
    on_event: Callable[[str, int], None] | None = None
    every: float = 10.0
    within: float = 5.0
    _canary: str = field(default="", init=False)
    _canary_back: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _lost: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def run(self) -> None:
        """Listen until cancelled."""
        pause = 0.5
        while True:
            try:
                await self._listen()
                pause = 0.5
            except ReconcilerError as error:
                log.warning("listener.lost", code=error.code, reason=str(error), do=error.hint)
                pause = min(pause * 2, 10.0)
            self.on_canary(None)
            await asyncio.sleep(pause)

    async def _listen(self) -> None:
        async def connect() -> asyncpg.Connection:
            return await asyncpg.connect(
                self.dsn,
                timeout=10,
                command_timeout=10,
                server_settings=SETTINGS,
                connection_class=QualifiedConnection,
            )

        connection = await translated(lambda: reached(self.dsn, connect), Peer.of(self.dsn))
        self._lost.clear()
        connection.add_termination_listener(lambda _: self._lost.set())
        try:
            await translated(lambda: pin(connection))
            await translated(lambda: connection.add_listener(CHANNEL, self._notification))
            if self.on_event is not None:
                await translated(lambda: connection.add_listener(EVENTS, self._event))
            self.on_connected()
            log.info("listener.connected")
            while await self._canary_returns():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.every):
                        await self._lost.wait()
                    raise Transient("the listening connection was closed", code="database_away")
        finally:
            connection.terminate()

    async def _canary_returns(self) -> bool:
        """Send a canary through the pool and report its seconds; return whether it came back."""
        self._canary = uuid.uuid4().hex
        self._canary_back.clear()
        sent = time.monotonic()
        await self.database.execute("SELECT pg_notify($1, $2)", CHANNEL, json.dumps({"canary": self._canary}))
        try:
            async with asyncio.timeout(self.within):
                await self._canary_back.wait()
        except TimeoutError:
            log.warning("listener.deaf", within=self.within)
            return False
        self.on_canary(time.monotonic() - sent)
        return True

    # Plain functions: asyncpg would run coroutine listeners as tasks without a reference, which may vanish.
    def _notification(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        fields = _read(payload)
        if "canary" in fields:
            if fields["canary"] == self._canary:
                self._canary_back.set()
        elif "id" in fields:
            self.on_generation(str(fields["id"]))

    def _event(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        fields = _read(payload)
        event = fields.get("event")
        if self.on_event is not None and "id" in fields and type(event) is int and 0 < event < _ABOVE_LARGEST:
            self.on_event(str(fields["id"]), event)


def _read(payload: str) -> dict[str, Any]:
    """Return the fields of a payload that anybody may have sent, without nulls; empty where it cannot be read."""
    try:
        return {name: value for name, value in json.loads(payload).items() if value is not None}
    except (ValueError, AttributeError, RecursionError):
        log.warning("notification.malformed")
        return {}
