"""What every request gets: an id, a log line, security headers, and a problem for every error."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import structlog
from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict
from structlog.testing import capture_logs

from reconciler.errors import Config, Permanent, Transient
from reconciler.health import Health
from reconciler.http.app import application, serving
from reconciler.http.bodies import BodyRouter, BodyRule
from reconciler.http.problems import Problem
from reconciler.metrics import Metrics

log = structlog.get_logger()


class Nothing(BaseModel):
    """A body without fields."""

    model_config = ConfigDict(extra="forbid")


class Order(BaseModel):
    """A body with one field."""

    model: str


async def anybody(_: Request) -> None:
    return


def routes() -> BodyRouter:
    router = BodyRouter()
    for path in ("/api/things", "/api/numbers"):
        router.reads_body(path, BodyRule(anybody, "users"))

    @router.get("/api/things/{thing}")
    async def one(thing: str) -> dict[str, str]:
        log.info("thing.seen")
        return {"thing": thing}

    @router.delete("/api/several/{thing}")
    @router.post("/api/several/{thing}")
    @router.get("/api/several/{thing}")
    async def several(thing: str) -> dict[str, str]:
        return {"thing": thing}

    @router.post("/api/numbers")
    async def numbers(_: Nothing) -> None:
        return

    @router.post("/api/things")
    async def create(order: Order) -> dict[str, str]:
        return {"model": order.model}

    @router.get("/api/breaks/{how}")
    async def breaks(how: str) -> StreamingResponse:
        if how == "midway":

            async def pieces() -> AsyncIterator[bytes]:
                yield b"half"
                raise ZeroDivisionError("password=hunter2")

            return StreamingResponse(pieces())
        raise {
            "fault": ZeroDivisionError("password=hunter2"),
            "busy": Transient("the database is away", code="database_away", retry_after=7.2),
            "stop": Permanent("a column is missing", code="no_column"),
            "refused": Transient("the database is away: db.example:5432 says: no", code="database_away"),
            "wrong": Config('the database rejects user or password: db.example:5432 says: no "shop"'),
            "problem": Problem(402, "no_credits", "nothing left", headers={"Retry-After": "60"}, left=0),
        }[how]

    return router


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    # By default structlog prints every exception with all its variables, which takes seconds.
    with capture_logs():
        yield


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = application(Health(45.0, reason=None), Metrics(), routers=[routes()])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://reconciler") as opened:
        yield opened


@pytest.mark.parametrize("sent_id", ["a", "f3b1-C2.d4_e5", "x" * 64])
async def test_a_valid_request_id_is_kept(sent_id: str, client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/things/7", headers={"X-Request-Id": sent_id})
    assert answer.headers["x-request-id"] == sent_id


@pytest.mark.parametrize("sent_id", ["", "x" * 65, "a b", "a\tb", "ü", "a;b", '{"a":1}'])
async def test_an_invalid_request_id_is_replaced(sent_id: str, client: httpx.AsyncClient) -> None:
    answers = [await client.get("/api/things/7", headers={"X-Request-Id": sent_id.encode()}) for _ in range(2)]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert all(re.fullmatch(r"[0-9a-f]{16}", one) for one in ids)
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    ("how", "detail"), [("refused", "the database is away"), ("wrong", "the database rejects user or password")]
)
async def test_a_caller_reads_neither_the_databases_host_nor_its_words(
    how: str, detail: str, client: httpx.AsyncClient
) -> None:
    answer = await client.get(f"/api/breaks/{how}")
    assert answer.json()["detail"] == detail
    assert "db.example" not in answer.text


async def test_a_detail_is_cut_whoever_wrote_it() -> None:
    assert len(Problem(400, "invalid_request", "x" * 100_000).detail) < 1100


async def test_an_error_names_five_places_and_cuts_long_names(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/numbers", json={f"{n}{'x' * 5000}": n for n in range(9)})
    problem = answer.json()
    assert (answer.status_code, problem["error"]) == (400, "invalid_request")
    assert problem["detail"].count("Extra inputs are not permitted") == 5
    assert problem["detail"].endswith("and 4 more")


async def test_every_log_line_of_a_request_carries_its_id(client: httpx.AsyncClient) -> None:
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        await client.get("/api/things/7", headers={"X-Request-Id": "mine"})
    assert [(line["event"], line["request_id"]) for line in lines] == [
        ("thing.seen", "mine"),
        ("request.served", "mine"),
    ]
    assert "request_id" not in structlog.contextvars.get_contextvars()


async def test_a_request_is_logged_by_its_route_and_never_by_its_address(client: httpx.AsyncClient) -> None:
    with capture_logs() as lines:
        await client.get("/api/things/private?secret=hunter2")
        await client.get("/api/nowhere/hunter2")
        await client.post("/api/things/7")
    served = [line for line in lines if line["event"] == "request.served"]
    assert [(one["method"], one["route"], one["status"], one["log_level"]) for one in served] == [
        ("GET", "/api/things/{thing}", 200, "info"),
        ("GET", "none", 404, "info"),
        ("POST", "/api/things/{thing}", 405, "info"),
    ]
    assert all(0 <= one["took"] < 5 for one in served)
    assert "hunter2" not in json.dumps(lines)
    assert "private" not in json.dumps(lines)


@pytest.mark.parametrize("method", ["secret.a.a", "x" * 10_000, "TRACE"])
async def test_an_unknown_method_is_not_repeated_in_the_log(method: str, client: httpx.AsyncClient) -> None:
    with capture_logs() as lines:
        answer = await client.request(method, "/api/things/7")
        nowhere = await client.request(method, "/api/nowhere")
    assert (answer.status_code, nowhere.status_code) == (405, 404)
    assert [line["method"] for line in lines if line["event"] == "request.served"] == ["other", "other"]


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/nowhere", "/docs"])
async def test_routes_outside_the_api_are_logged_at_debug_level(path: str, client: httpx.AsyncClient) -> None:
    with capture_logs() as lines:
        await client.get(path)
    assert [line["log_level"] for line in lines if line["event"] == "request.served"] == ["debug"]


@pytest.mark.parametrize(
    ("how", "status", "error", "more"),
    [
        ("busy", 503, "unavailable", {"retry-after": "8"}),
        ("stop", 500, "no_column", {}),
        ("problem", 402, "no_credits", {"retry-after": "60"}),
        ("fault", 500, "internal", {}),
    ],
)
async def test_every_error_is_answered_as_a_problem(
    how: str, status: int, error: str, more: dict[str, str], client: httpx.AsyncClient
) -> None:
    answer = await client.get(f"/api/breaks/{how}", headers={"X-Request-Id": "mine"})
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, body["status"], body["error"], body["requestId"]) == (status, status, error, "mine")
    assert more.items() <= answer.headers.items()
    assert {"type", "title", "detail"} <= body.keys()


async def test_an_exception_is_logged_and_its_text_is_not_shown(client: httpx.AsyncClient) -> None:
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        answer = await client.get("/api/breaks/fault", headers={"X-Request-Id": "mine"})
    assert "hunter2" not in answer.text
    assert "ZeroDivision" not in answer.text
    (broke,) = (line for line in lines if line["event"] == "request.broke")
    assert (broke["request_id"], broke["route"], broke["exc_info"]) == ("mine", "/api/breaks/{how}", True)


async def test_an_exception_in_the_middle_of_an_answer_ends_the_connection() -> None:
    app = application(Health(45.0, reason=None), Metrics(), routers=[routes()])
    async with serving(app, "127.0.0.1", 0) as port, httpx.AsyncClient(trust_env=False) as client:
        with capture_logs() as lines, pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"http://127.0.0.1:{port}/api/breaks/midway")
    assert [line["event"] for line in lines] == ["request.broke", "request.served"]


async def test_an_unknown_address_a_wrong_method_and_an_extra_slash_are_problems(client: httpx.AsyncClient) -> None:
    for method, path, status, error in (
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/api/things/7/", 404, "not_found"),
        ("DELETE", "/api/things/7", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
    ):
        answer = await client.request(method, path)
        assert (answer.status_code, answer.json()["error"]) == (status, error), path
        assert answer.headers["content-type"] == "application/problem+json"
        if status == 405:
            assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/api/things/7", "GET"),
        ("/api/several/7", "DELETE, GET, POST"),
        ("/healthz", "GET, HEAD"),
        ("/docs", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_gets_all_allowed_methods_of_the_address(
    path: str, allowed: str, client: httpx.AsyncClient
) -> None:
    answer = await client.put(path)
    assert (answer.status_code, answer.headers.get_list("allow")) == (405, [allowed])


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b'{"model": 7}', b"[" * 100_000, b'{"\\ud800": 1}', b"NaN"]
)
async def test_an_invalid_body_is_a_problem(body: bytes, client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/things", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_an_invalid_value_is_not_repeated_in_the_answer(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/things", json={"model": {"secret": "hunter2"}})
    assert (answer.status_code, "body.model" in answer.json()["detail"]) == (400, True)
    assert "hunter2" not in answer.text


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/openapi.json", "/docs", "/docs.js"])
async def test_head_works_where_get_does(path: str, client: httpx.AsyncClient) -> None:
    whole, headed = await client.get(path), await client.head(path)
    assert (headed.status_code, headed.headers["content-type"]) == (200, whole.headers["content-type"])


@pytest.mark.parametrize("path", ["/api/things/7", "/api/breaks/fault", "/nowhere", "/metrics", "/docs", "/docs.js"])
async def test_every_answer_has_the_security_headers(path: str, client: httpx.AsyncClient) -> None:
    headers = (await client.get(path)).headers
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert (headers.get("cache-control") == "no-store") == path.startswith("/api/")


async def test_pages_are_served_with_an_etag_and_not_sent_twice(client: httpx.AsyncClient) -> None:
    for path, kind in (("/docs", "text/html"), ("/docs.js", "text/javascript"), ("/docs.css", "text/css")):
        answer = await client.get(path)
        assert answer.headers["content-type"].startswith(kind)
        again = await client.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        other = await client.get(path, headers={"If-None-Match": '"other"'})
        assert other.status_code == 200


@pytest.mark.parametrize(
    "path", ["/docs.html", "/page/docs.html", "/docs.js/../web.py", "/..%2fweb.py", "/%2e%2e/web.py"]
)
async def test_no_other_file_of_the_package_is_served(path: str, client: httpx.AsyncClient) -> None:
    assert (await client.get(path)).status_code == 404
