"""The API described: `/openapi.json` for programs, `/docs` for people.

Every route says what only it answers; what every route may answer is said here. The web door builds its application
from this.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from reconciler import __version__
from reconciler.http.problems import RETRY
from reconciler.http.static_files import static

_ABOUT = """
Makes sure that whoever paid for a KIE.ai generation gets it.

Who asks under `/api` shows a bearer token: the **operator** the one of `RECONCILER_API_TOKEN`, an **end user** an
access token of Supabase Auth. An end user has no rows but their own; everybody else's answer 404. KIE's callback shows
its secret or its signature instead.

Errors are `application/problem+json`; `error` is a word that does not change, `requestId` finds the request in the
log. A 503 says in `Retry-After` when to ask again. Bodies are JSON of no more than 1 MiB.
""".strip()

_TAGS = [
    {"name": "generations", "description": "What was ordered, how it stands, and where its results are."},
    {"name": "events", "description": "What changes, as it changes."},
    {"name": "kie", "description": "What goes to KIE and what comes from there."},
    {"name": "operation", "description": "For supervisors, balancers and Prometheus; without a token."},
    {"name": "files", "description": "Stored results where storage is local; without a token."},
]

_PAGE = {"/docs": "docs.html", "/docs.js": "docs.js", "/docs.css": "docs.css"}

_PROBLEM = "#/components/schemas/ProblemDetails"
_ASKS = {"WWW-Authenticate": {"description": "Bearer", "schema": {"type": "string"}}}

_EVERYWHERE = {"431": "More than 100 headers.", "500": "A fault of ours; the log tells it under `requestId`."}
_OF_THE_API = {
    "400": "What was asked cannot be understood.",
    "408": "The body did not come within 10 s.",
    "413": "The body is longer than 1 MiB.",
    "503": "The database is away, or the daemon starts or ends.",
}


class ProblemDetails(BaseModel):
    """An error, as RFC 9457 has it."""

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
    requestId: str = Field(description="what the log calls this request")  # noqa: N815 - the API's own spelling


class _Described(FastAPI):
    """FastAPI whose description also tells what every route may answer."""

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


def described() -> FastAPI:
    """Return an application without routes but for its own description."""
    app = _Described(
        title="kie-reconciler",
        summary="Learns that a KIE.ai generation ended, stores it, proves it, shows it.",
        description=_ABOUT,
        version=__version__,
        openapi_tags=_TAGS,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Its spans hold the query, and a callback's query holds the secret.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.include_router(static(_PAGE))
    return app


def _complete(operation: dict[str, Any], *, api: bool) -> None:
    """Add what the routes need not say, and take out what FastAPI says in their place: we answer 400, not 422."""
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    anywhere = {**_EVERYWHERE, **(_OF_THE_API if api else {})}
    if "security" in operation:
        anywhere["401"] = "No bearer token, or one that does not hold."
    for status, told in anywhere.items():
        responses.setdefault(status, {"description": told})
    for status, response in responses.items():
        if status >= "400":
            response.setdefault("content", {"application/problem+json": {"schema": {"$ref": _PROBLEM}}})
        if status == "503" and api:
            response.setdefault("headers", RETRY)
        if status == "401" and "security" in operation:
            response.setdefault("headers", _ASKS)
    operation["responses"] = dict(sorted(responses.items()))
