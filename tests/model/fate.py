"""What becomes of one step of an instance: every statement and every request of it is counted, and one may be struck.

A struck step dies there (before the effect, or after it, its answer unheard), loses just that connection, or stands
still until it is thawed. Effects are not listed anywhere: whatever an instance comes to say to its database, to KIE or
to storage passes through here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import aiohttp
import asyncpg
import pytest

from reconciler.postgres import pool


class Manner(StrEnum):
    """How a step is struck at its effect."""

    DIES = "it dies before it"
    DIES_UNHEARD = "it dies before it hears the answer"
    CUT = "the connection breaks before it"
    CUT_UNHEARD = "the connection breaks before the answer"
    FREEZES = "it stands still before it"


_DEADLY = (Manner.DIES, Manner.DIES_UNHEARD)
_FIRST = (Manner.DIES, Manner.CUT)


@dataclass
class Fate:
    """The fate of one step: at which effect it is struck (None: at none), and how.

    `struck` is set once it is dead or stands still; `thawed` lets it go on.
    """

    at: int | None = None
    manner: Manner = Manner.DIES
    said: list[str] = field(default_factory=list)
    dead: bool = False
    struck: asyncio.Event = field(default_factory=asyncio.Event)
    thawed: asyncio.Event = field(default_factory=asyncio.Event)

    async def meet(self, what: str, do: Callable[[], Awaitable[Any]], broken: Breaking) -> Any:
        """Do one effect unless the step is dead, or dies of it."""
        if self.dead:
            raise broken("this process is dead")
        place = len(self.said)
        self.said.append(what)
        if self.manner is Manner.FREEZES:
            await self._freeze(place, broken)
            return await do()
        if place != self.at:
            return await do()
        if self.manner not in _FIRST:
            await do()
        if self.manner in _DEADLY:
            self.dead = True
            self.struck.set()
        raise broken(f"struck: {self.manner}")

    async def _freeze(self, place: int, broken: Breaking) -> None:
        # Within a transaction it would hold the application's row locked, and everybody else would just wait.
        if self.at is not None and place >= self.at and not self.struck.is_set() and not broken.within:
            self.struck.set()
            await self.thawed.wait()
            if self.dead:
                raise broken("this process was killed while it stood still")


@dataclass(frozen=True)
class Breaking:
    """Breaks a connection and makes the error that its user sees; `within` a transaction it must not stand still."""

    error: Callable[[str], Exception]
    terminate: Callable[[], None] = lambda: None
    within: bool = False

    def __call__(self, why: str) -> Exception:
        self.terminate()
        return self.error(why)


FATE: ContextVar[Fate | None] = ContextVar("FATE", default=None)


class Fateful(pool.PlainConnection):
    """A connection; each statement meets the fate of the step that executes it."""

    async def _met(self, query: str, say: Callable[[], Awaitable[Any]]) -> Any:
        fate = FATE.get()
        if fate is None:
            return await say()
        broken = Breaking(asyncpg.ConnectionDoesNotExistError, self.terminate, self.is_in_transaction())
        return await fate.meet(" ".join(query.split())[:60], say, broken)

    async def fetch(self, query: str, *args: Any, **more: Any) -> Any:
        return await self._met(query, lambda: super(Fateful, self).fetch(query, *args, **more))

    async def fetchrow(self, query: str, *args: Any, **more: Any) -> Any:
        return await self._met(query, lambda: super(Fateful, self).fetchrow(query, *args, **more))

    async def fetchval(self, query: str, *args: Any, **more: Any) -> Any:
        return await self._met(query, lambda: super(Fateful, self).fetchval(query, *args, **more))

    async def execute(self, query: str, *args: Any, **more: Any) -> Any:
        return await self._met(query, lambda: super(Fateful, self).execute(query, *args, **more))


@contextmanager
def fateful() -> Iterator[None]:
    """Let every pool that is opened here, and every request that is sent, meet the fate of its step."""
    send = aiohttp.ClientSession._request

    async def request(session: aiohttp.ClientSession, method: str, url: Any, **more: Any) -> Any:
        fate = FATE.get()
        if fate is None:
            return await send(session, method, url, **more)
        broken = Breaking(aiohttp.ServerDisconnectedError)
        return await fate.meet(f"{method} {url}"[:60], lambda: send(session, method, url, **more), broken)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "PlainConnection", Fateful)
        patch.setattr(aiohttp.ClientSession, "_request", request)
        yield
