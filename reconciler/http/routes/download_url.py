"""`POST /api/kie/downloadUrl`: a fresh address for a result that is still at KIE.

The route serves addresses among the results of a row that the caller may see: our keys and requests to KIE are not
available for anything else. `LinkRefresher` bounds how many requests run at once, so that they do not take the rate
that polling needs. No address is logged, neither the plain nor the fresh one.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self
from weakref import WeakValueDictionary

from fastapi import Depends
from pydantic import ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from reconciler.domain.object_keys import display_url, host_listed
from reconciler.errors import Gone, Permanent, Transient
from reconciler.http.auth import Authenticator, Caller
from reconciler.http.bodies import BodyRouter, BodyRule, RequestBody
from reconciler.http.problems import RETRY, Problem, wait
from reconciler.http.readiness_gate import ReadinessGate, RouteServices
from reconciler.http.routes.generations import ApiModel
from reconciler.kie.client import KieClient
from reconciler.metrics import Metrics
from reconciler.postgres.rate_limit import RateLimit, rest_seconds
from reconciler.postgres.reports.generation_list import LONGEST_ADDRESS, ListedGeneration
from reconciler.worker.route import RingKey

EXPIRES_IN = 1200
"""Seconds for which a fresh address is valid, as KIE says."""

CONCURRENCY = 4
"""Requests for addresses that this process sends to KIE at once."""

PER_CALLER = 2
"""How many of them may belong to one caller."""

QUEUE_SECONDS = 3.0
"""Seconds that a caller waits for a free place, and again for a request of the key's rate."""

KIE_SECONDS = 12.0
"""Seconds that a caller waits for KIE: a person has clicked and waits."""

_PATH = "/api/kie/downloadUrl"
_LONGEST_BODY = 128 << 10

_BODY: JsonDict = {"generationId": "0b7d3c1e-5a42-4f0e-9f5d-3a8f5a0c9e11"}
_ANSWER: JsonDict = {
    "downloadUrl": "https://tempfile.aiquickdraw.com/r/281e.png?X-Amz-Expires=1200",
    "expiresIn": EXPIRES_IN,
}


class DownloadUrlBody(RequestBody, ApiModel):
    """Which result."""

    model_config = ConfigDict(json_schema_extra={"example": _BODY})

    generation_id: str | None = Field(None, max_length=1000)
    url: str | None = Field(
        None,
        description="one of the generation's resultUrls, by default the first; without generationId it is searched "
        "among the caller's newest generations",
        max_length=LONGEST_ADDRESS,
    )

    @model_validator(mode="after")
    def _require_one(self) -> Self:
        if self.generation_id is None and self.url is None:
            raise ValueError("generationId or url is needed")
        return self


class DownloadUrlAnswer(ApiModel):
    """A fresh address."""

    model_config = ConfigDict(json_schema_extra={"example": _ANSWER})

    download_url: str
    expires_in: int = Field(description="seconds")


class LinkRefresher:
    """Asks KIE for fresh addresses, within the rate that polls share and within its own limits."""

    def __init__(self, kie: KieClient, rate_limit: RateLimit, keys: Sequence[RingKey], metrics: Metrics) -> None:
        self._kie = kie
        self._rate_limit = rate_limit
        self._key_hashes = tuple(key.key_hash for key in keys)
        self._metrics = metrics
        self._places = asyncio.Semaphore(CONCURRENCY)
        self._caller_places: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def address(self, url: str, caller: Caller, *, key_hash: str | None) -> str:
        """Return a fresh address from the key that made the task, else from the first key that knows the address.

        Raises Problem: 429 beyond the limits, 410, 422 or 502 by what KIE answers.
        """
        key_hashes = [key_hash] if key_hash is not None and key_hash in self._key_hashes else self._key_hashes
        async with self._place(caller):
            try:
                async with asyncio.timeout(KIE_SECONDS):
                    return await self._ask_kie(url, key_hashes)
            except TimeoutError:
                raise Problem(502, "kie_unavailable", "KIE does not answer in time") from None

    @asynccontextmanager
    async def _place(self, caller: Caller) -> AsyncIterator[None]:
        """Hold one of the caller's own places and one of all places; Problem 429 where none gets free in time."""
        # The dictionary is weak: a caller's semaphore lives as long as a request waits for it or holds it.
        caller_places = self._caller_places.setdefault(caller.user_id or "", asyncio.Semaphore(PER_CALLER))
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(QUEUE_SECONDS):
                    await held.enter_async_context(caller_places)
                    await held.enter_async_context(self._places)
            except TimeoutError:
                raise _too_many() from None
            yield

    async def _ask_kie(self, url: str, key_hashes: Sequence[str]) -> str:
        errors: list[Transient | Permanent] = []
        for key_hash in key_hashes:
            if not await self._rate_limit.take_soon(key_hash, QUEUE_SECONDS):
                raise _too_many()
            try:
                with self._metrics.asking("download_url"):
                    return _checked(await self._kie.download_url(url, key_hash=key_hash))
            except (Transient, Permanent) as error:
                errors.append(error)
                if isinstance(error, Transient) and error.code == "rate_limited":
                    await self._rate_limit.pause(key_hash, rest_seconds(error.retry_after))
        raise _most_specific(errors)


