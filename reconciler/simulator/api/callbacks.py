"""Sends callbacks: when each is due, its signature, its faults, and up to three retries.

It uses its own HTTP client, because it represents KIE's network and not the daemon's. `simulator.py` starts it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import heapq
import hmac
import itertools
import json
import math
import time

import aiohttp

from reconciler.simulator.api.callback_bodies import CALLBACK_STAGES, SINGLE_CALLBACK, callback_body, tampered
from reconciler.simulator.records.snapshots import take_snapshot
from reconciler.simulator.tasks import SimulatedTask
from reconciler.simulator.world import World

RETRIES = 3
EARLY = 0.8
"""The fraction of the life at which an early callback is sent."""


class CallbackSender:
    """Sends the callbacks of every task when they are due."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._order = itertools.count()
        self._due: list[tuple[float, int, SimulatedTask, str, float]] = []
        self._changed = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=world.callback_timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=aiohttp.TCPConnector(limit=64),
        )
        for task in world.tasks.values():
            self.expect(task)
        world.on_change(self.expect)
        self._scheduler = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop all callbacks, also pending retries."""
        for task in (self._scheduler, *self._sending):
            task.cancel()
        await asyncio.gather(self._scheduler, *self._sending, return_exceptions=True)
        await self._session.close()

    def expect(self, task: SimulatedTask) -> None:
        """Schedule the callbacks of a task; call it again if the end of the task changes."""
        if task.callback_url is None or task.ends == math.inf or not self._world.may_call(task.callback_url):
            return
        for stage, part in CALLBACK_STAGES.get(task.family, SINGLE_CALLBACK):
            if part == 1.0 and task.life.seconds and self._world.fault("early", task):
                part = EARLY  # noqa: PLW2901
            due = task.born + part * task.life.seconds
            heapq.heappush(self._due, (due, next(self._order), task, stage, task.ends))
        self._changed.set()

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            now = self._world.clock.now()
            while self._due and self._due[0][0] <= now:
                self._send(*heapq.heappop(self._due)[2:])
            wait = self._world.clock.real(self._due[0][0] - now) if self._due else None
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _send(self, task: SimulatedTask, stage: str, ends: float) -> None:
        if ends != task.ends or stage in task.called:
            return
        task.called.add(stage)
        fault = self._world.fault("callback", task)
        for copy in range(2 if fault == "twice" else 1):
            if fault != "lost":
                sending = asyncio.create_task(self._call(task, stage, fault), name=f"{task.id} {stage} {copy}")
                self._sending.add(sending)
                sending.add_done_callback(self._sending.discard)

    async def _call(self, task: SimulatedTask, stage: str, fault: str | None) -> None:
        if fault == "late" or (fault == "reordered" and stage != "complete"):
            await asyncio.sleep(self._world.late_seconds)
        gap = self._world.callback_gap
        for attempt in range(1 + RETRIES):
            if attempt:
                await asyncio.sleep(gap * 2 ** (attempt - 1))
            if await self._post(task, stage, fault):
                return

    async def _post(self, task: SimulatedTask, stage: str, fault: str | None) -> bool:
        """Send a callback once; return whether it was accepted."""
        state = task.life.end if stage == "complete" else "generating"
        body = self._body(task, state, stage)
        if fault == "two_ids":
            body["taskId"] = "0" * 32
        sent = tampered(body) if fault == "tampered" else json.dumps(body, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json", **self._signature(task, fault)}
        task.callbacks += 1
        self._world.counts.callbacks += 1
        try:
            async with self._session.post(str(task.callback_url), data=sent, headers=headers) as answer:
                task.call_answers.append(answer.status)
        except (aiohttp.ClientError, TimeoutError, ValueError):
            task.call_answers.append(0)
        accepted = task.call_answers[-1] == 200
        self._world.counts.acknowledged += accepted
        return accepted

    def _body(self, task: SimulatedTask, state: str, stage: str) -> dict[str, object]:
        if task.literal is not None and task.family == "market":
            answer = task.literal.current(self._world.clock.now())
            whole: dict[str, object] = json.loads(answer.body(task.id, self._world.addresses(task)))
            return whole
        return callback_body(take_snapshot(self._world, task, state), stage)

    def _signature(self, task: SimulatedTask, fault: str | None) -> dict[str, str]:
        key = self._world.hmac_key
        if not key or fault == "unsigned":
            return {}
        at = int(time.time()) - (3600 if fault == "stale" else 0)
        signed = sign("another key" if fault == "forged" else key, task.id, at)
        return {"X-Webhook-Timestamp": str(at), "X-Webhook-Signature": signed}


def sign(key: str, task_id: str, at: int) -> str:
    """Return KIE's signature, which covers the task's id and the time, not the body."""
    digest = hmac.new(key.encode(), f"{task_id}.{at}".encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()
