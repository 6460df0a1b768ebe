"""Which requests are let in while the daemon starts, works and drains, and which are waited for."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest
from structlog.testing import capture_logs

from reconciler.health import Health
from reconciler.http.problems import Problem
from reconciler.http.readiness_gate import ReadinessGate, RouteServices
from testkit.waiting import until


class Orders:
    """Orders to KIE that are drained at once."""

    def __init__(self) -> None:
        self.drained: list[float] = []

    async def drain(self, seconds: float) -> None:
        self.drained.append(seconds)


SERVICES = cast("RouteServices", SimpleNamespace(task_creator=Orders()))


def open_gate(reason: str | None = None) -> ReadinessGate:
    return ReadinessGate(Health(45.0, reason=reason), SERVICES)


@pytest.mark.parametrize(("reason", "services"), [("draining", SERVICES), ("starting", None), (None, None)])
async def test_no_request_is_let_in_unless_the_daemon_works(reason: str | None, services: RouteServices | None) -> None:
    gate = open_gate(reason)
    gate.services = services
    with pytest.raises(Problem) as raised:
        gate.enter()
    assert (raised.value.status, int(raised.value.headers["Retry-After"]) > 0) == (503, True)


class Request:
    """A request that stays inside until `may_end` is set."""

    def __init__(self, gate: ReadinessGate) -> None:
        self.inside = asyncio.Event()
        self.may_end = asyncio.Event()
        self.task = asyncio.create_task(self._stay(gate))

    async def _stay(self, gate: ReadinessGate) -> str:
        assert gate.enter() is SERVICES
        self.inside.set()
        await self.may_end.wait()
        return "done"


async def test_a_drain_waits_for_every_request_that_was_let_in() -> None:
    gate = open_gate()
    await asyncio.wait_for(gate.drain(60), 1)
    requests = [Request(gate) for _ in range(2)]
    for request in requests:
        await request.inside.wait()
    gate.health.reason = "draining"
    draining = asyncio.create_task(gate.drain(60))
    requests[0].may_end.set()
    await requests[0].task
    assert not draining.done()
    requests[1].may_end.set()
    await asyncio.wait_for(draining, 1)


async def test_a_drain_lets_orders_end_in_the_same_time() -> None:
    gate, orders = open_gate(), Orders()
    gate.services = cast("RouteServices", SimpleNamespace(task_creator=orders))
    await gate.drain(7)
    assert orders.drained == [7]


async def test_a_request_that_stays_too_long_is_cancelled_and_logged() -> None:
    gate = open_gate()
    request = Request(gate)
    await request.inside.wait()
    await asyncio.wait_for(gate.drain(0.05), 1)
    assert not request.task.done()
    with capture_logs() as lines:
        await asyncio.wait_for(gate.cut(), 2)
    assert request.task.cancelled()
    assert [(line["event"], line["count"]) for line in lines] == [("requests.cut", 1)]


async def test_a_request_that_ends_in_the_last_moment_is_not_cancelled() -> None:
    gate = open_gate()
    request = Request(gate)
    await request.inside.wait()
    cutting = asyncio.create_task(gate.cut())
    await until(lambda: not cutting.done())
    request.may_end.set()
    with capture_logs() as lines:
        await asyncio.wait_for(cutting, 2)
    assert (request.task.result(), lines) == ("done", [])
