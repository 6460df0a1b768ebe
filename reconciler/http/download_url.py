"""Fresh addresses from KIE, a few at a time: whoever asks for many must not take the requests that polling needs.

Who may have which is the door's affair (`links.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from weakref import WeakValueDictionary

from reconciler.domain.object_keys import display_url
from reconciler.errors import Gone, Permanent, Transient
from reconciler.http.auth import Caller
from reconciler.http.problems import Problem, wait
from reconciler.kie.client import KieClient
from reconciler.metrics import Metrics
from reconciler.postgres.rate_limit import RateLimit
from reconciler.worker.route import RingKey

AT_ONCE = 4
"""Addresses that this process asks KIE for at once."""

EACH = 2
"""How many of them may be one caller's."""

TURN = 3.0
"""Seconds for which a caller is let wait for a place, and again for a request of the key's rate."""

PATIENCE = 12.0
"""Seconds for which somebody who clicked is let wait for KIE."""


class LinkRefresher:
    """Asks KIE for fresh addresses, within the rate that polls have and within bounds of its own."""

    def __init__(self, kie: KieClient, budget: RateLimit, keys: Sequence[RingKey], metrics: Metrics) -> None:
        self._kie = kie
        self._budget = budget
        self._ring = tuple(key.key_hash for key in keys)
        self._metrics = metrics
        self._places = asyncio.Semaphore(AT_ONCE)
        self._theirs: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def address(self, url: str, caller: Caller, *, key_hash: str | None) -> str:
        """Return a fresh address, minted with the key that made the task, else with the first that knows the address.

        Raises Problem: 429 where too many are asked for, 410, 422 or 502 by what KIE says.
        """
        ring = [key_hash] if key_hash is not None and key_hash in self._ring else self._ring
        async with self._place(caller):
            try:
                async with asyncio.timeout(PATIENCE):
                    return await self._minted(url, ring)
            except TimeoutError:
                raise Problem(502, "kie_unavailable", "KIE does not answer in time") from None

    @asynccontextmanager
    async def _place(self, caller: Caller) -> AsyncIterator[None]:
        """Hold one of the caller's own places, then one of all; Problem 429 where none gets free in time."""
        # Kept by those who wait for it or hold it, and by nobody after them.
        theirs = self._theirs.setdefault(caller.user_id or "", asyncio.Semaphore(EACH))
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(TURN):
                    await held.enter_async_context(theirs)
                    await held.enter_async_context(self._places)
            except TimeoutError:
                raise _busy() from None
            yield

    async def _minted(self, url: str, ring: Sequence[str]) -> str:
        refused: list[Transient | Permanent] = []
        for key_hash in ring:
            if not await self._budget.take_soon(key_hash, TURN):
                raise _busy()
            try:
                with self._metrics.asking("download_url"):
                    return _checked(await self._kie.download_url(url, key_hash=key_hash))
            except (Transient, Permanent) as error:
                refused.append(error)
        raise _told(refused)


def not_kies() -> Problem:
    """Return the answer for an address that KIE mints nothing for."""
    return Problem(422, "not_kies", "the address is not one of KIE's")


def _busy() -> Problem:
    return Problem(429, "too_many_links", "too many addresses are being asked for at once", headers=wait(TURN))


def _checked(minted: str) -> str:
    if display_url(minted, None, None) is None:
        raise Transient("KIE's download-url answer holds no address", code="kie_no_address")
    return minted


def _told(refused: Sequence[Transient | Permanent]) -> Problem:
    """Return the most telling of the refusals: a key that does not know an address says nothing of it."""
    if any(isinstance(error, Gone) for error in refused):
        return Problem(410, "gone", "KIE does not have it any more")
    unheard = [error for error in refused if isinstance(error, Transient) or error.code == "key_rejected"]
    if unheard:
        return Problem(502, "kie_unavailable", f"KIE could not be asked: {unheard[0].code}")
    return not_kies()
