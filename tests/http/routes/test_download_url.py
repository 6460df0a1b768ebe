"""Fresh addresses for results at KIE: for which callers and results, and how KIE's errors are answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from reconciler.http.routes import download_url
from reconciler.kie.client import key_hash
from reconciler.simulator import Simulator
from reconciler.simulator.media.files import MediaSpec
from testkit.rows import THEIRS, add, keep
from tests.http.api import ANN, BOB, ServedApi, opened
from tests.wire import origin

LINK = "/api/kie/downloadUrl"
PICTURE = MediaSpec(kind="image", ext="png", size=2000)


@pytest.fixture
async def api(rows_dsn: str, kie: Simulator, tmp_path: Path) -> AsyncIterator[ServedApi]:
    keys = {"KIE_API_KEY": "first", "KIE_API_KEY_PHOTO": "second", "KIE_API_KEY_VIDEO": "third"}
    async with opened(rows_dsn, kie, tmp_path, **keys) as api:
        yield api


async def delivered(pool: Any, kie: Simulator, user_id: str | None = ANN, **order: Any) -> tuple[str, list[str]]:
    """Insert a row with two results at KIE; return its id and their addresses."""
    task = kie.add_task(results=[PICTURE, PICTURE], **order)
    urls = kie.addresses(kie.tasks[task])
    return await add(pool, "success", task_id=task, user_id=user_id, result_urls=json.dumps(urls)), urls


async def task_of(pool: Any) -> str:
    return str(await pool.fetchval("SELECT task_id FROM public.generations"))


async def fetch(url: str) -> bytes:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(url)
        assert answer.status_code == 200
        return answer.content


async def test_the_fresh_address_leads_to_the_result(pool: Any, kie: Simulator, api: ServedApi) -> None:
    row, urls = await delivered(pool, kie)

    first = await api.ann.post(LINK, json={"generationId": row})
    second = await api.ann.post(LINK, json={"generationId": row, "url": urls[1]})

    for answer, url in ((first, urls[0]), (second, urls[1])):
        assert answer.status_code == 200, answer.text
        link = answer.json()
        assert (link.pop("downloadUrl").partition("?")[0], link) == (url, {"expiresIn": 1200})
        assert await fetch(answer.json()["downloadUrl"]) == await fetch(url)
        assert "X-Amz-Signature" in answer.json()["downloadUrl"]


async def test_an_address_alone_is_searched_among_the_callers_rows(pool: Any, kie: Simulator, api: ServedApi) -> None:
    _, urls = await delivered(pool, kie)

    assert (await api.ann.post(LINK, json={"url": urls[1]})).status_code == 200
    assert (await api.operator.post(LINK, json={"url": urls[1]})).status_code == 200


async def test_a_user_gets_no_address_for_results_of_others(pool: Any, kie: Simulator, api: ServedApi) -> None:
    row, urls = await delivered(pool, kie)
    nobodys, theirs = await delivered(pool, kie, None)
    own, _ = await delivered(pool, kie, BOB)

    for body in (
        {"generationId": row}, {"generationId": row, "url": urls[0]}, {"url": urls[0]}, {"generationId": nobodys},
        {"url": theirs[0]}, {"generationId": own, "url": urls[0]},
    ):  # fmt: skip
        answer = await api.bob.post(LINK, json=body)
        assert (answer.status_code, answer.json()["error"]) == (404, "not_found"), body
    assert kie.counts.links == 0
    assert (await api.nobody.post(LINK, json={"generationId": row})).status_code == 401
    assert (await api.operator.post(LINK, json={"generationId": row})).status_code == 200


async def test_only_the_exact_address_of_a_result_is_accepted(pool: Any, kie: Simulator, api: ServedApi) -> None:
    row, urls = await delivered(pool, kie)

    for url in (urls[0] + "?", urls[0].upper(), urls[0][:-1], THEIRS, "", "\x00", "javascript:alert(1)"):
        for body in ({"generationId": row, "url": url}, {"url": url}):
            answer = await api.ann.post(LINK, json=body)
            assert answer.status_code == 404, (url, answer.text)
    assert kie.counts.links == 0


async def test_a_row_without_results_is_404(pool: Any, api: ServedApi) -> None:
    row = await add(pool, user_id=ANN)

    assert (await api.ann.post(LINK, json={"generationId": row})).status_code == 404


async def test_an_address_of_another_host_is_not_sent_to_kie(pool: Any, kie: Simulator, api: ServedApi) -> None:
    row = await add(pool, user_id=ANN, result_urls=json.dumps(["https://elsewhere.example/1.png"]))

    answer = await api.ann.post(LINK, json={"generationId": row})

    assert (answer.status_code, answer.json()["error"]) == (422, "not_kies")
    assert api.parts.metrics.registry.get_sample_value(*_sample("refused")) == 0


async def test_an_address_that_kie_does_not_know_is_422(pool: Any, api: ServedApi) -> None:
    row = await add(pool, user_id=ANN, result_urls=json.dumps([THEIRS]))

    answer = await api.ann.post(LINK, json={"generationId": row})

    assert (answer.status_code, answer.json()["error"]) == (422, "not_kies")


async def test_kie_is_asked_with_the_key_that_made_the_task(pool: Any, kie: Simulator, api: ServedApi) -> None:
    row, _ = await delivered(pool, kie, key="third")
    await keep(
        pool, row, seen_task=await pool.fetchval("SELECT task_id FROM public.generations"), key_hash=key_hash("third")
    )

    assert (await api.ann.post(LINK, json={"generationId": row})).status_code == 200
    assert api.parts.metrics.registry.get_sample_value(*_sample("ok")) == 1
    assert api.parts.metrics.registry.get_sample_value(*_sample("refused")) == 0


async def test_without_a_known_key_all_keys_are_tried_in_turn(pool: Any, kie: Simulator, api: ServedApi) -> None:
    row, _ = await delivered(pool, kie, key="third")

    assert (await api.ann.post(LINK, json={"generationId": row})).status_code == 200
    assert api.parts.metrics.registry.get_sample_value(*_sample("refused")) == 2


async def test_a_key_that_is_no_longer_configured_is_not_used(pool: Any, kie: Simulator, api: ServedApi) -> None:
    row, _ = await delivered(pool, kie)
    await keep(pool, row, seen_task=await task_of(pool), key_hash="cafe")

    assert (await api.ann.post(LINK, json={"generationId": row})).status_code == 200


@pytest.mark.parametrize(
    ("fault", "status", "error"),
    [("link.body_500", 502, "kie_unavailable"), ("link.html_502", 502, "kie_unavailable"),
     ("link.body_422", 422, "not_kies")],
)  # fmt: skip
async def test_errors_of_kie_are_translated(
    pool: Any, kie: Simulator, api: ServedApi, fault: str, status: int, error: str
) -> None:
    row, _ = await delivered(pool, kie)
    kie.strike(fault, times=3)

    answer = await api.ann.post(LINK, json={"generationId": row})

    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("answers", "status", "error"),
    [
        ((410,), 410, "gone"), ((404,), 410, "gone"), ((401,), 502, "kie_unavailable"), ((422,), 422, "not_kies"),
        ((422, 410, 422), 410, "gone"), ((422, 500, 422), 502, "kie_unavailable"),
        ((422, 401, 422), 502, "kie_unavailable"), ((500, 422, 410), 410, "gone"),
    ],
)  # fmt: skip
async def test_of_several_errors_the_most_specific_is_answered(
    rows_dsn: str, pool: Any, kie: Simulator, tmp_path: Path, answers: tuple[int, ...], status: int, error: str
) -> None:
    row = await add(pool, user_id=ANN, result_urls=json.dumps([THEIRS]))
    keys = {"KIE_API_KEY": "first", "KIE_API_KEY_PHOTO": "second", "KIE_API_KEY_VIDEO": "third"}
    responses = [kie_answer({"code": code, "msg": "no", "data": None}) for code in answers]
    async with (
        origin(*responses) as refusing,
        opened(rows_dsn, kie, tmp_path, **keys, KIE_MARKET_BASE_URL=refusing.url) as api,
    ):
        answer = await api.ann.post(LINK, json={"generationId": row})

    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert len(refusing.heads) == 3


@pytest.mark.parametrize("address", ["javascript:alert(1)", "", None, 7, "https://"])
async def test_an_unusable_address_from_kie_is_502(
    rows_dsn: str, pool: Any, kie: Simulator, tmp_path: Path, address: object
) -> None:
    row = await add(pool, user_id=ANN, result_urls=json.dumps([THEIRS]))
    response = kie_answer({"code": 200, "msg": "success", "data": address})
    async with origin(response) as odd, opened(rows_dsn, kie, tmp_path, KIE_MARKET_BASE_URL=odd.url) as api:
        answer = await api.ann.post(LINK, json={"generationId": row})

    assert (answer.status_code, answer.json()["error"]) == (502, "kie_unavailable")


async def test_a_kie_that_does_not_answer_is_502_after_a_bounded_time(
    rows_dsn: str, pool: Any, kie: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_url, "KIE_SECONDS", 0.2)
    row = await add(pool, user_id=ANN, result_urls=json.dumps([THEIRS]))

    async def silence(writer: asyncio.StreamWriter, _: str) -> None:
        await asyncio.Event().wait()

    async with origin(silence) as silent, opened(rows_dsn, kie, tmp_path, KIE_MARKET_BASE_URL=silent.url) as api:
        answer = await api.ann.post(LINK, json={"generationId": row})

    assert (answer.status_code, answer.json()["error"]) == (502, "kie_unavailable")


@pytest.mark.parametrize("body", ["{}", '{"url": 7}', '{"url": "\\ud800"}', '{"generationId": null}', "[]", "x", ""])
async def test_a_body_that_names_no_result_is_refused(api: ServedApi, body: str) -> None:
    answer = await api.ann.post(LINK, content=body, headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_no_address_is_logged(pool: Any, kie: Simulator, api: ServedApi) -> None:
    row, _ = await delivered(pool, kie)
    with structlog.testing.capture_logs() as lines:
        address = (await api.ann.post(LINK, json={"generationId": row})).json()["downloadUrl"]
        kie.strike("link.body_500", times=9)
        await api.ann.post(LINK, json={"generationId": row})

    assert address
    assert any(line["event"] == "request.served" for line in lines)
    assert "127.0.0.1" not in json.dumps(lines, default=str)


def kie_answer(body: object) -> bytes:
    text = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)


def _sample(outcome: str) -> tuple[str, dict[str, str]]:
    return "kie_reconciler_kie_request_seconds_count", {"endpoint": "download_url", "outcome": outcome}
