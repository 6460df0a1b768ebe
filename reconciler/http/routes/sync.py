"""`GET /api/kie/sync`: reconciles one task now, through the same visit as every other trigger.

`operations/single_flight.py` runs the visits: several requests for one generation share one visit. What the requests of
one end user may cost is in `operations/user_syncs.py`.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends, Query, Response
from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from reconciler.domain.observations import Unreachable
from reconciler.http.auth import Authenticator, Caller
from reconciler.http.problems import RETRY, Problem, wait
from reconciler.http.readiness_gate import ReadinessGate, RouteServices
from reconciler.http.routes.generations import ApiModel, item
from reconciler.operations.explain import ended
from reconciler.operations.operator import TaskState
from reconciler.operations.user_syncs import TooManySyncs, UserSyncs
from reconciler.postgres.reports.generation_list import OF_ONE_TASK, ListedGeneration

LEAST_TURN_WAIT = 1.0
"""Seconds for which a user's sync waits for its turn even where it would not wait for the work."""

_EXAMPLE: JsonDict = {
    "status": "success",
    "assetUrl": "https://project.supabase.co/storage/v1/object/public/generations/6f96/image/0b7d_0.png",
    "assetUrls": ["https://project.supabase.co/storage/v1/object/public/generations/6f96/image/0b7d_0.png"],
    "resultUrls": ["https://tempfile.aiquickdraw.com/r/281e.png"],
    "error": None,
}


class SyncAnswer(ApiModel):
    """The state of the task's newest generation."""

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE})

    status: str
    asset_url: str | None
    asset_urls: list[str]
    result_urls: list[str]
    error: str | None = Field(description="why it failed")


def routes(authenticator: Authenticator, readiness_gate: ReadinessGate) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["kie"])
    user_syncs = UserSyncs()

    @router.get(
        "/api/kie/sync",
        summary="Reconcile a task now",
        description=(
            "Asks KIE about the task, stores its results and returns the state of its newest generation. Where the "
            "generation has ended, the answer comes at once, without a request to KIE. Two syncs of an end user are "
            "answered at once, the others wait for their turn. Where a user's sync may not ask KIE now, because the "
            "row was visited in the last five seconds or the user has asked often, it answers what is known."
        ),
        response_model=SyncAnswer,
        responses={
            202: {"model": SyncAnswer, "description": "The same, while the work continues."},
            404: {"description": "There is no such task, or it belongs to another user."},
            429: {"description": "`too_many_syncs`: too many syncs of this user wait.", "headers": RETRY},
            502: {"description": "`kie_unavailable`: KIE could not be asked. The daemon keeps trying."},
        },
    )
    async def sync(
        response: Response,
        caller: Caller = Depends(authenticator.caller),
        task_id: str = Query(alias="taskId", min_length=1, max_length=1000, description="KIE's id of the task"),
        wait: float = Query(
            25, ge=0, le=60, allow_inf_nan=False, description="seconds to wait for the end of the work"
        ),
    ) -> SyncAnswer:
        services = readiness_gate.enter()

        def visit(generation_id: str) -> asyncio.Task[TaskState] | None:
            if caller.user_id is None:
                return services.single_flight.visit(generation_id, readiness_gate.enter)
            return user_syncs.visit(caller.user_id, generation_id, services.single_flight, readiness_gate.enter)

        deadline = time.monotonic() + wait
        async with _turn(user_syncs, caller, wait) as turn:
            ids = [row.id for row in await _visible_rows(services, caller, task_id)]
            visits = [visit(generation_id) if turn else None for generation_id in ids]
            if await _continue(services, ids, visits, deadline):
                response.status_code = 202
            rows = await services.generation_list.these(ids, caller.user_id)
        if not rows:
            raise Problem(404, "not_found", "there is no such task")
        return SyncAnswer.model_validate(item(rows[0]))

    return router


@asynccontextmanager
async def _turn(user_syncs: UserSyncs, caller: Caller, seconds: float) -> AsyncIterator[bool]:
    """Yield whether the caller got a turn; the operator always has one. Raises Problem 429 where too many wait."""
    if caller.user_id is None:
        yield True
        return
    try:
        async with user_syncs.turn(caller.user_id, max(seconds, LEAST_TURN_WAIT)) as turn:
            yield turn
    except TooManySyncs:
        raise Problem(429, "too_many_syncs", "too many of your syncs wait already", headers=wait(5)) from None


async def _visible_rows(services: RouteServices, caller: Caller, task_id: str) -> tuple[ListedGeneration, ...]:
    """Return the task's rows that the caller may see, the newest first."""
    if caller.user_id is not None:
        return await services.generation_list.of_task(task_id, caller.user_id)
    ids = await services.reports.find_task(task_id)
    return (await services.generation_list.these(ids))[:OF_ONE_TASK]


def _over(visit: asyncio.Task[TaskState] | None) -> bool:
    """Whether the visit is over; where none may begin, was cancelled, or another holds the row, the work continues."""
    if visit is None or not visit.done() or visit.cancelled():
        return False
    return visit.exception() is not None or (case := visit.result().details) is None or not case.held


async def _continue(
    services: RouteServices, ids: list[str], visits: list[asyncio.Task[TaskState] | None], deadline: float
) -> bool:
    """Wait for these visits until the deadline; return whether work on any of the generations continues.

    A visit that is not over may belong to a row that has ended. Raises Problem 502 where KIE could not be asked about
    the first.
    """
    if begun := [visit for visit in visits if visit is not None]:
        await asyncio.wait(begun, timeout=max(deadline - time.monotonic(), 0))
        _raise_error(visits[0])
    unfinished = [generation_id for generation_id, visit in zip(ids, visits, strict=True) if not _over(visit)]
    cases = await services.reports.details_of(unfinished)
    return not all(ended(case, services.operator.settings) for case in cases)


def _raise_error(visit: asyncio.Task[TaskState] | None) -> None:
    """Raise the visit's exception, and Problem 502 where KIE could not be asked."""
    if visit is None or not visit.done() or visit.cancelled():
        return
    observation = visit.result().observation
    if isinstance(observation, Unreachable):
        headers = {} if observation.retry_after is None else wait(observation.retry_after)
        raise Problem(502, "kie_unavailable", f"KIE could not be asked: {observation.reason}", headers=headers)
