"""The callback route: what each callback is answered, what it stores, wakes and counts, and what it must not change."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
import structlog

from reconciler.domain.object_keys import CALLBACK_PATH
from reconciler.http.routes import callback
from reconciler.postgres.pool import Database
from reconciler.simulator.api.callback_bodies import callback_body, tampered
from reconciler.simulator.records.dialects import DIALECTS
from reconciler.simulator.records.records import TaskSnapshot
from reconciler.simulator.tasks import SimulatedTask, TaskLife
from testkit.standins.proxy import Proxy
from testkit.waiting import until
from tests.http.callback_client import RESULT, SECRET, Stage, market, opened_replica, opened_stage
from tests.postgres.books import OURS, Books

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(_worn: str) -> AsyncIterator[Stage]:
    async with opened_stage(_worn) as opened:
        yield opened


Arrange = Callable[[Books, str], Awaitable[str | None]]


def row(**columns: Any) -> Arrange:
    return lambda books, task: books.insert(**{"task_id": task, **columns})


async def gave_up(books: Books, task: str) -> str:
    generation_id = await books.insert(task_id=task)
    await books.claim(generation_id)
    await books.change(generation_id, "status = 'failed', error = 'no result for a day'")
    await books.set(
        generation_id, "gave_up = true, lease = NULL, lease_until = NULL, due_at = now() + interval '1 hour'"
    )
    return generation_id


async def nothing(_: Books, __: str) -> None:
    return None


CASES: dict[str, tuple[Arrange, int, str]] = {
    "in flight": (row(status="generating"), 200, "stored"),
    "queued": (row(status="queued"), 200, "stored"),
    "before the INSERT": (nothing, 202, "unknown"),
    "before task_id is saved": (row(task_id=None), 200, "stored"),
    "of another task than the row has": (row(task_id="another"), 202, "unknown"),
    "after success": (row(status="success", asset_url=OURS), 200, "late"),
    "a success without an asset": (row(status="success"), 200, "stored"),
    "after failure": (row(status="failed", error="refused"), 200, "late"),
    "after our give-up": (gave_up, 200, "stored"),
    "after cancelling": (row(status="cancelled"), 200, "late"),
}


@pytest.mark.parametrize("name", CASES)
async def test_every_callback_is_stored_answered_counted_and_wakes_its_row(stage: Stage, name: str) -> None:
    arrange, status, result = CASES[name]
    task, replica = stage.task(), stage.replica
    generation_id = await arrange(stage.books, task)
    before = await stage.versions()
    answer = await replica.call(market(task), generation=generation_id)
    assert (answer.status_code, answer.json()) == (status, {"received": True})
    assert (replica.counted(), await stage.stored(task)) == ({result: 1}, 1)
    assert replica.woken() == ({generation_id} if status == 200 else set())
    assert await stage.versions() == before


async def test_a_generation_that_is_inserted_later_finds_the_callback_of_its_task(stage: Stage) -> None:
    task, later = stage.task(), str(uuid.uuid4())
    assert (await stage.replica.call(market(task), generation=later)).status_code == 202
    await stage.books.insert(id=uuid.UUID(later), task_id=None)
    inbox = stage.replica.readiness_gate.enter().inbox
    assert await inbox.bodies(task) == (market(task),)


async def test_a_callback_changes_no_row_before_kie_has_been_asked(stage: Stage) -> None:
    task = stage.task()
    generation_id = await stage.books.insert(task_id=task, status="generating")
    before = await stage.versions()
    forged = tampered(market(task, resultJson=json.dumps({"resultUrls": ["https://tempfile.aiquickdraw.com/x.png"]})))
    assert b"stranger.example" in forged
    assert (await stage.replica.call(forged)).status_code == 200
    assert (await stage.versions(), stage.replica.woken()) == (before, {generation_id})


async def test_every_generation_of_the_task_is_woken(stage: Stage) -> None:
    task = stage.task()
    generation_ids = {await stage.books.insert(task_id=task) for _ in range(3)}
    assert (await stage.replica.call(market(task))).status_code == 200
    assert stage.replica.woken() == generation_ids


async def test_one_callback_sent_twice_to_two_replicas_at_once_is_stored_once(stage: Stage) -> None:
    task, database = stage.task(), Database(stage.dsn, size=2)
    generation_id = await stage.books.insert(task_id=task)
    async with opened_replica(database, stage.books.table) as other:
        replicas = [stage.replica, other]
        answers = await asyncio.gather(*(replica.call(market(task)) for replica in replicas * 2))
        assert [answer.status_code for answer in answers] == [200] * 4
        assert [replica.woken() for replica in replicas] == [{generation_id}, {generation_id}]
        counts = [replica.counted() for replica in replicas]
        assert sum(count.get("stored", 0) for count in counts) == 1
        assert sum(count.get("duplicate", 0) for count in counts) == 3
    await database.close()
    assert await stage.stored(task) == 1
    assert await stage.books.pool.fetchval("SELECT count FROM reconciler.callbacks WHERE task_id = $1", task) == 4


def scene(task_id: str, family: str, state: str) -> TaskSnapshot:
    task = SimulatedTask(id=task_id, family=family, model="m", life=TaskLife(), born=0.0)
    return TaskSnapshot(task=task, state=state, results=(RESULT,), covers=(RESULT,), created=0.0, completed=9.0)


@pytest.mark.parametrize("family", DIALECTS)
async def test_the_callback_of_every_family_finds_its_row(stage: Stage, family: str) -> None:
    task = stage.task()
    generation_id = await stage.books.insert(task_id=task)
    for state in ("success", "fail"):
        assert (await stage.replica.call(callback_body(scene(task, family, state)))).status_code == 200
        assert stage.replica.woken() == {generation_id}


async def test_each_of_sunos_three_callbacks_is_stored_and_only_wakes(stage: Stage) -> None:
    task = stage.task()
    generation_id = await stage.books.insert(task_id=task)
    before = await stage.versions()
    for word in ("text", "first", "complete"):
        assert (await stage.replica.call(callback_body(scene(task, "suno", "generating"), word))).status_code == 200
        assert stage.replica.woken() == {generation_id}
    assert (await stage.stored(task), await stage.versions()) == (3, before)


@pytest.mark.parametrize(
    "place", ['{"data":{"taskId":"%s"}}', '{"data":{"task_id":"%s"}}', '{"taskId":"%s","data":null}']
)
async def test_the_task_id_is_read_from_each_of_its_fields(stage: Stage, place: str) -> None:
    task = stage.task()
    generation_id = await stage.books.insert(task_id=task)
    assert (await stage.replica.call((place % task).encode())).status_code == 200
    assert stage.replica.woken() == {generation_id}


WITHOUT_TASK = {
    "no JSON": (b"taskId=untold", "not_json"),
    "nothing": (b"", "not_json"),
    "a list": (b'["untold"]', "not_json"),
    "a word": (b'"untold"', "not_json"),
    "not a number": (b'{"taskId":"untold","cost":NaN}', "not_json"),
    "not UTF-8": (b'{"taskId":"untold","x":"\xff"}', "not_json"),
    "10,000 levels": (b'{"taskId":"untold","x":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "not_json"),
    "no id": (b'{"code":200,"data":{}}', "no_task_id"),
    "a number for an id": (b'{"taskId":7}', "no_task_id"),
    "a blank id": (b'{"taskId":" "}', "no_task_id"),
    "an id with NUL": (b'{"taskId":"task\\u0000"}', "no_task_id"),
    "half a letter for an id": (b'{"taskId":"\\ud800"}', "no_task_id"),
    "an id of 301 letters": (b'{"taskId":"' + b"x" * 301 + b'"}', "no_task_id"),
    "two ids": (b'{"taskId":"untold","data":{"taskId":"other"}}', "ids_disagree"),
    "two ids in one place": (b'{"data":{"task_id":"untold","taskId":"other"}}', "ids_disagree"),
}


@pytest.mark.parametrize("name", WITHOUT_TASK)
async def test_a_body_that_names_no_task_is_refused_and_not_stored(stage: Stage, name: str) -> None:
    stage.task()
    body, error = WITHOUT_TASK[name]
    answer = await stage.replica.call(body)
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (stage.replica.counted(), stage.replica.woken(), await stage.stored("untold")) == (
        {"malformed": 1},
        set(),
        0,
    )


ODD = {
    "NUL": '"x":"a\\u0000b","\\u0000":1',
    "half a pair": '"x":"\\ud800","\\udfff":{}',
    "a huge float": '"x":1e400,"y":-1e999999',
    "a huge whole number": f'"x":{"9" * 5000}',
    "half a MiB": f'"x":"{"x" * (1 << 19)}"',
    "500 levels": f'"x":{"[" * 500}{"]" * 500}',
    "another id that a later one replaces": '"taskId":"other"',
}


@pytest.mark.parametrize("name", ODD)
async def test_odd_but_valid_json_is_stored(stage: Stage, name: str) -> None:
    task = stage.task()
    generation_id = await stage.books.insert(task_id=task)
    text = f'{{{ODD[name]},"taskId":"{task}"}}'
    for encoding in ("utf-8", "utf-8-sig"):
        assert (await stage.replica.call(text.encode(encoding))).status_code == 200
    assert (await stage.stored(task), stage.replica.woken()) == (2, {generation_id})


async def test_two_different_generations_are_refused_and_unusable_ids_are_ignored(stage: Stage) -> None:
    task = stage.task()
    generation_id = await stage.books.insert(task_id=task)
    answer = await stage.replica.call(market(task), generation=[generation_id, "another"])
    assert (answer.status_code, answer.json()["error"]) == (400, "ids_disagree")
    for name in ("", "x" * 1000, "\0", "nobody", "' OR true --", [generation_id, generation_id]):
        assert (await stage.replica.call(market(task), generation=name)).status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_two_mib_are_refused_with_and_without_a_content_length(stage: Stage, chunked: bool) -> None:
    task = stage.task()

    async def pieces() -> AsyncIterator[bytes]:
        yield f'{{"taskId":"{task}","x":"'.encode()
        for _ in range(32):
            yield b"x" * (1 << 16)
        yield b'"}'

    content = pieces() if chunked else b"".join([piece async for piece in pieces()])
    answer = await stage.replica.client.post(CALLBACK_PATH, params={"secret": SECRET}, content=content)
    assert (answer.status_code, answer.json()["error"]) == (413, "too_large")
    assert (stage.replica.counted(), await stage.stored(task)) == ({"too_large": 1}, 0)


async def test_while_the_database_is_away_the_answer_is_503_so_that_kie_sends_again(stage: Stage) -> None:
    async with Proxy(stage.dsn) as proxy:
        database = Database(proxy.dsn, size=2)
        async with opened_replica(database, stage.books.table) as replica:
            task = stage.task()
            assert (await replica.call(market(task))).status_code == 202
            await proxy.refuse()
            answer = await replica.call(market(task, more=1))
            assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
            assert int(answer.headers["retry-after"]) > 0
            assert replica.counted() == {"unknown": 1, "unavailable": 1}
            proxy.mend()
            assert (await replica.call(market(task, more=1))).status_code == 202
        await database.close()


async def test_a_database_that_does_not_answer_gives_503_before_kie_hangs_up(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callback.DATABASE_SECONDS < 15
    monkeypatch.setattr(callback, "DATABASE_SECONDS", 0.2)
    async with Proxy(stage.dsn) as proxy:
        database = Database(proxy.dsn, size=2)
        async with opened_replica(database, stage.books.table) as replica:
            await database.open()
            proxy.swallow()
            assert (await replica.call(market(stage.task()))).status_code == 503
            assert replica.counted() == {"unavailable": 1}
        await database.close()


async def test_a_draining_daemon_refuses_callbacks(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    task = stage.task()
    monkeypatch.setattr(stage.replica.readiness_gate.health, "reason", "draining")
    answer = await stage.replica.call(market(task))
    assert (answer.status_code, answer.json()["detail"]) == (503, "draining")
    assert (stage.replica.counted(), await stage.stored(task)) == ({"unavailable": 1}, 0)


async def test_the_log_names_the_task_and_the_claim_but_no_address_and_no_secret(stage: Stage) -> None:
    task = stage.task()
    generation_id = await stage.books.insert(task_id=task)
    with structlog.testing.capture_logs() as lines:
        await stage.replica.call(market(task))
        await until(lambda: any(line["event"] == "request.served" for line in lines))
    received, parsed = (line for line in lines if line["event"].startswith("callback."))
    assert (received["event"], received["task_id"], received["generation_id"]) == (
        "callback.received",
        task,
        generation_id,
    )
    assert (received["result"], received["bytes"]) == ("stored", len(json.dumps(market(task))))
    assert 0 <= received["took"] < 5
    assert (parsed["event"], parsed["says"], parsed["addresses"]) == ("callback.parsed", "ready", 1)
    assert (parsed["task_id"], parsed["generation_id"]) == (task, generation_id)
    for hidden in ("aiquickdraw", SECRET[:6]):
        assert hidden not in str(lines)