def _too_many() -> Problem:
    detail = "too many addresses are being asked for at once"
    return Problem(429, "too_many_links", detail, headers=wait(QUEUE_SECONDS))


def _not_kies() -> Problem:
    return Problem(422, "not_kies", "the address is not one of KIE's")


def _checked(address: str) -> str:
    if display_url(address, None, None) is None:
        raise Transient("KIE returned no usable address", code="kie_no_address")
    return address


def _most_specific(errors: Sequence[Transient | Permanent]) -> Problem:
    """Return the most specific of the keys' errors: a key that does not know the address proves nothing about it."""
    if any(isinstance(error, Gone) for error in errors):
        return Problem(410, "gone", "KIE does not have it any more")
    unavailable = [error for error in errors if isinstance(error, Transient) or error.code == "key_rejected"]
    if unavailable:
        return Problem(502, "kie_unavailable", f"KIE could not be asked: {unavailable[0].code}")
    return _not_kies()


def routes(authenticator: Authenticator, readiness_gate: ReadinessGate) -> BodyRouter:
    """Return the route."""
    router = BodyRouter(tags=["kie"])
    router.reads_body(_PATH, BodyRule(authenticator.identify, "users", longest=_LONGEST_BODY))

    @router.post(
        _PATH,
        summary="Get an address for a result at KIE",
        description="A result in our storage needs none: see `assetUrl`.",
        response_model=DownloadUrlAnswer,
        responses={
            404: {"description": "There is no such generation or no such result, or it belongs to another user."},
            410: {"description": "`gone`: KIE does not have it any more."},
            422: {"description": "`not_kies`: the address is not one of KIE's."},
            429: {"description": "`too_many_links`: too many addresses are being asked for at once.", "headers": RETRY},
            502: {"description": "`kie_unavailable`: KIE could not be asked."},
        },
    )
    async def download_url(body: DownloadUrlBody, caller: Caller = Depends(authenticator.caller)) -> DownloadUrlAnswer:
        services = readiness_gate.enter()
        row, url = await _find(services, caller, body)
        if not host_listed(url, services.operator.settings.provider_hosts):
            raise _not_kies()
        address = await services.link_refresher.address(url, caller, key_hash=row.key_hash)
        return DownloadUrlAnswer(download_url=address, expires_in=EXPIRES_IN)

    return router


async def _find(services: RouteServices, caller: Caller, body: DownloadUrlBody) -> tuple[ListedGeneration, str]:
    """Return the row and the address of the wanted result; Problem 404 where the caller has no such result."""
    if body.generation_id is not None:
        row = await services.generation_list.one(body.generation_id, caller.user_id)
        rows: Sequence[ListedGeneration] = () if row is None else (row,)
    else:
        rows = await services.generation_list.with_result(body.url or "", caller.user_id)
    for row in rows:
        for url in row.result_urls:
            if body.url is None or body.url == url:
                return row, url
    raise Problem(404, "not_found", "there is no such result")
