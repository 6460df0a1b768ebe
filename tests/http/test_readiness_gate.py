"""Who is let in while the daemon starts, works and drains, and who is waited for."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from structlog.testing import capture_logs

from reconciler.health import Health
from reconciler.http.problems import Problem
from reconciler.http.readiness_gate import ReadinessGate, RouteServices
from testkit.waiting import until

PARTS = cast("RouteServices", object())


def entrance(reason: str | None = None) -> ReadinessGate:
    made = ReadinessGate(Health(45.0, reason=reason))
    made.inside = PARTS
    return made


@pytest.mark.parametrize(("reason", "parts"), [("draining", PARTS), ("starting", None), (None, None)])
async def test_nobody_comes_in_but_while_it_works(reason: str | None, parts: RouteServices | None) -> None:
    closed = entrance(reason)
    closed.inside = parts
    with pytest.raises(Problem) as raised:
        closed.go()
    assert (raised.value.status, int(raised.value.headers["Retry-After"]) > 0) == (503, True)


class Visitor:
    """Somebody who comes in and stays until told to go."""

    def __init__(self, at: ReadinessGate) -> None:
        self.within = asyncio.Event()
        self.go = asyncio.Event()
        self.task = asyncio.create_task(self._stay(at))

    async def _stay(self, at: ReadinessGate) -> str:
        assert at.go() is PARTS
        self.within.set()
        await self.go.wait()
        return "done"


async def test_whoever_came_in_is_waited_for() -> None:
    at = entrance()
    await asyncio.wait_for(at.emptied(60), 1)
    visitors = [Visitor(at) for _ in range(2)]
    for visitor in visitors:
        await visitor.within.wait()
    at.health.reason = "draining"
    emptied = asyncio.create_task(at.emptied(60))
    visitors[0].go.set()
    await visitors[0].task
    assert not emptied.done()
    visitors[1].go.set()
    await asyncio.wait_for(emptied, 1)


async def test_whoever_stays_too_long_is_put_out_and_told_of() -> None:
    at = entrance()
    visitor = Visitor(at)
    await visitor.within.wait()
    await asyncio.wait_for(at.emptied(0.05), 1)
    assert not visitor.task.done()
    with capture_logs() as lines:
        await asyncio.wait_for(at.cut(), 2)
    assert visitor.task.cancelled()
    assert [(line["event"], line["count"]) for line in lines] == [("requests.cut", 1)]


async def test_whoever_leaves_in_the_last_moment_is_not_put_out() -> None:
    at = entrance()
    visitor = Visitor(at)
    await visitor.within.wait()
    cutting = asyncio.create_task(at.cut())
    await until(lambda: not cutting.done())
    visitor.go.set()
    with capture_logs() as lines:
        await asyncio.wait_for(cutting, 2)
    assert (visitor.task.result(), lines) == ("done", [])
