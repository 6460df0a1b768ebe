"""Fresh addresses for results at KIE: for whom, for what, and what KIE's refusals become."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from reconciler.http import download_url
from reconciler.kie.client import key_hash
from reconciler.simulator import Simulator
from reconciler.simulator.media.files import MediaSpec
from testkit.rows import THEIRS, add, keep
from tests.http.api import ANN, BOB, Face, opened
from tests.wire import origin

LINK = "/api/kie/downloadUrl"
PICTURE = MediaSpec(kind="image", ext="png", size=2000)


@pytest.fixture
async def face(rows_dsn: str, kie: Simulator, tmp_path: Path) -> AsyncIterator[Face]:
    ring = {"KIE_API_KEY": "first", "KIE_API_KEY_PHOTO": "second", "KIE_API_KEY_VIDEO": "third"}
    async with opened(rows_dsn, kie, tmp_path, **ring) as face:
        yield face


async def delivered(pool: Any, kie: Simulator, user_id: str | None = ANN, **order: Any) -> tuple[str, list[str]]:
    """A row with two results that lie at KIE; its id and their addresses."""
    task = kie.add_task(results=[PICTURE, PICTURE], **order)
    urls = kie.addresses(kie.tasks[task])
    return await add(pool, "success", task_id=task, user_id=user_id, result_urls=json.dumps(urls)), urls


async def task_of(pool: Any) -> str:
    return str(await pool.fetchval("SELECT task_id FROM public.generations"))


async def fetched(url: str) -> bytes:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(url)
        assert answer.status_code == 200
        return answer.content


async def test_a_result_gets_an_address_that_leads_to_it(pool: Any, kie: Simulator, face: Face) -> None:
    row, urls = await delivered(pool, kie)

    first = await face.ann.post(LINK, json={"generationId": row})
    second = await face.ann.post(LINK, json={"generationId": row, "url": urls[1]})

    for answer, url in ((first, urls[0]), (second, urls[1])):
        assert answer.status_code == 200, answer.text
        link = answer.json()
        assert (link.pop("downloadUrl").partition("?")[0], link) == (url, {"expiresIn": 1200})
        assert await fetched(answer.json()["downloadUrl"]) == await fetched(url)
        assert "X-Amz-Signature" in answer.json()["downloadUrl"]


async def test_an_address_alone_is_found_among_ones_own_rows(pool: Any, kie: Simulator, face: Face) -> None:
    _, urls = await delivered(pool, kie)

    assert (await face.ann.post(LINK, json={"url": urls[1]})).status_code == 200
    assert (await face.operator.post(LINK, json={"url": urls[1]})).status_code == 200


async def test_nobody_gets_an_address_for_anothers_results(pool: Any, kie: Simulator, face: Face) -> None:
    row, urls = await delivered(pool, kie)
    nobodys, theirs = await delivered(pool, kie, None)
    own, _ = await delivered(pool, kie, BOB)

    for asked in (
        {"generationId": row}, {"generationId": row, "url": urls[0]}, {"url": urls[0]}, {"generationId": nobodys},
        {"url": theirs[0]}, {"generationId": own, "url": urls[0]},
    ):  # fmt: skip
        answer = await face.bob.post(LINK, json=asked)
        assert (answer.status_code, answer.json()["error"]) == (404, "not_found"), asked
    assert kie.counts.links == 0
    assert (await face.nobody.post(LINK, json={"generationId": row})).status_code == 401
    assert (await face.operator.post(LINK, json={"generationId": row})).status_code == 200


async def test_only_the_very_address_of_a_result_is_minted_for(pool: Any, kie: Simulator, face: Face) -> None:
    row, urls = await delivered(pool, kie)

    for url in (urls[0] + "?", urls[0].upper(), urls[0][:-1], THEIRS, "", "\x00", "javascript:alert(1)"):
        for asked in ({"generationId": row, "url": url}, {"url": url}):
            answer = await face.ann.post(LINK, json=asked)
            assert answer.status_code == 404, (url, answer.text)
    assert kie.counts.links == 0


async def test_a_row_without_results_has_nothing_to_fetch(pool: Any, face: Face) -> None:
    row = await add(pool, user_id=ANN)

    assert (await face.ann.post(LINK, json={"generationId": row})).status_code == 404


async def test_an_address_elsewhere_is_not_sent_to_kie(pool: Any, kie: Simulator, face: Face) -> None:
    row = await add(pool, user_id=ANN, result_urls=json.dumps(["https://elsewhere.example/1.png"]))

    answer = await face.ann.post(LINK, json={"generationId": row})

    assert (answer.status_code, answer.json()["error"]) == (422, "not_kies")
    assert face.built.metrics.registry.get_sample_value(*_figure("refused")) == 0


async def test_an_address_that_kie_does_not_know_is_not_kies(pool: Any, face: Face) -> None:
    row = await add(pool, user_id=ANN, result_urls=json.dumps([THEIRS]))

    answer = await face.ann.post(LINK, json={"generationId": row})

    assert (answer.status_code, answer.json()["error"]) == (422, "not_kies")


async def test_the_key_that_made_the_task_is_asked_with(pool: Any, kie: Simulator, face: Face) -> None:
    row, _ = await delivered(pool, kie, key="third")
    await keep(
        pool, row, seen_task=await pool.fetchval("SELECT task_id FROM public.generations"), key_hash=key_hash("third")
    )

    assert (await face.ann.post(LINK, json={"generationId": row})).status_code == 200
    assert face.built.metrics.registry.get_sample_value(*_figure("ok")) == 1
    assert face.built.metrics.registry.get_sample_value(*_figure("refused")) == 0


async def test_where_the_key_is_not_known_the_ring_is_tried_in_turn(pool: Any, kie: Simulator, face: Face) -> None:
    row, _ = await delivered(pool, kie, key="third")

    assert (await face.ann.post(LINK, json={"generationId": row})).status_code == 200
    assert face.built.metrics.registry.get_sample_value(*_figure("refused")) == 2


async def test_a_key_that_was_taken_out_of_the_ring_is_not_asked_with(pool: Any, kie: Simulator, face: Face) -> None:
    row, _ = await delivered(pool, kie)
    await keep(pool, row, seen_task=await task_of(pool), key_hash="cafe")

    assert (await face.ann.post(LINK, json={"generationId": row})).status_code == 200


@pytest.mark.parametrize(
    ("fault", "status", "error"),
    [("link.body_500", 502, "kie_unavailable"), ("link.html_502", 502, "kie_unavailable"),
     ("link.body_422", 422, "not_kies")],
)  # fmt: skip
async def test_kies_refusals_become_ours(
    pool: Any, kie: Simulator, face: Face, fault: str, status: int, error: str
) -> None:
    row, _ = await delivered(pool, kie)
    kie.strike(fault, times=3)

    answer = await face.ann.post(LINK, json={"generationId": row})

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
async def test_of_several_refusals_the_most_telling_is_told(
    rows_dsn: str, pool: Any, kie: Simulator, tmp_path: Path, answers: tuple[int, ...], status: int, error: str
) -> None:
    row = await add(pool, user_id=ANN, result_urls=json.dumps([THEIRS]))
    ring = {"KIE_API_KEY": "first", "KIE_API_KEY_PHOTO": "second", "KIE_API_KEY_VIDEO": "third"}
    told = [answered({"code": code, "msg": "no", "data": None}) for code in answers]
    async with (
        origin(*told) as stubborn,
        opened(rows_dsn, kie, tmp_path, **ring, KIE_MARKET_BASE_URL=stubborn.url) as face,
    ):
        answer = await face.ann.post(LINK, json={"generationId": row})

    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert len(stubborn.heads) == 3


@pytest.mark.parametrize("minted", ["javascript:alert(1)", "", None, 7, "https://"])
async def test_what_kie_mints_is_an_address_or_nothing(
    rows_dsn: str, pool: Any, kie: Simulator, tmp_path: Path, minted: object
) -> None:
    row = await add(pool, user_id=ANN, result_urls=json.dumps([THEIRS]))
    told = answered({"code": 200, "msg": "success", "data": minted})
    async with origin(told) as odd, opened(rows_dsn, kie, tmp_path, KIE_MARKET_BASE_URL=odd.url) as face:
        answer = await face.ann.post(LINK, json={"generationId": row})

    assert (answer.status_code, answer.json()["error"]) == (502, "kie_unavailable")


async def test_nobody_is_let_wait_for_a_kie_that_hangs(
    rows_dsn: str, pool: Any, kie: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_url, "PATIENCE", 0.2)
    row = await add(pool, user_id=ANN, result_urls=json.dumps([THEIRS]))

    async def silence(writer: asyncio.StreamWriter, _: str) -> None:
        await asyncio.Event().wait()

    async with origin(silence) as deaf, opened(rows_dsn, kie, tmp_path, KIE_MARKET_BASE_URL=deaf.url) as face:
        answer = await face.ann.post(LINK, json={"generationId": row})

    assert (answer.status_code, answer.json()["error"]) == (502, "kie_unavailable")


@pytest.mark.parametrize("body", ["{}", '{"url": 7}', '{"url": "\\ud800"}', '{"generationId": null}', "[]", "x", ""])
async def test_a_body_that_names_nothing_is_refused(face: Face, body: str) -> None:
    answer = await face.ann.post(LINK, content=body, headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_no_address_is_ever_logged(pool: Any, kie: Simulator, face: Face) -> None:
    row, _ = await delivered(pool, kie)
    with structlog.testing.capture_logs() as lines:
        minted = (await face.ann.post(LINK, json={"generationId": row})).json()["downloadUrl"]
        kie.strike("link.body_500", times=9)
        await face.ann.post(LINK, json={"generationId": row})

    assert minted
    assert any(line["event"] == "request.served" for line in lines)
    assert "127.0.0.1" not in json.dumps(lines, default=str)


def answered(body: object) -> bytes:
    text = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)


def _figure(outcome: str) -> tuple[str, dict[str, str]]:
    return "kie_reconciler_kie_request_seconds_count", {"endpoint": "download_url", "outcome": outcome}
