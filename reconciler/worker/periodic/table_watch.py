"""Reads the application's table again when it may have changed, and has the rows tried again that it refused before.

The daemon runs it. A statement that no longer fits the table, or that the table refuses, sets an event
(`postgres/pool.py`); the shape itself is in `postgres/table_reader.py`.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from reconciler.errors import ReconcilerError
from reconciler.postgres.claims.claims import Claims
from reconciler.postgres.table_reader import TableReader

log = structlog.get_logger()

READ_SECONDS = 600.0
"""Seconds between two reads of a table about which there is no doubt."""

DOUBT_SECONDS = 5.0
"""The least seconds between two reads, and the time between two of a table that cannot be used or refuses a write."""

DOUBT_LASTS = 1200.0
"""Seconds after the last failed statement for which the table is read often; a row is tried again within that time."""

SETTLE_SECONDS = 1.0
"""Seconds from a read to the new try: most rows that the former table has just refused are at rest by then."""

RETRIES = 2
"""How often refused rows are tried again after a change; the second time is for those whose rest was written late."""


@dataclass(eq=False)
class TableWatch:
    """Watches the application's table for one instance.

    `doubted` is set by failed statements; `stir` has the worker claim due rows now.
    """

    reader: TableReader
    claims: Claims
    doubted: asyncio.Event
    stir: Callable[[], None]
    _read_at: float = field(default_factory=time.monotonic, init=False)
    _doubted_at: float | None = field(default=None, init=False)
    _retries: int = field(default=0, init=False)

    async def run(self) -> None:
        """Read the table whenever it is time to, until cancelled; a database that is away ends nothing."""
        while True:
            await self._until_due()
            try:
                await self._read()
            except ReconcilerError as error:
                log.warning("table.unread", code=error.code, reason=str(error))

    async def _until_due(self) -> None:
        """Wait for a doubt or the next regular read, and for DOUBT_SECONDS since the last one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._read_at + self._interval() - time.monotonic()):
                await self.doubted.wait()
        await asyncio.sleep(max(self._read_at + DOUBT_SECONDS - time.monotonic(), 0))

    def _interval(self) -> float:
        doubtful = self._doubted_at is not None and time.monotonic() - self._doubted_at < DOUBT_LASTS
        return DOUBT_SECONDS if doubtful or self._retries or self.reader.trouble is not None else READ_SECONDS

    async def _read(self) -> None:
        self._read_at = time.monotonic()
        if self.doubted.is_set():
            self.doubted.clear()
            self._doubted_at = self._read_at
        if await self.reader.read():
            self._doubted_at, self._retries = None, RETRIES
        if self._retries and self.reader.trouble is None:
            self.stir()
            await asyncio.sleep(SETTLE_SECONDS)
            await self.claims.retry_refused()
            self._retries -= 1
            self.stir()
