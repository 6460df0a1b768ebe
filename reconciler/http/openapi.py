"""The description of the API: `/openapi.json` for programs, `/docs` for people.

Each route describes its own answers; the answers that every route may give are added here. `app.py` builds the
application from `described_app`.
"""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from reconciler import __version__
from reconciler.http.problems import RETRY
from reconciler.http.static_files import static_routes

_ABOUT = """
Delivers the results of KIE.ai generations to those who paid for them.

Requests under `/api` need a bearer token: the **operator** sends the one of `RECONCILER_API_TOKEN`, an **end user** an
access token of Supabase Auth. An end user sees their own rows only; another user's rows answer 404. KIE's callback
proves itself by its secret or its signature instead.

Errors are `application/problem+json`; `error` is a stable word, `requestId` finds the request in the log. A 503 says in
`Retry-After` when to ask again. Bodies are JSON of no more than 1 MiB.
""".strip()

_TAGS = [
    {"name": "generations", "description": "Orders, their status, and where their results are."},
    {"name": "events", "description": "Changes of generations, as they happen."},
    {"name": "kie", "description": "Orders to KIE, callbacks from KIE, and questions about its tasks."},
    {"name": "operation", "description": "For supervisors, balancers and Prometheus; without a token."},
    {"name": "files", "description": "Stored results where storage is local; without a token."},
]

_PAGE = {"/docs": "docs.html", "/docs.js": "docs.js", "/docs.css": "docs.css"}

_PROBLEM = "#/components/schemas/ProblemDetails"
_CHALLENGE = {"WWW-Authenticate": {"description": "Bearer", "schema": {"type": "string"}}}

_EVERYWHERE = {"431": "More than 100 headers.", "500": "A fault of ours; the log names it under `requestId`."}
_OF_THE_API = {
    "400": "The request is invalid.",
    "408": "The body did not come within 10 s.",
    "413": "The body is longer than 1 MiB.",
    "503": "The database is away, or the daemon is starting or stopping.",
}


class ProblemDetails(BaseModel):
    """An error, as RFC 9457 defines it."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "about:blank",
                "title": "Not Found",
                "status": 404,
                "error": "not_found",
                "detail": "there is no such generation",
                "requestId": "f3b1c2d4a5e60718",
            }
        }
    )

    type: str
    title: str
    status: int = Field(ge=400, le=599)
    error: str = Field(description="a stable word", pattern="^[a-z_]+$")
    detail: str = Field(description="a sentence for people")
    requestId: str = Field(description="the request's id in the log")  # noqa: N815 - the API speaks camelCase


class _DescribedApp(FastAPI):
    """FastAPI whose description includes the answers that every route may give."""

    def openapi(self) -> dict[str, Any]:
        """Return the description."""
        schema = super().openapi()
        schemas = schema.setdefault("components", {}).setdefault("schemas", {})
        schemas["ProblemDetails"] = ProblemDetails.model_json_schema()
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                _complete(operation, api=path.startswith("/api/"))
        return schema


def described_app() -> FastAPI:
    """Return an application whose only routes are those of its description."""
    app = _DescribedApp(
        title="kie-reconciler",
        summary="Stores and shows the results of KIE.ai generations.",
        description=_ABOUT,
        version=__version__,
        openapi_tags=_TAGS,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # FastAPI's spans contain the query, and a callback's query contains the secret.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.include_router(static_routes(_PAGE))
    return app


def _complete(operation: dict[str, Any], *, api: bool) -> None:
    """Add the answers that every route may give, and remove FastAPI's 422: we answer 400 instead."""
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    common = {**_EVERYWHERE, **(_OF_THE_API if api else {})}
    if "security" in operation:
        common["401"] = "No bearer token, or an invalid one."
    for status, description in common.items():
        responses.setdefault(status, {"description": description})
    for status, response in responses.items():
        if status >= "400":
            response.setdefault("content", {"application/problem+json": {"schema": {"$ref": _PROBLEM}}})
        if status == "503" and api:
            response.setdefault("headers", RETRY)
        if status == "401" and "security" in operation:
            response.setdefault("headers", _CHALLENGE)
    operation["responses"] = dict(sorted(responses.items()))
