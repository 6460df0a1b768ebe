"""Orders for every family through the same door: paid once, and settled by the callback where the answer is lost."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from reconciler.domain.model import Trigger
from reconciler.kie.create_endpoints import ENDPOINTS
from reconciler.simulator import Simulator
from reconciler.simulator.api.callback_bodies import callback_body
from reconciler.simulator.records.dialects import DIALECTS
from reconciler.simulator.records.snapshots import take_snapshot
from reconciler.simulator.records.words import LYRICS, lyric_texts, midi_notes
from tests.http.api import ANN, ServedApi, opened
from tests.wire import ok, origin

PATH = "/api/kie/createTask"
CALLS = {"KIE_CALLBACK_URL": "http://127.0.0.1:9", "KIE_CALLBACK_SECRET": "open-sesame"}

# One model of every family, as a shop orders it; "song", "stems" and "phrase" are the ids of earlier tasks.
ORDERS: dict[str, dict[str, Any]] = {
    "market": {"model": "nano-banana-2", "kind": "image", "input": {"prompt": "p"}},
    "veo": {"model": "veo3_fast", "kind": "video", "input": {"prompt": "p"}},
    "suno": {"model": "V5", "kind": "audio", "input": {"prompt": "p", "customMode": False, "instrumental": True}},
    "runway": {"model": "runway", "kind": "video", "input": {"prompt": "p", "duration": 5, "quality": "720p"}},
    "aleph": {"model": "aleph", "kind": "video", "input": {"prompt": "p", "videoUrl": "https://a.example/v.mp4"}},
    "gpt4o": {"model": "gpt4o-image", "kind": "image", "input": {"prompt": "p", "size": "1:1"}},
    "flux_kontext": {"model": "flux-kontext-pro", "kind": "image", "input": {"prompt": "p"}},
    "midjourney": {"model": "midjourney", "kind": "image", "input": {"prompt": "p", "taskType": "mj_txt2img"}},
    "luma": {"model": "luma", "kind": "video", "input": {"prompt": "p", "videoUrl": "https://a.example/v.mp4"}},
    "suno_wav": {"model": "suno-wav", "kind": "audio", "input": {"taskId": "song", "audioId": "a"}},
    "suno_stems": {"model": "suno-stems", "kind": "audio", "input": {"taskId": "song", "audioId": "a"}},
    "suno_video": {"model": "suno-mp4", "kind": "video", "input": {"taskId": "song", "audioId": "a"}},
    "suno_cover": {
        "model": "suno", "kind": "image", "endpoint": "suno/cover/generate", "input": {"taskId": "song"},
    },
    "suno_lyrics": {"model": "suno-lyrics", "kind": "audio", "input": {"prompt": "a quiet harbour"}},
    "suno_midi": {"model": "suno-midi", "kind": "audio", "input": {"taskId": "stems"}},
    "suno_voice": {
        "model": "suno-voice", "kind": "audio",
        "input": {"taskId": "phrase", "verifyUrl": "https://a.example/v.mp3"},
    },
}  # fmt: skip
EARLIER = {"song": "suno", "stems": "suno_stems", "phrase": "suno_voice_phrase"}


@pytest.fixture
async def api(rows_dsn: str, kie: Simulator, tmp_path: Path) -> AsyncIterator[ServedApi]:
    async with opened(rows_dsn, kie, tmp_path, **CALLS) as served:
        for task_id, family in EARLIER.items():
            kie.add_task(family=family, task_id=task_id)
        yield served


async def row(api: ServedApi) -> asyncpg.Record:
    (found,) = await api.parts.database.fetch(
        """SELECT g.id::text AS id, g.status, g.task_id, g.error, g.user_id::text AS user_id, w.family, w.why
             FROM public.generations g JOIN reconciler.work w ON w.generation_id = g.id::text"""
    )
    return found


def made(kie: Simulator) -> str:
    """The id of the one task that was ordered."""
    (task,) = set(kie.tasks) - set(EARLIER)
    return task


async def call_back(api: ServedApi, kie: Simulator, task_id: str, address: str) -> httpx.Response:
    """Post the callback that KIE sends when this task ends, to the address that it was given."""
    task = kie.tasks[task_id]
    body = callback_body(take_snapshot(kie, task, task.state(kie.clock.now())))
    parts = urlsplit(address)
    return await api.nobody.post(f"{parts.path}?{parts.query}", json=body)


@pytest.mark.sample(8)
@pytest.mark.parametrize("family", ORDERS)
async def test_an_order_of_every_family_is_asked_about_at_its_own_page_and_delivered(
    api: ServedApi, kie: Simulator, family: str
) -> None:
    answer = await api.ann.post(PATH, json=ORDERS[family])
    task = made(kie)
    assert (answer.status_code, answer.json()["taskId"]) == (201, task), answer.text
    assert kie.tasks[task].family == family
    ordered = await row(api)
    assert (ordered["task_id"], ordered["family"], ordered["user_id"]) == (task, family, ANN)
    kie.end(task)
    await api.parts.worker.once(ordered["id"], Trigger.NOTIFY)
    assert (await row(api))["status"] == "success"
    # The first poll asked the right page: no request was spent on another.
    assert (kie.counts.records, kie.counts.creates) == (1, 1)


# The types of what the families of words make, and what the JSON document among them holds.
DOCUMENTS: dict[str, tuple[list[str], Callable[[str], object]]] = {
    "suno_lyrics": (["application/json", "text/plain"], lambda _: lyric_texts("errorMessage")),
    "suno_midi": (["application/json"], lambda _: midi_notes()["instruments"]),
    "suno_voice": (["application/json"], lambda task: {"voiceId": f"voice_{task[:16]}"}),
}


@pytest.mark.parametrize("family", DOCUMENTS)
async def test_words_that_were_ordered_arrive_as_documents(
    api: ServedApi, kie: Simulator, family: str, tmp_path: Path
) -> None:
    types, content = DOCUMENTS[family]
    await api.ann.post(PATH, json=ORDERS[family])
    task = made(kie)
    kie.end(task)
    await api.parts.worker.once((await row(api))["id"], Trigger.NOTIFY)
    assets = await api.parts.database.fetch("SELECT path, mime FROM reconciler.assets ORDER BY n")
    assert [asset["mime"] for asset in assets] == types
    document, *plain = [(tmp_path / "files" / asset["path"]).read_text() for asset in assets]
    assert json.loads(document) == content(task)
    assert plain == ["\n\n".join(text for _, text in LYRICS)] * (len(types) - 1)


# The earlier task that an order continues, where it is not a song.
PARENTS = {
    "veo/extend": "veo", "veo/get-4k-video": "veo", "runway/extend": "runway", "midi/generate": "suno_stems",
    "voice/generate": "suno_voice_phrase",
}  # fmt: skip
INPUT = {
    "prompt": "p", "audioId": "a", "uploadUrl": "https://a.example/x.mp3", "videoUrl": "https://a.example/v.mp4",
    "title": "t", "style": "s", "tags": "g", "negativeTags": "n", "verifyUrl": "https://a.example/v.mp3", "size": "1:1",
    "uploadUrlList": ["https://a.example/1.mp3", "https://a.example/2.mp3"], "duration": 5, "quality": "720p",
    "infillStartS": 1, "infillEndS": 9, "taskType": "mj_txt2img", "instrumental": True, "customMode": False,
}  # fmt: skip
SIMULATED = {path.removeprefix("/api/v1/") for family in DIALECTS.values() for path in family.creates}


@pytest.mark.sample(6)
@pytest.mark.parametrize("name", [endpoint.name for endpoint in ENDPOINTS if endpoint.name in SIMULATED])
async def test_the_first_poll_of_every_endpoints_task_asks_the_page_that_knows_it(
    api: ServedApi, kie: Simulator, name: str
) -> None:
    parent = kie.add_task(family=PARENTS[name]) if name in PARENTS else "song"
    model = "V5" if name.startswith("generate") else "nano-banana-2" if name == "jobs/createTask" else "a model"
    order = {"model": model, "kind": "audio", "endpoint": name, "input": {**INPUT, "taskId": parent}}
    answer = await api.operator.post(PATH, json=order)
    assert answer.status_code == 201, answer.text
    await api.parts.worker.once(answer.json()["generationId"], Trigger.NOTIFY)
    task = kie.tasks[answer.json()["taskId"]]
    assert (task.polls, kie.counts.records) == (1, 1)
    assert (await row(api))["family"] == task.family


def silence(kie: Simulator, task_id: str) -> None:
    """Let the record of a task repeat nothing of its order, as some pages show it."""
    task = kie.tasks[task_id]
    task.param, task.callback_url = '{"prompt":"p"}', None
    task.answers.clear()


@pytest.mark.sample(6)
@pytest.mark.parametrize("silent", [False, True], ids=["repeated", "silent"])
@pytest.mark.parametrize("family", ORDERS)
async def test_a_lost_answer_is_settled_by_the_callback_and_paid_once(
    api: ServedApi, kie: Simulator, family: str, silent: bool
) -> None:
    kie.strike("create.lost")
    answer = await api.ann.post(PATH, json=ORDERS[family])
    ordered = await row(api)
    assert (answer.status_code, answer.json()["error"]) == (504, "outcome_unknown"), answer.text
    assert answer.json()["generationId"] == ordered["id"]
    assert (ordered["status"], ordered["task_id"]) == ("queued", None)
    task = made(kie)
    address = kie.tasks[task].callback_url
    assert address is not None
    if silent:
        silence(kie, task)
    kie.end(task)
    assert (await call_back(api, kie, task, address)).status_code == 200
    await api.parts.worker.once(ordered["id"], Trigger.CALLBACK)
    settled = await row(api)
    if silent and family == "market":
        assert (settled["status"], settled["task_id"]) == ("queued", None)
        assert settled["why"].endswith(f"the record of {task} names another generation or none")
    else:
        assert (settled["status"], settled["task_id"], settled["family"]) == ("success", task, family)
    assert kie.counts.creates == 1


REFUSAL = ok(b'{"code":422,"msg":"The prompt is required.","data":null}')
UNKNOWN = {"no answer": b"", "a gateway": ok(b'{"code":504,"msg":"Gateway Timeout","data":null}')}


@pytest.mark.sample(4)
@pytest.mark.parametrize("family", ORDERS)
async def test_a_refusal_fails_the_row_with_kies_reason(api: ServedApi, family: str) -> None:
    async with origin(REFUSAL) as refusing:
        api.parts.ordering_kie._base = refusing.url
        answer = await api.operator.post(PATH, json=ORDERS[family])
    assert (answer.status_code, answer.json()["error"]) == (422, "refused")
    failed = await row(api)
    assert (failed["status"], failed["error"]) == ("failed", "The prompt is required. (422)")
    assert len(refusing.heads) == 1


@pytest.mark.sample(6)
@pytest.mark.parametrize("what", UNKNOWN)
@pytest.mark.parametrize("family", ORDERS)
async def test_an_unknown_outcome_is_504_and_nothing_is_sent_again(
    api: ServedApi, kie: Simulator, family: str, what: str
) -> None:
    async with origin(UNKNOWN[what]) as losing:
        api.parts.ordering_kie._base = losing.url
        answer = await api.operator.post(PATH, json=ORDERS[family], headers={"Idempotency-Key": "k"})
        ordered = await row(api)
        assert (answer.status_code, answer.json()["generationId"]) == (504, ordered["id"])
        again = await api.operator.post(PATH, json=ORDERS[family], headers={"Idempotency-Key": "k"})
        assert (again.status_code, again.json()["taskId"]) == (200, None)
        await api.parts.worker.once(ordered["id"], Trigger.SYNC)
        assert (await row(api))["status"] == "queued"
    assert len(losing.heads) == 1
    assert kie.counts.creates == 0


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"model": "m", "endpoint": "veo/create"}, "endpoint_unknown"),
    "no path": ({"model": "m", "endpoint": "../generate"}, "invalid_request"),
    "another family's": ({"model": "V5", "endpoint": "veo/generate"}, "endpoint_contradicts_model"),
    "inline": ({"model": "suno", "endpoint": "style/generate"}, "endpoint_without_task"),
    "a callback of the caller's": (
        {"model": "veo3", "input": {"callBackUrl": "https://elsewhere.example"}}, "invalid_request",
    ),
    "1080p of nothing": ({"model": "veo3", "endpoint": "veo/get-1080p-video"}, "invalid_request"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
async def test_an_order_that_no_endpoint_takes_is_400_and_writes_nothing(
    api: ServedApi, kie: Simulator, what: str
) -> None:
    body, error = BAD[what]
    answer = await api.operator.post(PATH, json={"kind": "video", "input": {}, **body})
    assert (answer.status_code, answer.json()["error"]) == (400, error), answer.text
    assert await api.parts.database.value("SELECT count(*) FROM public.generations") == 0
    assert await api.parts.database.value("SELECT count(*) FROM reconciler.creations") == 0
    assert kie.counts.creates == 0
    if error == "endpoint_unknown":
        assert "veo/generate" in answer.json()["detail"]


async def test_the_same_key_with_another_endpoint_is_another_order(api: ServedApi) -> None:
    order = {"model": "my music", "kind": "audio", "input": {"prompt": "p"}, "endpoint": "generate"}
    first = await api.ann.post(PATH, json=order, headers={"Idempotency-Key": "k"})
    again = await api.ann.post(PATH, json=order, headers={"Idempotency-Key": "k"})
    other = await api.ann.post(PATH, json={**order, "endpoint": "generate/extend"}, headers={"Idempotency-Key": "k"})
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 422)
    assert other.json()["error"] == "idempotency_key_reused"


async def test_the_api_page_lists_every_endpoint(api: ServedApi) -> None:
    schema = (await api.nobody.get("/openapi.json")).json()["components"]["schemas"]["CreateTaskBody"]
    names = schema["properties"]["endpoint"]["enum"]
    assert {"jobs/createTask", "veo/get-1080p-video", "lyrics", "modify/generate", None} <= set(names)
