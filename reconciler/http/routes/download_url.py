"""`POST /api/kie/downloadUrl`: a fresh address for a result that is still at KIE.

Only for an address among the results of a row that the caller may see: neither KIE's minting nor our keys are lent to
anybody for anything else. How many at once is `mint.py`'s affair. An address is never logged, neither the plain one
nor the minted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from fastapi import APIRouter, Depends
from pydantic import ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from reconciler.domain.object_keys import host_listed
from reconciler.http.auth import Authenticator, Caller
from reconciler.http.download_url import not_kies
from reconciler.http.problems import RETRY, Problem
from reconciler.http.readiness_gate import ReadinessGate, RouteServices
from reconciler.http.routes.generations import Model
from reconciler.postgres.reports.generation_list import LONGEST_ADDRESS, ListedGeneration

LASTS = 1200
"""Seconds for which KIE says that a minted address is good."""

_ASKED: JsonDict = {"generationId": "0b7d3c1e-5a42-4f0e-9f5d-3a8f5a0c9e11"}
_LINK: JsonDict = {"downloadUrl": "https://tempfile.aiquickdraw.com/r/281e.png?X-Amz-Expires=1200", "expiresIn": LASTS}


class DownloadUrlBody(Model):
    """Which result."""

    model_config = ConfigDict(json_schema_extra={"example": _ASKED})

    generation_id: str | None = Field(None, max_length=1000)
    url: str | None = Field(
        None,
        description="one of the generation's resultUrls, by default the first; alone it is looked for among the "
        "caller's newest generations",
        max_length=LONGEST_ADDRESS,
    )

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if self.generation_id is None and self.url is None:
            raise ValueError("generationId or url is needed")
        return self


class DownloadUrlAnswer(Model):
    """A fresh address."""

    model_config = ConfigDict(json_schema_extra={"example": _LINK})

    download_url: str
    expires_in: int = Field(description="seconds")


def routes(gate: Authenticator, entrance: ReadinessGate) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["kie"])

    @router.post(
        "/api/kie/downloadUrl",
        summary="Get an address for a result at KIE",
        description="What lies in our storage needs none: see `assetUrl`.",
        response_model=DownloadUrlAnswer,
        responses={
            404: {"description": "There is no such generation or no such result, or it is somebody else's."},
            410: {"description": "`gone`: KIE does not have it any more."},
            422: {"description": "`not_kies`: the address is not one of KIE's."},
            429: {"description": "`too_many_links`: too many are being asked for at once.", "headers": RETRY},
            502: {"description": "`kie_unavailable`: KIE could not be asked."},
        },
    )
    async def download_url(asked: DownloadUrlBody, caller: Caller = Depends(gate.caller)) -> DownloadUrlAnswer:
        inside = entrance.go()
        row, url = await _found(inside, caller, asked)
        if not host_listed(url, inside.desk.terms.their_hosts):
            raise not_kies()
        minted = await inside.mint.address(url, caller, key_hash=row.key_hash)
        return DownloadUrlAnswer(download_url=minted, expires_in=LASTS)

    return router


async def _found(inside: RouteServices, caller: Caller, asked: DownloadUrlBody) -> tuple[ListedGeneration, str]:
    """Return the row and which of its results is meant; Problem 404 where the caller has no such thing."""
    if asked.generation_id is not None:
        one = await inside.listing.one(asked.generation_id, caller.user_id)
        rows: Sequence[ListedGeneration] = () if one is None else (one,)
    else:
        rows = await inside.listing.with_result(asked.url or "", caller.user_id)
    for row in rows:
        for url in row.result_urls:
            if asked.url is None or asked.url == url:
                return row, url
    raise Problem(404, "not_found", "there is no such result")
