"""A database that goes away at a chosen statement: before it runs, or after it ran and its answer is lost.

Every statement of an instance counts, BEGIN and COMMIT included.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

from reconciler.postgres import pool


@dataclass
class Cut:
    """Where an instance loses its database; after that no statement of it gets through."""

    at: int | None = None
    answered: bool = False
    counting: bool = False
    said: list[str] = field(default_factory=list)
    dead: bool = False

    async def through(self, connection: asyncpg.Connection, sql: str, say: Callable[[], Awaitable[Any]]) -> Any:
        if self.dead:
            raise asyncpg.ConnectionDoesNotExistError("the database is gone for this instance")
        if not self.counting:
            return await say()
        self.said.append(" ".join(sql.split())[:60])
        self.dead = len(self.said) - 1 == self.at
        if self.dead and not self.answered:
            connection.terminate()
            raise asyncpg.ConnectionDoesNotExistError("the connection was closed before the statement")
        result = await say()
        if self.dead:
            connection.terminate()
            raise asyncpg.ConnectionDoesNotExistError("the connection was closed before the answer")
        return result


def through(cut: Cut, patch: pytest.MonkeyPatch) -> None:
    """Let every pool that is opened from now on go through this cut."""

    class Cuttable(pool.PlainConnection):
        async def fetch(self, query: str, *args: Any, **more: Any) -> Any:
            return await cut.through(self, query, lambda: super(Cuttable, self).fetch(query, *args, **more))

        async def fetchrow(self, query: str, *args: Any, **more: Any) -> Any:
            return await cut.through(self, query, lambda: super(Cuttable, self).fetchrow(query, *args, **more))

        async def fetchval(self, query: str, *args: Any, **more: Any) -> Any:
            return await cut.through(self, query, lambda: super(Cuttable, self).fetchval(query, *args, **more))

        async def execute(self, query: str, *args: Any, **more: Any) -> Any:
            return await cut.through(self, query, lambda: super(Cuttable, self).execute(query, *args, **more))

    patch.setattr(pool, "PlainConnection", Cuttable)
