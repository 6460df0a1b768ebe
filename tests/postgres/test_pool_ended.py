"""A connection that the server has ended, in the moment between its last message and its closing."""

from __future__ import annotations

import asyncio
import contextlib

import asyncpg
import pytest

from reconciler.errors import Transient
from reconciler.postgres.pool import Database
from testkit.standins.proxy import PIECE, Proxy
from testkit.waiting import until

FATAL = b"SFATAL"


class Lingering(Proxy):
    """Passes on the message that a session has ended, but closes the connection only on command."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.ended = asyncio.Event()
        self.hang_up = asyncio.Event()

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await source.read(PIECE):
                target.write(piece)
                await target.drain()
                if FATAL in piece:
                    self.ended.set()
                    await self.hang_up.wait()
        target.transport.abort()


async def test_a_session_that_was_just_ended_raises_transient(rows_dsn: str) -> None:
    async with Lingering(rows_dsn) as line:
        database = Database(line.dsn, size=1)
        try:
            pid = await database.value("SELECT pg_backend_pid()")
            administrator = await asyncpg.connect(rows_dsn)
            await administrator.execute("SELECT pg_terminate_backend($1)", pid)
            await administrator.close()
            await asyncio.wait_for(line.ended.wait(), 5)

            async def notified() -> bool:
                with pytest.raises(Transient) as away:
                    await database.value("SELECT 'something new', $1::int", 1)
                return away.value.code == "database_away"

            assert await notified()
            line.hang_up.set()

            async def again() -> bool:
                with contextlib.suppress(Transient):
                    return bool(await database.value("SELECT true"))
                return False

            await until(again, what="a new session")
        finally:
            line.hang_up.set()
            await database.close()
