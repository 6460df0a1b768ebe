"""`/metrics`, `/healthz` and `/readyz`: for Prometheus, supervisors and load balancers, without a token."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, Field

from reconciler.health import Health
from reconciler.metrics import Metrics

_TEXT: dict[str, Any] = {"schema": {"type": "string"}}
_METRICS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The metrics, in the format that Accept asks for.",
        "content": {"text/plain": _TEXT, "application/openmetrics-text": _TEXT},
    }
}
_ALIVE: dict[int | str, dict[str, Any]] = {
    200: {"description": "It is alive.", "content": {"text/plain": _TEXT}},
    503: {"description": "Its loop has not run for three sweeps: restart it.", "content": {"text/plain": _TEXT}},
}


class Readiness(BaseModel):
    """Whether this replica accepts requests."""

    ready: bool
    reason: str | None = Field(description="why not; null when it is ready", examples=["starting", "draining"])


def routes(health: Health, metrics: Metrics) -> APIRouter:
    """Return the routes, which are served from the start of the process to its end."""
    router = APIRouter(tags=["operation"])

    @router.head("/metrics", include_in_schema=False)
    @router.get("/metrics", summary="Metrics for Prometheus", response_class=Response, responses=_METRICS)
    def exposition(request: Request) -> Response:
        body, content_type = metrics.exposition(request.headers.get("accept", ""))
        return Response(body, media_type=content_type)

    @router.head("/healthz", include_in_schema=False)
    @router.get(
        "/healthz",
        summary="Whether the process is alive",
        response_class=PlainTextResponse,
        responses=_ALIVE,
    )
    def alive() -> Response:
        if health.beats():
            return PlainTextResponse("ok\n")
        return PlainTextResponse("the loop does not turn\n", status_code=503)

    @router.head("/readyz", include_in_schema=False)
    @router.get(
        "/readyz",
        summary="Whether this replica accepts requests",
        response_model=Readiness,
        responses={503: {"model": Readiness, "description": "Not ready, and why."}},
    )
    def ready() -> Response:
        reason = health.unready()
        return JSONResponse({"ready": reason is None, "reason": reason}, status_code=200 if reason is None else 503)

    return router
