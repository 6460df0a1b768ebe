"""`GET /api/generations` and `GET /api/generations/{id}`: the caller's generations, with status and results.

The query itself filters by user, so that another user's row looks like a missing one.
`postgres/reports/generation_list.py` reads the rows; this module turns them into the API's fields.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Literal

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

from reconciler.domain.model import OPEN, SUCCEEDED
from reconciler.domain.object_keys import display_url
from reconciler.domain.poll_interval import median_seconds, progress
from reconciler.errors import Permanent
from reconciler.http.auth import Authenticator, Caller
from reconciler.http.problems import Problem
from reconciler.http.readiness_gate import ReadinessGate
from reconciler.operations.explain import explain
from reconciler.postgres.reports.generation_list import ListedGeneration
from reconciler.postgres.reports.generation_list import cursor as cursor_of

GROUPS = {"working": OPEN, "ready": SUCCEEDED}
"""Values of `status` that stand for several of the application's words."""

MAX_LIMIT = 100

LONGEST_PAGE = 4 << 20
"""Bytes after which a page of a list ends."""

DisplaySource = Literal["asset", "result", "preview"]

_ITEM: JsonDict = {
    "id": "0b7d3c1e-5a42-4f0e-9f5d-3a8f5a0c9e11",
    "userId": "6f9619ff-8b86-4d01-b42d-00cf4fc964ff",
    "taskId": "281e5b0a7c9d4f6e8b1a2c3d4e5f6071",
    "status": "success",
    "kind": "image",
    "model": "nano-banana-2",
    "prompt": "a heron in the morning",
    "error": None,
    "assetUrl": "https://project.supabase.co/storage/v1/object/public/generations/6f96/image/0b7d_0.png",
    "assetUrls": ["https://project.supabase.co/storage/v1/object/public/generations/6f96/image/0b7d_0.png"],
    "resultUrls": ["https://tempfile.aiquickdraw.com/r/281e.png"],
    "previewUrl": None,
    "displayUrl": "https://project.supabase.co/storage/v1/object/public/generations/6f96/image/0b7d_0.png",
    "displaySource": "asset",
    "createdAt": "2026-03-01T12:00:00Z",
    "startedAt": "2026-03-01T12:00:00Z",
    "completedAt": "2026-03-01T12:00:31Z",
    "expectedSeconds": 28.4,
    "progress": None,
}


class ApiModel(BaseModel):
    """A body of the API, with its names in camelCase."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class GenerationItem(ApiModel):
    """One generation."""

    model_config = ConfigDict(json_schema_extra={"example": _ITEM})

    id: str
    user_id: str | None
    task_id: str | None = Field(description="KIE's id of the task, null until it is known")
    status: str = Field(description="queued, generating, success, failed, or another word of the application")
    kind: str | None
    model: str | None
    prompt: str | None
    error: str | None = Field(description="why it failed")
    asset_url: str | None = Field(description="the first result in our storage; it does not expire")
    asset_urls: list[str] = Field(description="every result in our storage")
    result_urls: list[str] = Field(description="the results at the provider; they expire after some days")
    preview_url: str | None
    display_url: str | None = Field(description="what to show: the asset, else the first result, else the preview")
    display_source: DisplaySource | None
    created_at: datetime
    started_at: datetime = Field(description="when it got its present task; `expectedSeconds` count from here")
    completed_at: datetime | None
    expected_seconds: float = Field(description="half of such generations are done after this time")
    progress: float | None = Field(description="0 to 0.95 by its age while it is in flight, else null", ge=0, le=0.95)


class ListedItem(GenerationItem):
    """One generation of a list."""

    why: str | None = Field(None, description="for the operator, with `stuck`: why the last attempt did not finish")


class GenerationPage(ApiModel):
    """A page of generations."""

    generations: list[ListedItem]
    next_cursor: str | None = Field(description="the `cursor` of the next page; null on the last page", examples=[None])
    server_time: datetime
    operator: bool = Field(description="whether the operator asked: then the rows of all users are here")


class AnnouncedResults(ApiModel):
    """The results of the present task."""

    announced: int = Field(description="how many results KIE has announced", examples=[2])
    stored: int = Field(description="how many of them are in our storage", examples=[1])
    missing: list[str] = Field(
        description="those that KIE has not given yet: KIE's id of each, or `#` and its position in the list, from 0",
        examples=[["#1"]],
    )


class GenerationDetail(GenerationItem):
    """One generation by its id, with the explanation for the operator."""

    server_time: datetime
    results: AnnouncedResults | None = Field(None, description="null until KIE has announced results")
    story: dict[str, str] | None = Field(
        None,
        description="for the operator: why it has not ended, what to do, what is known, was tried and comes next, "
        "in sentences; then the history",
        examples=[
            {
                "row": "Status generating: image by nano-banana-2.",
                "why": "KIE says generating. KIE has accepted the task and has not finished it.",
                "do": "Wait: KIE is asked again by itself.",
                "next": "Next visit in 4 s.",
                "1.": "2026-07-01 12:00:00 callback received",
            }
        ],
    )


def item(row: ListedGeneration) -> dict[str, object]:
    """Return the row as the API's fields."""
    shown = display_url(row.asset_url, row.result_urls, row.preview_url)
    started = max(row.created_at, row.since or row.created_at)
    age = (row.now - started).total_seconds()
    return {
        **{name: getattr(row, name) for name in GenerationItem.model_fields if hasattr(row, name)},
        # An older table holds only the first address.
        "asset_urls": row.asset_urls or ((row.asset_url,) if row.asset_url else ()),
        "display_url": shown,
        "display_source": None if shown is None else _source(row, shown),
        "started_at": started,
        "expected_seconds": round(median_seconds(row.curve), 1),
        "progress": round(progress(row.curve, age), 3) if row.status in OPEN else None,
    }


