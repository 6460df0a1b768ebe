"""The routes of generations: the fields of a row, who sees which rows, paging and filters."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from reconciler.operations.explain import explain
from testkit.rows import HOUR, OURS, THEIRS, add, keep, store
from tests.http.api import ANN, BOB, ServedApi

MINUTE = timedelta(minutes=1)
LIST = "/api/generations"


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()["generations"]]


async def test_a_delivered_generation_is_shown_from_our_storage(pool: Any, api: ServedApi) -> None:
    ours = [f"{OURS}/one.png", f"{OURS}/two.png"]
    row = await add(
        pool, "success", HOUR, user_id=ANN, prompt="a heron", task_id="t-1", asset_url=ours[0],
        asset_urls=json.dumps(ours), result_urls=json.dumps([THEIRS]), preview_url="https://preview.example/1.png",
    )  # fmt: skip
    await keep(pool, row, seen_task="t-1", why="not for users", delivered_at_in=-3570)

    answer = await api.ann.get(f"{LIST}/{row}")

    body = answer.json()
    moments = ("createdAt", "startedAt", "completedAt", "serverTime")
    born, started, done, now = (datetime.fromisoformat(body.pop(key)) for key in moments)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert body == {
        "id": row, "userId": ANN, "taskId": "t-1", "status": "success", "results": None, "kind": "image",
        "model": "flux-2/pro", "prompt": "a heron", "error": None, "assetUrl": ours[0], "assetUrls": ours,
        "resultUrls": [THEIRS], "previewUrl": "https://preview.example/1.png", "displayUrl": ours[0],
        "displaySource": "asset", "expectedSeconds": 30.0, "progress": None,
    }  # fmt: skip
    assert started == born
    assert (now - born).total_seconds() == pytest.approx(3600, abs=5)
    assert (done - born).total_seconds() == pytest.approx(30, abs=1)


@pytest.mark.parametrize(
    ("asset", "results", "preview", "shown", "source"),
    [
        (f"{OURS}/1.png", [THEIRS], "https://p.example/1", f"{OURS}/1.png", "asset"),
        (None, [THEIRS, f"{THEIRS}?2"], "https://p.example/1", THEIRS, "result"),
        (None, [], "https://p.example/1", "https://p.example/1", "preview"),
        ("javascript:alert(1)", [7, {"url": "x"}], "data:text/html,x", None, None),
        ("", None, None, None, None),
    ],
)
async def test_the_displayed_address_is_chosen_by_priority(
    pool: Any, api: ServedApi, asset: str, results: object, preview: str, shown: str | None, source: str | None
) -> None:
    urls = None if results is None else json.dumps(results)
    row = await add(pool, "success", user_id=ANN, asset_url=asset, result_urls=urls, preview_url=preview)

    body = (await api.ann.get(f"{LIST}/{row}")).json()

    assert (body["displayUrl"], body["displaySource"]) == (shown, source)


async def test_without_asset_urls_the_asset_url_is_the_only_asset(pool: Any, api: ServedApi) -> None:
    row = await add(pool, "success", user_id=ANN, asset_url=f"{OURS}/1.png")

    assert (await api.ann.get(f"{LIST}/{row}")).json()["assetUrls"] == [f"{OURS}/1.png"]


async def test_a_row_in_flight_has_a_progress(pool: Any, api: ServedApi) -> None:
    await pool.execute("INSERT INTO reconciler.pace (model, mu, sigma) VALUES ('veo3', $1, 0.5)", math.log(600))
    row = await add(pool, age=10 * MINUTE, user_id=ANN, model_key="veo3", kind="video")
    ended = await add(pool, "failed", age=10 * MINUTE, user_id=ANN, model_key="veo3", kind="video", error="nsfw")

    in_flight, failed = [(await api.ann.get(f"{LIST}/{name}")).json() for name in (row, ended)]

    # Half of such videos are done after ten minutes.
    assert in_flight["expectedSeconds"] == pytest.approx(600)
    assert in_flight["progress"] == pytest.approx(0.95 / 2, abs=0.01)
    assert (failed["progress"], failed["expectedSeconds"], failed["error"]) == (None, 600, "nsfw")


async def test_the_progress_counts_from_the_present_task(pool: Any, api: ServedApi) -> None:
    await pool.execute("INSERT INTO reconciler.pace (model, mu, sigma) VALUES ('veo3', $1, 0.5)", math.log(600))
    row = await add(pool, age=50 * HOUR, user_id=ANN, model_key="veo3", kind="video")
    await keep(pool, row, task_since_in=-600)

    in_flight = (await api.ann.get(f"{LIST}/{row}")).json()

    assert in_flight["progress"] == pytest.approx(0.95 / 2, abs=0.01)


async def test_the_pages_of_the_list_go_from_the_newest_to_the_oldest(pool: Any, api: ServedApi) -> None:
    rows = [await add(pool, age=n * MINUTE, user_id=ANN) for n in range(5)]

    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    for _ in range(3):
        answer = await api.ann.get(LIST, params=query)
        seen += ids(answer)
        query["cursor"] = answer.json()["nextCursor"]

    assert seen == rows
    assert query["cursor"] is None
    assert (await api.ann.get(LIST, params={"limit": 5})).json()["nextCursor"] is None


async def test_a_user_cannot_list_or_read_rows_of_others(pool: Any, api: ServedApi) -> None:
    hers, his, nobodys = await add(pool, user_id=ANN), await add(pool, user_id=BOB), await add(pool)

    assert ids(await api.ann.get(LIST)) == [hers]
    assert ids(await api.bob.get(LIST)) == [his]
    assert ids(await api.ann.get(LIST, params={"userId": BOB})) == []
    assert ids(await api.ann.get(LIST, params={"userId": ANN.upper()})) == [hers]
    unknown = await api.ann.get(f"{LIST}/{uuid4()}")
    for foreign in (his, nobodys):
        answer = await api.ann.get(f"{LIST}/{foreign}")
        same = [{**one.json(), "requestId": ""} for one in (answer, unknown)]
        assert (answer.status_code, same[0]) == (404, same[1])
    assert (await api.bob.get(f"{LIST}/{his}")).status_code == 200


async def test_a_cursor_of_another_users_row_shows_only_own_rows(pool: Any, api: ServedApi) -> None:
    for n in range(3):
        await add(pool, age=n * MINUTE, user_id=BOB)
    hers = await add(pool, age=10 * MINUTE, user_id=ANN)
    cursor = (await api.bob.get(LIST, params={"limit": 1})).json()["nextCursor"]

    assert ids(await api.ann.get(LIST, params={"cursor": cursor})) == [hers]


async def test_the_operator_sees_all_rows_and_can_filter_by_user(pool: Any, api: ServedApi) -> None:
    hers, his, nobodys = await add(pool, user_id=ANN), await add(pool, user_id=BOB), await add(pool)

    assert set(ids(await api.operator.get(LIST))) == {hers, his, nobodys}
    assert ids(await api.operator.get(LIST, params={"userId": BOB})) == [his]
    assert ids(await api.operator.get(LIST, params={"userId": "no uuid"})) == []


async def test_without_a_token_the_answer_is_401(pool: Any, api: ServedApi) -> None:
    row = await add(pool)

    for path in (LIST, f"{LIST}/{row}"):
        assert (await api.nobody.get(path)).status_code == 401


async def test_only_the_operator_gets_the_story(pool: Any, api: ServedApi) -> None:
    row = await add(pool, user_id=ANN)
    await keep(pool, row, why="KIE says waiting", looks=3, looked_at_in=-4, due_at_in=4)

    body = (await api.operator.get(f"{LIST}/{row}")).json()["story"]

    assert body["why"].endswith("The last attempt: KIE says waiting.")
    assert "Status generating" in body["row"]
    assert "story" not in (await api.ann.get(f"{LIST}/{row}")).json()
    assert all("story" not in one for one in (await api.operator.get(LIST)).json()["generations"])


async def test_only_the_operator_gets_the_reason_why_a_row_is_stuck(pool: Any, api: ServedApi) -> None:
    young = await add(pool, user_id=ANN, age=MINUTE)
    newer, older = [await add(pool, user_id=ANN, age=age) for age in (HOUR, 2 * HOUR)]
    await keep(pool, older, why="KIE: timeout")

    answer = await api.operator.get(LIST, params={"stuck": "true"})

    assert [(one["id"], one["why"]) for one in answer.json()["generations"]] == [
        (older, "KIE: timeout"), (newer, "no replica has looked at it yet"),
    ]  # fmt: skip
    hers = await api.ann.get(LIST, params={"stuck": "true"})
    assert ids(hers) == [older, newer]
    assert all("why" not in one for one in hers.json()["generations"])
    assert ids(await api.bob.get(LIST, params={"stuck": "true"})) == []
    assert young in ids(await api.ann.get(LIST))


async def test_the_list_is_filtered_by_status_and_by_group(pool: Any, api: ServedApi) -> None:
    rows = {status: await add(pool, status, user_id=ANN) for status in ("queued", "generating", "success", "failed")}

    async def found(status: str) -> set[str]:
        return set(ids(await api.ann.get(LIST, params={"status": status})))

    assert await found("failed") == {rows["failed"]}
    assert await found("queued") == {rows["queued"]}
    assert await found("working") == {rows["queued"], rows["generating"]}
    assert await found("ready") == {rows["success"]}
    assert await found("unheard-of") == set()


@pytest.mark.parametrize("name", ["no id", "1", "..", "%00", "%ff", "é", "x" * 900])
async def test_a_value_that_is_no_id_is_not_found(api: ServedApi, name: str) -> None:
    for client in (api.ann, api.operator):
        answer = await client.get(f"{LIST}/{name}", follow_redirects=False)
        assert (answer.status_code, answer.json()["error"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("query", "error"),
    [("cursor=x", "bad_cursor"), ("cursor=W10", "bad_cursor"), ("limit=0", "invalid_request"),
     ("limit=101", "invalid_request"), ("limit=many", "invalid_request"), ("status=%00", "invalid_request"),
     ("stuck=perhaps", "invalid_request"), ("cursor=", "bad_cursor"), ("stuck=1&cursor=W10", "bad_cursor")],
)  # fmt: skip
async def test_an_invalid_query_is_refused(api: ServedApi, query: str, error: str) -> None:
    answer = await api.ann.get(f"{LIST}?{query}")

    assert (answer.status_code, answer.json()["error"]) == (400, error)


async def test_a_draining_daemon_answers_503_with_a_retry_after(api: ServedApi) -> None:
    api.readiness_gate.health.reason = "draining"

    answer = await api.ann.get(LIST)

    assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) > 0


async def test_the_story_holds_the_sentences_of_explain(pool: Any, api: ServedApi) -> None:
    row = await add(pool, "generating", HOUR, user_id=ANN)
    await keep(pool, row, why="storage: http_5xx", sources=[THEIRS], looks=2, looked_at_in=-300, due_at_in=3000)
    await store(pool, row, [100])
    (case,) = await api.parts.reports.explain(row)

    body = (await api.operator.get(f"{LIST}/{row}")).json()["story"]
    assert untimed(body) == untimed(explain(case, api.parts.settings))
    assert list(body)[-1] == "1."
    assert "story" not in (await api.ann.get(f"{LIST}/{row}")).json()


def untimed(story: Mapping[str, str]) -> Mapping[str, str]:
    """Return the sentences without relative times, which change from one second to the next."""
    return {about: re.sub(r"\b(in )?[\d.]+ (s|min|h|d)\b( ago)?", "", sentence) for about, sentence in story.items()}


HOLE = json.dumps([{"key": "a", "n": 0, "addresses": [THEIRS]}, {"key": "#1", "n": 1, "addresses": []}])


async def test_the_owner_sees_how_many_results_are_announced_stored_and_missing(pool: Any, api: ServedApi) -> None:
    row, other = await add(pool, "success", HOUR, user_id=ANN), await add(pool, user_id=ANN, task_id="t-2")
    await keep(pool, row, sources=[THEIRS], results=HOLE, shown=1)
    await store(pool, row, [100])

    for caller in (api.ann, api.operator):
        body = (await caller.get(f"{LIST}/{row}")).json()
        assert body["results"] == {"announced": 2, "stored": 1, "missing": ["#1"]}
    assert (await api.ann.get(f"{LIST}/{other}")).json()["results"] is None
    assert (await api.bob.get(f"{LIST}/{row}")).status_code == 404
