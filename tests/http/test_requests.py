"""What every request gets: an id, a line in the log, headers that browsers obey, and an answer to whatever breaks."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import structlog
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from structlog.testing import capture_logs

from reconciler.errors import Permanent, Transient
from reconciler.health import Health
from reconciler.http.app import application, serving
from reconciler.http.problems import Problem
from reconciler.metrics import Metrics

log = structlog.get_logger()


class Order(BaseModel):
    """What somebody wants."""

    model: str


def routes() -> APIRouter:
    router = APIRouter()

    @router.get("/api/things/{thing}")
    async def one(thing: str) -> dict[str, str]:
        log.info("thing.seen")
        return {"thing": thing}

    @router.delete("/api/several/{thing}")
    @router.post("/api/several/{thing}")
    @router.get("/api/several/{thing}")
    async def several(thing: str) -> dict[str, str]:
        return {"thing": thing}

    @router.post("/api/things")
    async def made(order: Order) -> dict[str, str]:
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
            "said": Problem(402, "no_credits", "nothing left", headers={"Retry-After": "60"}, left=0),
        }[how]

    return router


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    # Unless told otherwise structlog draws every fault with all its variables, which takes seconds.
    with capture_logs():
        yield


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = application(Health(45.0, reason=None), Metrics(), routers=[routes()])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://reconciler") as made:
        yield made


@pytest.mark.parametrize("given", ["a", "f3b1-C2.d4_e5", "x" * 64])
async def test_a_sane_request_id_is_taken_over(given: str, client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/things/7", headers={"X-Request-Id": given})
    assert answer.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\tb", "ü", "a;b", '{"a":1}'])
async def test_another_one_is_replaced(given: str, client: httpx.AsyncClient) -> None:
    answers = [await client.get("/api/things/7", headers={"X-Request-Id": given.encode()}) for _ in range(2)]
    made = [answer.headers["x-request-id"] for answer in answers]
    assert all(re.fullmatch(r"[0-9a-f]{16}", one) for one in made)
    assert made[0] != made[1]


async def test_every_line_of_a_request_carries_its_id(client: httpx.AsyncClient) -> None:
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        await client.get("/api/things/7", headers={"X-Request-Id": "mine"})
    assert [(line["event"], line["request_id"]) for line in lines] == [
        ("thing.seen", "mine"),
        ("request.served", "mine"),
    ]
    assert "request_id" not in structlog.contextvars.get_contextvars()


async def test_a_request_is_told_by_its_route_and_never_by_its_address(client: httpx.AsyncClient) -> None:
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
async def test_a_method_of_the_callers_own_making_is_not_repeated(method: str, client: httpx.AsyncClient) -> None:
    with capture_logs() as lines:
        answer = await client.request(method, "/api/things/7")
        nowhere = await client.request(method, "/api/nowhere")
    assert (answer.status_code, nowhere.status_code) == (405, 404)
    assert [line["method"] for line in lines if line["event"] == "request.served"] == ["other", "other"]


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/nowhere", "/docs"])
async def test_what_is_asked_all_day_is_told_only_when_debugging(path: str, client: httpx.AsyncClient) -> None:
    with capture_logs() as lines:
        await client.get(path)
    assert [line["log_level"] for line in lines if line["event"] == "request.served"] == ["debug"]


@pytest.mark.parametrize(
    ("how", "status", "error", "more"),
    [
        ("busy", 503, "unavailable", {"retry-after": "8"}),
        ("stop", 500, "no_column", {}),
        ("said", 402, "no_credits", {"retry-after": "60"}),
        ("fault", 500, "internal", {}),
    ],
)
async def test_whatever_breaks_is_a_problem(
    how: str, status: int, error: str, more: dict[str, str], client: httpx.AsyncClient
) -> None:
    answer = await client.get(f"/api/breaks/{how}", headers={"X-Request-Id": "mine"})
    said = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, said["status"], said["error"], said["requestId"]) == (status, status, error, "mine")
    assert more.items() <= answer.headers.items()
    assert {"type", "title", "detail"} <= said.keys()


async def test_a_fault_is_logged_and_its_text_is_not_shown(client: httpx.AsyncClient) -> None:
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        answer = await client.get("/api/breaks/fault", headers={"X-Request-Id": "mine"})
    assert "hunter2" not in answer.text
    assert "ZeroDivision" not in answer.text
    (broke,) = (line for line in lines if line["event"] == "request.broke")
    assert (broke["request_id"], broke["route"], broke["exc_info"]) == ("mine", "/api/breaks/{how}", True)


async def test_a_fault_in_the_middle_of_an_answer_cuts_it_off() -> None:
    app = application(Health(45.0, reason=None), Metrics(), routers=[routes()])
    async with serving(app, "127.0.0.1", 0) as port, httpx.AsyncClient(trust_env=False) as client:
        with capture_logs() as lines, pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"http://127.0.0.1:{port}/api/breaks/midway")
    assert [line["event"] for line in lines] == ["request.broke", "request.served"]


async def test_an_unknown_address_a_wrong_method_and_a_slash_too_many_are_problems(client: httpx.AsyncClient) -> None:
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
async def test_a_wrong_method_is_told_every_right_one(path: str, allowed: str, client: httpx.AsyncClient) -> None:
    answer = await client.put(path)
    assert (answer.status_code, answer.headers.get_list("allow")) == (405, [allowed])


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b'{"model": 7}', b"[" * 100_000, b'{"\\ud800": 1}', b"NaN"]
)
async def test_a_body_that_is_not_understood_is_a_problem(body: bytes, client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/things", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_what_was_sent_wrongly_does_not_come_back(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/things", json={"model": {"secret": "hunter2"}})
    assert (answer.status_code, "body.model" in answer.json()["detail"]) == (400, True)
    assert "hunter2" not in answer.text


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/openapi.json", "/docs", "/docs.js"])
async def test_what_may_be_got_may_be_asked_for_without_its_body(path: str, client: httpx.AsyncClient) -> None:
    whole, headed = await client.get(path), await client.head(path)
    assert (headed.status_code, headed.headers["content-type"]) == (200, whole.headers["content-type"])


@pytest.mark.parametrize("path", ["/api/things/7", "/api/breaks/fault", "/nowhere", "/metrics", "/docs", "/docs.js"])
async def test_every_answer_says_how_a_browser_may_use_it(path: str, client: httpx.AsyncClient) -> None:
    headers = (await client.get(path)).headers
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert (headers.get("cache-control") == "no-store") == path.startswith("/api/")


async def test_pages_are_the_packages_own_and_are_not_sent_twice(client: httpx.AsyncClient) -> None:
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
async def test_no_other_file_has_an_address(path: str, client: httpx.AsyncClient) -> None:
    assert (await client.get(path)).status_code == 404
