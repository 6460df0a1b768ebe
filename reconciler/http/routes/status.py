"""`GET /api/status`: what `status --json` says, for the operator's page and for programs."""

from fastapi import APIRouter, Depends

from reconciler.http.auth import Authenticator, Caller
from reconciler.http.problems import Problem
from reconciler.http.readiness_gate import ReadinessGate
from reconciler.postgres.reports.reports import StatusReport


def routes(authenticator: Authenticator, readiness_gate: ReadinessGate) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["generations"])

    @router.get(
        "/api/status",
        summary="Get the open findings and the figures of the last 24 hours",
        responses={403: {"description": "Only the operator may ask."}},
    )
    async def status(caller: Caller = Depends(authenticator.caller)) -> StatusReport:
        services = readiness_gate.enter()
        if not caller.operator:
            raise Problem(403, "operator_only", "only the operator may ask for the status")
        return await services.reports.status()

    return router