def _source(row: ListedGeneration, shown: str) -> DisplaySource:
    if shown == row.asset_url:
        return "asset"
    return "result" if shown in row.result_urls[:1] else "preview"


def routes(authenticator: Authenticator, readiness_gate: ReadinessGate) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["generations"])
    _add_list(router, authenticator, readiness_gate)
    _add_detail(router, authenticator, readiness_gate)
    return router


def _add_list(router: APIRouter, authenticator: Authenticator, readiness_gate: ReadinessGate) -> None:
    @router.get(
        "/api/generations",
        summary="List generations, the newest first",
        response_model=GenerationPage,
        response_model_exclude_unset=True,
    )
    async def generations(
        caller: Caller = Depends(authenticator.caller),
        status: str | None = Query(
            None,
            description="a status, or `working` for all in flight, or `ready` for all that succeeded",
            pattern="^[A-Za-z_-]{1,60}$",
            examples=["failed"],
        ),
        stuck: bool = Query(False, description="only generations in flight for too long, the oldest first"),
        cursor: str | None = Query(None, description="`nextCursor` of the previous page", max_length=1000),
        limit: int = Query(50, ge=1, le=MAX_LIMIT),
        user_id: str | None = Query(
            None, alias="userId", description="for the operator: only this user's rows", max_length=200
        ),
    ) -> Response:
        listing = readiness_gate.enter().generation_list
        if not caller.operator and user_id is not None and not _is_caller(user_id, caller):
            return await _page((), limit, caller)
        of_user = user_id if caller.operator else caller.user_id
        query = listing.stuck if stuck else listing.page
        statuses = None if status is None else GROUPS.get(status, (status,))
        try:
            rows = await query(of_user, statuses=statuses, after=cursor, limit=limit + 1)
        except Permanent as error:
            raise Problem(400, error.code, str(error)) from error
        return await _page(rows, limit, caller, why=stuck and caller.operator)


def _add_detail(router: APIRouter, authenticator: Authenticator, readiness_gate: ReadinessGate) -> None:
    @router.get(
        "/api/generations/{id}",
        summary="Get one generation",
        response_model=GenerationDetail,
        response_model_exclude_unset=True,
        responses={404: {"description": "There is no such generation, or it belongs to another user."}},
    )
    async def generation(
        caller: Caller = Depends(authenticator.caller),
        generation_id: str = Path(alias="id", description="the generation's id", max_length=1000),
    ) -> GenerationDetail:
        services = readiness_gate.enter()
        row = await services.generation_list.one(generation_id, caller.user_id)
        if row is None:
            raise Problem(404, "not_found", "there is no such generation")
        case = await services.reports.details(row.id)
        results = asdict(case.results) if case is not None and case.results is not None else None
        detail = GenerationDetail.model_validate({**item(row), "server_time": row.now, "results": results})
        if caller.operator:
            detail.story = explain(case, services.operator.settings) if case is not None else {}
        return detail


def _is_caller(user_id: str, caller: Caller) -> bool:
    return user_id.casefold() == (caller.user_id or "").casefold()


async def _page(rows: Sequence[ListedGeneration], limit: int, caller: Caller, *, why: bool = False) -> Response:
    """Return the page of these rows; it ends before `limit` where it has LONGEST_PAGE bytes.

    It is written row by row, so that the loop turns in between.
    """
    items: list[bytes] = []
    for row in rows[:limit]:
        listed = ListedItem.model_validate({**item(row), "why": row.why} if why else item(row))
        items.append(listed.model_dump_json(by_alias=True, exclude_unset=True).encode())
        if sum(map(len, items)) > LONGEST_PAGE:
            break
        await asyncio.sleep(0)
    page = GenerationPage(
        generations=[],
        next_cursor=cursor_of(rows[len(items) - 1]) if len(rows) > len(items) else None,
        server_time=rows[0].now if rows else datetime.now(UTC),
        operator=caller.operator,
    )
    head, tail = page.model_dump_json(by_alias=True).encode().split(b"[]", 1)
    return Response(b"".join([head, b"[", b",".join(items), b"]", tail]), media_type="application/json")
