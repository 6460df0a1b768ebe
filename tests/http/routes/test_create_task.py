"""`POST /api/kie/createTask`: who may order what, and how each outcome is answered."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from reconciler.simulator import Simulator
from testkit.waiting import until
from tests.http.api import ANN, BOB, ServedApi, opened
from tests.wire import ok, origin

PATH = "/api/kie/createTask"
ORDER = {"model": "nano-banana-2", "input": {"prompt": "a lighthouse"}, "kind": "image", "modelKey": "nano"}


async def rows(api: ServedApi) -> list[asyncpg.Record]:
    return await api.parts.database.fetch(
        "SELECT id::text AS id, user_id::text AS user_id, status, task_id, error FROM public.generations"
    )


async def order(client: httpx.AsyncClient, key: str | None = None, **changes: Any) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await client.post(PATH, json={**ORDER, **changes}, headers=headers)


async def test_an_end_users_order_belongs_to_them_and_returns_row_and_task(api: ServedApi, kie: Simulator) -> None:
    answer = await order(api.ann)
    (row,) = await rows(api)
    (task,) = kie.tasks
    assert answer.status_code == 201
    assert answer.json() == {"generationId": row["id"], "taskId": task, "status": "generating"}
    assert (row["user_id"], row["task_id"]) == (ANN, task)
    assert (await order(api.ann, userId=ANN)).status_code == 201


async def test_an_end_user_cannot_order_for_another_user(api: ServedApi, kie: Simulator) -> None:
    answer = await order(api.ann, userId=BOB)
    assert (answer.status_code, answer.json()["error"]) == (422, "user_not_yours")
    assert await rows(api) == []
    assert kie.counts.creates == 0


async def test_the_operator_orders_for_any_user_and_without_a_user(api: ServedApi) -> None:
    for user_id in (BOB, None):
        assert (await order(api.operator, userId=user_id)).status_code == 201
    assert {row["user_id"] for row in await rows(api)} == {BOB, None}


async def test_without_a_token_nothing_is_ordered(api: ServedApi, kie: Simulator) -> None:
    assert (await order(api.nobody)).status_code == 401
    assert kie.counts.creates == 0


MALFORMED: dict[str, object] = {
    "no model": {"input": {}, "kind": "image"},
    "an empty model": {**ORDER, "model": ""},
    "a model of two lines": {**ORDER, "model": "a\nb"},
    "an input in a string": {**ORDER, "input": "{}"},
    "another kind": {**ORDER, "kind": "smell"},
    "a callback of the caller's": {**ORDER, "callBackUrl": "https://elsewhere.example"},
    "a prompt too long": {**ORDER, "prompt": "x" * 20_001},
    "a list": [ORDER],
    "NUL": {**ORDER, "input": {"prompt": "a\x00b"}},
    "half a character": {**ORDER, "input": {"prompt": "\ud800"}},
    "half a character in a name": {**ORDER, "modelKey": "\udfff"},
    "no number": {**ORDER, "input": {"n": float("nan")}},
}


async def test_a_malformed_order_is_400_and_reaches_neither_table_nor_kie(api: ServedApi, kie: Simulator) -> None:
    for name, body in MALFORMED.items():
        headers = {"Content-Type": "application/json"}
        answer = await api.operator.post(PATH, content=json.dumps(body), headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request"), name
    assert await rows(api) == []
    assert kie.counts.creates == 0


async def test_an_input_that_is_too_long_is_413(api: ServedApi, kie: Simulator) -> None:
    answer = await order(api.operator, input={"prompt": "x" * (256 << 10)})
    assert (answer.status_code, answer.json()["error"]) == (413, "too_large")
    assert kie.counts.creates == 0


async def test_a_deeply_nested_input_is_refused_and_does_not_count_for_the_rate(api: ServedApi, kie: Simulator) -> None:
    for depth, status in ((63, 201), (64, 400), (500, 400), (930, 400), (100_000, 400)):
        content = '{"model":"m","kind":"image","input":{"a":' + "[" * depth + "]" * depth + "}}"
        answer = await api.ann.post(
            "/api/kie/createTask", content=content, headers={"Content-Type": "application/json"}
        )
        assert (depth, answer.status_code) == (depth, status)
    assert len(kie.tasks) == 1
    assert await api.parts.database.value("SELECT cardinality(recent) FROM reconciler.creations") == 1


async def test_an_idempotency_key_has_1_to_255_printable_characters(api: ServedApi) -> None:
    for key in ("", "x" * 256, "caf\u00e9", "a\tb"):
        answer = await api.operator.post(PATH, json=ORDER, headers={"Idempotency-Key": key.encode()})
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request"), key
    assert (await order(api.operator, key="x" * 255)).status_code == 201


async def test_a_repeat_is_200_with_the_same_generation(api: ServedApi, kie: Simulator) -> None:
    first, again = await order(api.ann, "key"), await order(api.ann, "key")
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    other = await order(api.ann, "key", prompt="another")
    assert (other.status_code, other.json()["error"]) == (422, "idempotency_key_reused")
    assert (await order(api.bob, "key")).status_code == 201
    assert kie.counts.creates == 2


async def test_a_repeat_for_a_deleted_generation_is_404(api: ServedApi) -> None:
    await order(api.ann, "key")
    await api.parts.database.execute("DELETE FROM public.generations")
    answer = await order(api.ann, "key")
    assert (answer.status_code, answer.json()["error"]) == (404, "not_found")


REFUSALS = {
    400: (422, "refused"),
    401: (502, "kie_unauthorized"),
    402: (402, "no_credits"),
    403: (502, "kie_unauthorized"),
    404: (422, "refused"),
    422: (422, "refused"),
    429: (429, "rate_limited"),
    433: (429, "key_capped"),
    451: (422, "refused"),
    455: (503, "kie_maintenance"),
    500: (502, "kie_refused"),
    505: (502, "kie_refused"),
}


async def test_every_refusal_of_kie_is_translated_and_fails_its_row(api: ServedApi) -> None:
    responses = [ok(b'{"code":%d,"msg":"no","data":null}' % code, "Retry-After: 7") for code in REFUSALS]
    async with origin(*responses) as refusing:
        api.parts.ordering_kie._base = refusing.url
        for code, (status, error) in REFUSALS.items():
            answer = await order(api.operator)
            body = answer.json()
            assert (answer.status_code, body["error"], body["code"], body["detail"]) == (status, error, code, "no")
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers.get("Retry-After") == ("7" if status in (429, 503) else None)
            (row,) = await rows(api)
            assert (row["id"], row["status"], row["error"]) == (body["generationId"], "failed", f"no ({code})")
            await api.parts.database.execute("DELETE FROM public.generations")
            await api.parts.database.execute("DELETE FROM reconciler.creations")
    assert len(refusing.heads) == len(REFUSALS)


async def test_an_order_over_our_rate_is_429_and_writes_no_row(rows_dsn: str, kie: Simulator, tmp_path: Path) -> None:
    async with opened(rows_dsn, kie, tmp_path, RECONCILER_CREATE_RATE="1") as api:
        await order(api.ann)
        answer = await order(api.ann)
        assert (answer.status_code, answer.json()["error"]) == (429, "create_rate")
        assert 1 <= int(answer.headers["Retry-After"]) <= 11
        assert "generationId" not in answer.json()
        assert len(await rows(api)) == 1


async def test_an_unknown_outcome_is_504_with_the_generation(api: ServedApi, kie: Simulator) -> None:
    for fault in ("create.lost", "create.reset", "create.html_502"):
        kie.strike(fault)
        answer = await order(api.ann)
        (row,) = await rows(api)
        body = answer.json()
        assert (answer.status_code, body["error"], body["generationId"]) == (504, "outcome_unknown", row["id"])
        assert (row["status"], row["task_id"]) == ("queued", None)
        await api.parts.database.execute("DELETE FROM public.generations")
    assert kie.counts.creates == 1


async def test_a_kie_that_cannot_be_reached_is_502(rows_dsn: str, kie: Simulator, tmp_path: Path) -> None:
    async with opened(rows_dsn, kie, tmp_path, KIE_MARKET_BASE_URL="http://127.0.0.1:9") as api:
        answer = await order(api.ann)
        (row,) = await rows(api)
    body = answer.json()
    assert (answer.status_code, body["error"], body["generationId"]) == (502, "kie_unavailable", row["id"])
    assert row["status"] == "failed"


async def test_a_table_that_refuses_the_order_is_422_and_one_that_refuses_all_is_500(
    api: ServedApi, kie: Simulator
) -> None:
    answer = await order(api.operator, userId="nobody in particular")
    assert (answer.status_code, answer.json()["error"]) == (422, "user_malformed")
    assert api.readiness_gate.services is not None
    strict = replace(api.parts.table.shape, needed=frozenset({"credits"}))
    api.readiness_gate.services.task_creator.requests._table = strict
    answer = await order(api.operator)
    assert (answer.status_code, answer.json()["error"]) == (500, "config")
    assert "credits" in answer.json()["detail"]
    assert kie.counts.creates == 0


async def test_the_task_id_is_saved_although_the_client_has_disconnected(api: ServedApi, kie: Simulator) -> None:
    kie.latency = 0.3
    with pytest.raises(httpx.ReadTimeout):
        await api.ann.post(PATH, json=ORDER, timeout=0.1)

    async def saved() -> bool:
        return [row["task_id"] for row in await rows(api)] == list(kie.tasks) != []

    await until(saved, what="the task id in the row")
    assert kie.counts.creates == 1


async def test_requests_to_kie_are_measured(api: ServedApi, kie: Simulator) -> None:
    await order(api.ann)
    kie.strike("create.body_402")
    await order(api.ann)
    text = (await api.nobody.get("/metrics")).text
    for outcome in ("ok", "refused"):
        assert f'kie_request_seconds_count{{endpoint="create",outcome="{outcome}"}} 1.0' in text


async def test_the_callback_secret_is_neither_answered_nor_logged(
    rows_dsn: str, kie: Simulator, tmp_path: Path, capsys: Any
) -> None:
    changes = {"KIE_CALLBACK_URL": "http://127.0.0.1:9", "KIE_CALLBACK_SECRET": "open-sesame"}
    async with opened(rows_dsn, kie, tmp_path, **changes) as api:
        answers = [await order(api.ann)]
        for fault in ("create.body_402", "create.lost"):
            kie.strike(fault)
            answers.append(await order(api.ann))
    assert "open-sesame" not in "".join(answer.text for answer in answers)
    output = capsys.readouterr()
    assert "create.sent" in output.out + output.err
    assert "open-sesame" not in output.out + output.err
