"""The requests that create tasks: checked, planned, and answered as KIE does, with their faults.

`api.py` routes them here. A prompt may name faults for its own task, as in `a cat simulate:late.hole@75`: a client in
another process orders them in this way.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from types import MappingProxyType

from aiohttp import web

from reconciler.simulator.api.requirements import (
    PARENTS,
    UNPUBLISHED,
    UNSUPPORTED,
    Refusal,
    check_loosely,
    check_strictly,
)
from reconciler.simulator.api.responses import RATE_LIMIT_MESSAGE, Responses, json_object
from reconciler.simulator.faults import Fault, next_fault, read_faults
from reconciler.simulator.records.dialects import SimulatedDialect
from reconciler.simulator.task_plans import draw_task
from reconciler.simulator.tasks import TaskSpec
from reconciler.simulator.world import World

VEO_4K = "/api/v1/veo/get-4k-video"
PRICE = 4.25
_MARKER = re.compile(r"simulate:([\w.*@,]+)")
_MESSAGES = MappingProxyType(
    {
        401: "The current IP is not in the whitelist",
        402: "Credits insufficient",
        422: "This field is required",
        429: "Rate limit exceeded",
        430: RATE_LIMIT_MESSAGE,
        433: "The sub-key usage exceeds the limit",
        451: "Failed to fetch the image. Kindly verify any access limits set by you or your service provider.",
        455: "The service is currently undergoing maintenance. Please try again later.",
        500: "The input image is too large",
        505: "This feature is disabled",
    }
)


class Creates:
    """Creates tasks from requests."""

    def __init__(self, world: World, responses: Responses) -> None:
        self._world = world
        self._responses = responses

    async def create(self, family: SimulatedDialect, request: web.BaseRequest, key: str) -> web.StreamResponse:
        """Answer a request that creates a task."""
        try:
            body = await json_object(request)
            faults = _named_faults(family, body)
        except web.HTTPRequestEntityTooLarge:
            return self._responses.refuse(request, 500, _MESSAGES[500])
        except ValueError as error:
            return self._responses.refuse(request, 422, str(error))
        if (refusal := self._refusal(family, request.path, body, key)) is not None:
            return self._responses.refuse(request, *refusal)
        fault = next_fault(faults, "create") or self._world.fault("create")
        if fault is not None and (answer := await self._refused_by(request, fault)) is not None:
            return answer
        order = self._order(family, request.path, body, key)
        order["faults"] = [*order.get("faults", ()), *faults]
        task_id = self._world.add_task(**order)
        self._world.counts.creates += 1
        self._world.credits = round(self._world.credits - PRICE, 2)
        if fault == "lost":
            return await self._responses.spoil(request, "reset")
        return self._accept(family, request, task_id, fault)

    async def style(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answer a request that improves the words of a style: no task, the answer stands in the response."""
        body = await json_object(request)
        content = body.get("content")
        if not isinstance(content, str) or not content:
            return self._responses.refuse(request, 422, "content is required")
        fault = self._world.fault("create")
        if fault is not None and (answer := await self._refused_by(request, fault)) is not None:
            return answer
        self._world.credits = round(self._world.credits - 0.4, 2)
        if fault == "lost":
            return await self._responses.spoil(request, "reset")
        record = {
            "taskId": hashlib.blake2b(f"{self._world.credits}/{content}".encode(), digest_size=16).hexdigest(),
            "param": content,
            "result": f"{content}, slow and warm, with brushed drums, a soft bass and close voices",
            "creditsConsumed": 0.4,
            "creditsRemaining": self._world.credits,
            "successFlag": "成功",
            "errorCode": None,
            "errorMsg": None,
            "createTime": int(time.time() * 1000),
        }
        return self._responses.accept(request, record)

    def _refusal(
        self, family: SimulatedDialect, path: str, body: Mapping[str, object], key: str
    ) -> Refusal | tuple[int, str] | None:
        strict = self._world.strict
        refusal = check_strictly(path, family, body) if strict else check_loosely(family, body)
        if refusal is None and (family.grows or (strict and path in PARENTS)):
            parent = self._world.tasks.get(str(body.get("taskId")))
            if parent is None or parent.key not in {None, key} or (strict and parent.family != PARENTS[path]):
                return (422, "Record does not exist") if family.grows else family.stranger
        return refusal

    async def _refused_by(self, request: web.BaseRequest, fault: str) -> web.StreamResponse | None:
        """Return the answer that a fault puts in the place of a task, None if the task is created all the same."""
        match fault:
            case "lost" | "record_id" | "task_id" | "code_zero" | "code_string":
                return None
            case "unpublished":
                return self._responses.refuse(request, 422, UNPUBLISHED)
            case "unsupported":
                return self._responses.refuse(request, 422, UNSUPPORTED)
            case _ if fault.startswith("body_"):
                code = int(fault.removeprefix("body_"))
                return self._responses.refuse(request, code, _MESSAGES[code], status=200)
            case _:
                return await self._responses.spoil(request, fault)

    def _order(self, family: SimulatedDialect, path: str, body: Mapping[str, object], key: str) -> TaskSpec:
        model = str(body.get("model") or family.model)
        world = self._world
        given = body.get("input") if family.name == "market" else body
        request = given if isinstance(given, dict) else {}
        if world.orders:
            order = world.orders.popleft()
        elif model in world.usual:
            order = world.usual[model]
        else:
            draw_from = (world.seed, len(world.tasks))
            order = draw_task(family.name, model, request, draw_from, world.media_size)
        callback = body.get("callBackUrl") or body.get("calBackUrl")
        request_spec: TaskSpec = {
            "family": family.name,
            "model": model,
            "key": key,
            "request": request,
            "callback_url": callback if isinstance(callback, str) else None,
        }
        if path == VEO_4K:
            request_spec["variant"] = "4k"
        return {**request_spec, **order}

    def _accept(
        self, family: SimulatedDialect, request: web.BaseRequest, task_id: str, fault: str | None
    ) -> web.StreamResponse:
        record: dict[str, object] = {"taskId": task_id}
        if family.name == "market":
            record["recordId"] = task_id
        if request.path == VEO_4K:
            record |= {"resultUrls": None, "imageUrls": None}
        if fault in {"record_id", "task_id"}:
            record = {"recordId" if fault == "record_id" else "task_id": task_id}
        code = {"code_zero": 0, "code_string": "200"}.get(fault or "", 200)
        answer = {"code": code, "msg": "success", "data": record}
        return self._responses.reply(request, json.dumps(answer, separators=(",", ":")).encode())


def _named_faults(family: SimulatedDialect, body: Mapping[str, object]) -> list[Fault]:
    """Return the faults that the prompt of a request names, each once; raise ValueError for one that does not exist."""
    inputs = body.get("input") if family.name == "market" else body
    prompts = [inputs.get(field) for field in ("prompt", "text")] if isinstance(inputs, dict) else []
    found = (_MARKER.search(prompt) for prompt in prompts if isinstance(prompt, str))
    return [fault for match in found if match for fault in read_faults(match[1], times=1)]
