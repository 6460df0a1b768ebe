"""`GET /api/kie/sync`: reconciles a task now, through the same visit as everything else.

Nothing is decided here, and no visit is held here: `syncs.py` keeps those that are under way.
"""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Depends, Query, Response
from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from reconciler.domain.model import Unreachable
from reconciler.http.auth import Authenticator, Caller
from reconciler.http.problems import Problem, wait
from reconciler.http.readiness_gate import ReadinessGate, RouteServices
from reconciler.http.routes.generations import Model, assets
from reconciler.operations.actions import TaskState
from reconciler.operations.explain import ended
from reconciler.postgres.reports.generation_list import OF_ONE_TASK, ListedGeneration

_SYNCED: JsonDict = {
    "status": "success",
    "assetUrl": "https://project.supabase.co/storage/v1/object/public/generations/6f96/image/0b7d_0.png",
    "assetUrls": ["https://project.supabase.co/storage/v1/object/public/generations/6f96/image/0b7d_0.png"],
    "resultUrls": ["https://tempfile.aiquickdraw.com/r/281e.png"],
    "error": None,
}


class SyncAnswer(Model):
    """How the task's newest generation stands."""

    model_config = ConfigDict(json_schema_extra={"example": _SYNCED})

    status: str
    asset_url: str | None
    asset_urls: list[str]
    result_urls: list[str]
    error: str | None = Field(description="why it failed")


def routes(gate: Authenticator, entrance: ReadinessGate) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["kie"])

    @router.get(
        "/api/kie/sync",
        summary="Reconcile a task now",
        description=(
            "Asks KIE about the task, stores what is there and tells how its newest generation then stands. Where it "
            "has ended, that is told at once and without asking."
        ),
        response_model=SyncAnswer,
        responses={
            202: {"model": SyncAnswer, "description": "The same, while the work goes on."},
            404: {"description": "There is no such task, or it is somebody else's."},
            502: {"description": "`kie_unavailable`: KIE could not be asked. The daemon goes on trying."},
        },
    )
    async def sync(
        response: Response,
        caller: Caller = Depends(gate.caller),
        task_id: str = Query(alias="taskId", min_length=1, max_length=1000, description="KIE's id of the task"),
        wait: float = Query(25, ge=0, le=60, allow_inf_nan=False, description="seconds to wait for the work's end"),
    ) -> SyncAnswer:
        inside = entrance.go()
        ids = [row.id for row in await _owned(inside, caller, task_id)]
        visits = [inside.syncs.visit(generation_id, entrance.go) for generation_id in ids]
        if visits:
            await asyncio.wait(visits, timeout=wait)
            _check(visits[0])
        left = [generation_id for generation_id, visit in zip(ids, visits, strict=True) if not _over(visit)]
        goes_on = await _goes_on(inside, left)
        rows = await inside.listing.these(ids, caller.user_id)
        if not rows:
            raise Problem(404, "not_found", "there is no such task")
        if goes_on:
            response.status_code = 202
        return _synced(rows[0])

    return router


async def _owned(inside: RouteServices, caller: Caller, task_id: str) -> tuple[ListedGeneration, ...]:
    """Return the task's rows that the caller may see, the newest first."""
    if caller.user_id is not None:
        return await inside.listing.of_task(task_id, caller.user_id)
    found = await inside.reports.find_task(task_id)
    return (await inside.listing.these(found))[:OF_ONE_TASK]


def _over(visit: asyncio.Task[TaskState]) -> bool:
    """Whether nobody works on it any more: what a drain has cut, or another instance still holds, goes on elsewhere."""
    if not visit.done() or visit.cancelled():
        return False
    return visit.exception() is not None or (case := visit.result().case) is None or not case.held


async def _goes_on(inside: RouteServices, left: list[str]) -> bool:
    """Whether anything is still to come of these, whose visits are not over: what has ended needed none."""
    cases = await inside.reports.cases(left)
    return not all(ended(case, inside.desk.terms) for case in cases)


def _check(visit: asyncio.Task[TaskState]) -> None:
    """Raise what the visit raised, and Problem 502 where it could not hear KIE."""
    if not visit.done() or visit.cancelled():
        return
    seen = visit.result().seen
    if isinstance(seen, Unreachable):
        later = {} if seen.retry_after is None else wait(seen.retry_after)
        raise Problem(502, "kie_unavailable", f"KIE could not be asked: {seen.reason}", headers=later)


def _synced(row: ListedGeneration) -> SyncAnswer:
    return SyncAnswer(
        status=row.status,
        asset_url=row.asset_url,
        asset_urls=assets(row),
        result_urls=list(row.result_urls),
        error=row.error,
    )
