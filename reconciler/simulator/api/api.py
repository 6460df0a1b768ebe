"""KIE's API over HTTP: records, download-url links, credit, and the routes to what creates and uploads.

One dictionary of routes, no framework. `simulator.py` passes it every request below /api.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from functools import partial
from urllib.parse import urlsplit

from aiohttp import web

from reconciler.simulator.api.creates import Creates
from reconciler.simulator.api.file_host import SIGNATURE
from reconciler.simulator.api.responses import Responses, compress, envelope, json_object
from reconciler.simulator.api.uploads import Uploads
from reconciler.simulator.faults import random_number
from reconciler.simulator.limiter import Limiter
from reconciler.simulator.records.dialects import DIALECTS, SimulatedDialect
from reconciler.simulator.records.snapshots import take_snapshot
from reconciler.simulator.tasks import NULL, UNKNOWN, SimulatedTask
from reconciler.simulator.world import World

Route = Callable[[web.BaseRequest, str], Awaitable[web.StreamResponse]]
CHANGED_ANSWERS = frozenset({"null", "unknown_state", "code_zero", "code_string", "bare_list"})
FAILURES = ("http_500", "html_502", "html_503", "html_520", "reset")
"""What a failing request gets."""


class Api:
    """The API host."""

    def __init__(self, world: World, responses: Responses) -> None:
        self._world = world
        self._responses = responses
        self._creates = Limiter(20, 10.0)
        self._records = Limiter(10, 1.0)
        self._numbers = itertools.count()
        creates, uploads = Creates(world, responses), Uploads(world, responses)
        self._routes: dict[tuple[str, str], Route] = {
            ("GET", "/api/v1/chat/credit"): self._credit,
            ("POST", "/api/v1/common/download-url"): self._link,
            ("POST", "/api/v1/gpt4o-image/download-url"): self._link,
            ("POST", "/api/v1/style/generate"): self._within_limit(creates.style),
            ("POST", "/api/file-base64-upload"): uploads.from_base64,
            ("POST", "/api/file-stream-upload"): uploads.from_form,
            ("POST", "/api/file-url-upload"): uploads.from_address,
            ("GET", "/api/v1/veo/get-1080p-video"): self._veo_1080p,
        }
        for family in DIALECTS.values():
            self._routes["GET", family.status] = partial(self._record, family)
            for path in family.creates:
                self._routes["POST", path] = self._within_limit(partial(creates.create, family))

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request below /api."""
        number = next(self._numbers)
        if (seconds := self._latency(number)) > 0:
            await self._responses.wait(seconds)
        if self._world.failing and random_number(self._world.seed, "failing", number) < self._world.failing:
            which = int(random_number(self._world.seed, "failure", number) * len(FAILURES))
            return await self._responses.spoil(request, FAILURES[which])
        route = self._routes.get((request.method, request.path))
        if route is None:
            return self._responses.refuse(request, 404, "Not Found", status=404)
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not key or (self._world.keys and key not in self._world.keys):
            self._world.counts.refused += 1
            return self._responses.refuse(request, 401)
        return await route(request, key)

    def _limited(self, limiter: Limiter, request: web.BaseRequest, key: str) -> web.Response | None:
        if not self._world.limits or limiter.allows(key, time.monotonic()):
            return None
        self._world.counts.limited += 1
        return self._responses.refuse(request, 429, status=429 if self._world.http_429 else 200)

    def _latency(self, number: int) -> float:
        latency = self._world.latency
        if isinstance(latency, (int, float)):
            return latency
        least, most = latency
        return least + (most - least) * random_number(self._world.seed, "latency", number)

    def _within_limit(self, route: Route) -> Route:
        """Return a route that answers only while the key may create tasks."""

        async def limited(request: web.BaseRequest, key: str) -> web.StreamResponse:
            return self._limited(self._creates, request, key) or await route(request, key)

        return limited

    async def _record(self, family: SimulatedDialect, request: web.BaseRequest, key: str) -> web.StreamResponse:
        if (limited := self._limited(self._records, request, key)) is not None:
            return limited
        self._world.counts.records += 1
        task_id = request.query.get("taskId")
        if not task_id:
            return self._responses.refuse(request, 400, "taskId parameter is required")
        task = self._world.tasks.get(task_id)
        if task is None or task.family != family.name or task.key not in {None, key}:
            return self._responses.refuse(request, *family.stranger)
        task.polls += 1
        task.polled_at.append(time.monotonic())
        state = "success" if task.literal else task.state(self._world.clock.now())
        return await self._answer_record(family, request, task, state)

    async def _answer_record(
        self, family: SimulatedDialect, request: web.BaseRequest, task: SimulatedTask, state: str
    ) -> web.StreamResponse:
        fault = self._world.fault("record", task)
        if fault is not None and fault not in CHANGED_ANSWERS:
            return await self._responses.spoil(request, fault, self._answer(family, task, state)[0])
        if state == UNKNOWN:
            return self._responses.refuse(request, *family.stranger)
        body, packed = self._answer(family, task, NULL if fault == "null" else state)
        if task.literal is not None:
            task.literal.count()
        if fault is not None:
            return self._responses.reply(request, _change_answer(body, fault))
        return self._responses.reply(request, body, packed=packed)

    def _answer(self, family: SimulatedDialect, task: SimulatedTask, state: str) -> tuple[bytes, bytes]:
        """Return the answer and its compressed form, built once for each state."""
        world = self._world
        if task.literal is not None and state != NULL:
            body = task.literal.current(world.clock.now()).body(task.id, world.addresses(task))
            return body, compress(body)
        fault = world.fault("result", task) if state == "success" else None
        form = (world.shown(task), [one.name for one in task.faults if one.stage == "place"]) if task.faults else None
        cache_key = (state, fault, world.blanks, world.extras, world.cost_in_ms, repr(form))
        if cache_key not in task.answers:
            record = None if state in {NULL, UNKNOWN} else family.record(take_snapshot(world, task, state, fault))
            body = envelope(200, "success", record)
            task.answers[cache_key] = (body, compress(body))
        return task.answers[cache_key]

    async def _veo_1080p(self, request: web.BaseRequest, key: str) -> web.StreamResponse:
        task = self._world.tasks.get(request.query.get("taskId", ""))
        if task is None or task.family != "veo" or task.key not in {None, key}:
            return self._responses.refuse(request, 422, "record is null")
        now = self._world.clock.now()
        if task.state(now) != "success" or now < task.ends + task.hd_after:
            return self._responses.refuse(request, 422, "1080P is processing. It should be ready in 1-2 minutes.")
        addresses = self._world.addresses(task)[-len(task.covers) :]
        index = request.query.get("index", "0")
        if not index.isdecimal() or int(index) >= len(addresses):
            return self._responses.refuse(request, 422, "record is null")
        return self._responses.accept(request, {"resultUrl": addresses[int(index)]})

    async def _credit(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        self._world.counts.credits += 1
        return self._responses.accept(request, self._world.credits)

    async def _link(self, request: web.BaseRequest, key: str) -> web.StreamResponse:
        body = (await json_object(request)).get("url")
        found = self._world.known(urlsplit(body).path) if isinstance(body, str) else None
        if found is None or not str(body).startswith(self._world.origin) or found.key not in {None, key}:
            return self._responses.refuse(request, 422, "url is wrong")
        if (fault := self._world.fault("link", found)) is not None:
            return await self._responses.spoil(request, fault)
        self._world.counts.links += 1
        seed = f"{self._world.seed}/{self._world.counts.links}/{body}".encode()
        signature = hashlib.blake2b(seed, digest_size=32).hexdigest()
        self._world.links[signature] = self._world.clock.now() + self._world.link_lasts
        lasts = round(self._world.link_lasts)
        query = f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires={lasts}&{SIGNATURE}={signature}"
        return self._responses.accept(request, f"{str(body).partition('?')[0]}?{query}")


def _change_answer(body: bytes, fault: str) -> bytes:
    """Return a good answer in an unusual form that careless clients misread."""
    answer = json.loads(body)
    match fault:
        case "code_zero":
            answer["code"] = 0
        case "code_string":
            answer["code"] = "200"
        case "unknown_state" if isinstance(answer["data"], dict):
            for name in {"state", "status", "successFlag"} & set(answer["data"]):
                answer["data"][name] = "paused" if name != "successFlag" else 7
        case "bare_list":
            answer = [answer]
    return json.dumps(answer).encode()
