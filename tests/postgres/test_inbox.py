"""The inbox keeps each body of a callback once, whatever characters it holds, and finds the generations of its task."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.domain.task_attribution import OrderFacts
from reconciler.errors import Permanent, Transient
from reconciler.postgres import inbox as module
from reconciler.postgres.inbox import CROWD, FEW, MOST, CallbackMessage, Inbox, StoredCallback, storable
from reconciler.postgres.migrations.migrate import migrate
from reconciler.postgres.pool import Database
from testkit.standins.proxy import Proxy
from tests.postgres.books import OURS, THEIRS, Books, opened


@pytest.fixture
def inbox(books: Books) -> Inbox:
    return Inbox(books.database, books.table)


def message(
    task_id: str = "task-1", digest: str = "d", generation_id: str | None = None, **body: Any
) -> CallbackMessage:
    return CallbackMessage(task_id, generation_id, body or {"data": {"taskId": task_id}}, digest)


async def kept_rows(books: Books) -> list[tuple[Any, ...]]:
    sql = "SELECT task_id, generation_id, digest, count FROM reconciler.callbacks ORDER BY id"
    return [tuple(row) for row in await books.pool.fetch(sql)]


async def test_a_body_is_kept_once_and_counted_when_it_comes_again(books: Books, inbox: Inbox) -> None:
    row = await books.insert()
    assert await inbox.keep(message()) == StoredCallback(fresh=True, ids=(row,), ended=False)
    assert await inbox.keep(message()) == StoredCallback(fresh=False, ids=(row,), ended=False)
    assert await inbox.keep(message(digest="other")) == StoredCallback(fresh=True, ids=(row,), ended=False)
    assert await kept_rows(books) == [("task-1", None, "d", 2), ("task-1", None, "other", 1)]


async def test_of_two_equal_bodies_at_once_exactly_one_is_fresh(books: Books) -> None:
    row = await books.insert()
    other = Database(books.database._dsn, size=2)
    replicas = [Inbox(books.database, books.table), Inbox(other, books.table)]
    for n in range(10):
        results = await asyncio.gather(*(replica.keep(message(digest=str(n))) for replica in replicas))
        assert sorted(result.fresh for result in results) == [False, True]
        assert {result.ids for result in results} == {(row,)}
    await other.close()


async def test_a_callback_for_an_unknown_task_is_kept(books: Books, inbox: Inbox) -> None:
    assert await inbox.keep(message()) == StoredCallback(fresh=True, ids=(), ended=False)
    assert await kept_rows(books) == [("task-1", None, "d", 1)]


async def test_the_generation_that_the_address_names_is_found_before_its_task_is_saved(
    books: Books, inbox: Inbox
) -> None:
    row = await books.insert(task_id=None)
    assert (await inbox.keep(message(generation_id=row.upper()))).ids == (row,)
    assert await kept_rows(books) == [("task-1", row, "d", 1)]


@pytest.mark.parametrize("name", ["nobody", "' OR true --", "\0", str(uuid.UUID(int=1))])
async def test_a_name_without_a_generation_finds_none(books: Books, inbox: Inbox, name: str) -> None:
    row = await books.insert()
    assert (await inbox.keep(message("other", generation_id=name))).ids == ()
    assert (await inbox.keep(message(generation_id=name))).ids == (row,)


async def test_every_row_of_a_task_is_found(books: Books, inbox: Inbox) -> None:
    rows = [await books.insert() for _ in range(3)]
    named = await books.insert(task_id=None)
    assert set((await inbox.keep(message(generation_id=named))).ids) == {*rows, named}


ENDS = {
    "failed": ({"status": "failed"}, True),
    "cancelled": ({"status": "cancelled"}, True),
    "delivered": ({"status": "success", "asset_url": OURS}, True),
    "unhealed": ({"status": "success"}, False),
    "in flight": ({"status": "generating"}, False),
}


@pytest.mark.parametrize("name", ENDS)
async def test_a_row_without_work_to_do_has_ended(books: Books, inbox: Inbox, name: str) -> None:
    columns, ended = ENDS[name]
    await books.insert(**columns)
    assert (await inbox.keep(message())).ended == ended
    await books.insert(status="queued")
    assert not (await inbox.keep(message())).ended


@pytest.mark.parametrize("fact", ["gave_up", "reopened"])
async def test_a_row_that_we_gave_up_has_not_ended(books: Books, inbox: Inbox, fact: str) -> None:
    row = await books.insert(status="queued")
    await books.claim(row)
    await books.change(row, "status = 'failed'")
    assert (await inbox.keep(message())).ended
    await books.set(row, f"{fact} = true")
    assert not (await inbox.keep(message())).ended


async def test_a_large_table_without_an_index_is_not_read_through(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", 0)
    async with opened(dsn) as books:
        inbox = Inbox(books.database, books.table)
        failed = await books.insert(status="failed")
        assert (await inbox.keep(message())).ids == (failed,)
        await books.pool.execute("DROP INDEX public.generations_task_id")
        assert (await inbox.keep(message())).ids == ()
        in_flight = await books.insert(status="queued")
        assert (await inbox.keep(message())).ids == (in_flight,)
        await books.claim(in_flight)
        await books.change(in_flight, f"status = 'success', asset_url = '{OURS}'")
        assert (await inbox.keep(message())).ids == (in_flight,)


async def test_a_task_that_belongs_elsewhere_is_taken(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(dsn) as books:
        inbox = Inbox(books.database, books.table)
        generation_id = await books.insert(task_id=None)
        assert await inbox.order_facts(generation_id, "task-1") == OrderFacts(None, taken=False)
        other = await books.insert(task_id="task-1", status="success")
        assert (await inbox.order_facts(generation_id, "task-1")).taken
        assert not (await inbox.order_facts(other, "task-1")).taken
        # Without an index a large table is not searched, but our own bookkeeping is.
        monkeypatch.setattr(module, "SMALL", 0)
        await books.pool.execute("DROP INDEX public.generations_task_id")
        inbox = Inbox(books.database, books.table)
        assert not (await inbox.order_facts(generation_id, "task-1")).taken
        await books.pool.execute("INSERT INTO reconciler.work (generation_id, seen_task) VALUES ($1, 'task-1')", other)
        assert (await inbox.order_facts(generation_id, "task-1")).taken


@asynccontextmanager
async def numbered(dsn: str) -> AsyncIterator[Books]:
    """Open the bookkeeping of an application whose ids are numbers."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        """CREATE TABLE public.generations (
               id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id uuid, status text NOT NULL, task_id text,
               asset_url text, created_at timestamptz NOT NULL DEFAULT now())"""
    )
    await connection.close()
    await migrate(dsn)
    async with opened(dsn) as books:
        yield books


async def test_a_table_whose_key_is_a_number_is_understood(empty_dsn: str) -> None:
    async with numbered(empty_dsn) as books:
        inbox = Inbox(books.database, books.table)
        row = await books.insert(task_id=None)
        assert (await inbox.keep(message(generation_id=row))).ids == (row,)
        assert (await inbox.keep(message(generation_id="9" * 30))).ids == ()
        assert (await inbox.keep(message(generation_id="no number"))).ids == ()


async def test_the_bodies_of_a_task_are_returned_newest_first(books: Books, inbox: Inbox) -> None:
    await books.insert(task_id="task-1")
    for n in range(FEW):
        await inbox.keep(message("task-1", digest=f"more-{n}", n=n))
    assert [body["n"] for body in await inbox.bodies("task-1")] == [3, 2, 1, 0]
    assert await inbox.bodies("nobody") == ()


@pytest.mark.parametrize("lies", [FEW, MOST + 1])
async def test_no_body_is_believed_where_forged_ones_may_have_replaced_the_true(
    books: Books, inbox: Inbox, lies: int
) -> None:
    await books.insert()
    await inbox.keep(message(digest="true", true=True))
    for n in range(lies):
        await inbox.keep(message(digest=str(n), true=False))
    assert await inbox.bodies("task-1") == ()


async def test_the_id_of_a_row_with_another_task_neither_finds_it_nor_makes_room(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STRANGERS", 3 * module.LEAST)
    monkeypatch.setattr(module.time, "monotonic", lambda: 0.0)
    inbox = Inbox(books.database, books.table)
    row = await books.insert()
    for n in range(3):
        assert (await inbox.keep(message(f"forged-{n}", generation_id=row))).ids == ()
    with pytest.raises(Transient):
        await inbox.keep(message("forged-3", generation_id=row))
    assert (await inbox.keep(message(generation_id=row))).ids == (row,)


async def test_many_offers_to_a_row_replace_neither_the_first_nor_the_last(books: Books, inbox: Inbox) -> None:
    row, other = await books.insert(task_id=None), await books.insert(task_id=None)
    await inbox.keep(message("other", generation_id=other))
    for n in range(3 * CROWD):
        assert (await inbox.keep(message(f"task-{n}", generation_id=row))).ids == (row,)
    result = [task_id for task_id, *_ in await kept_rows(books)]
    ends = [*range(CROWD), *range(2 * CROWD, 3 * CROWD)]
    assert result == ["other", *(f"task-{n}" for n in ends)]


async def test_of_one_task_the_newest_bodies_are_kept(books: Books, inbox: Inbox) -> None:
    await books.insert()
    for n in range(MOST + 5):
        await inbox.keep(message(digest=str(n), n=n))
    await inbox.keep(message("another"))
    digests = [row[2] for row in await kept_rows(books)]
    assert digests == [*(str(n) for n in range(5, MOST + 5)), "d"]


async def test_callbacks_for_unknown_tasks_have_an_hourly_limit_and_those_for_known_ones_none(
    books: Books, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STRANGERS", 3 * module.LEAST)
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    inbox = Inbox(books.database, books.table)
    row = await books.insert()
    for n in range(3):
        assert (await inbox.keep(message(f"stranger-{n}"))).fresh
    with pytest.raises(Transient) as full:
        await inbox.keep(message("stranger-3"))
    assert (full.value.code, len(await kept_rows(books))) == ("inbox_full", 3)
    assert (await inbox.keep(message())).ids == (row,)
    now = module.HOUR / 3 + 1
    assert (await inbox.keep(message("stranger-3"))).fresh


ODD = [
    ({"words": "a\0b", "ke\0y": ["\0"]}, {"words": "a\ufffdb", "ke\ufffdy": ["\ufffd"]}),
    ({"a": "\ud800 and \udc00 and \U0001f600"}, {"a": "\ufffd and \ufffd and \U0001f600"}),
    ({"\udfff": "\ud83d\ude00"}, {"\ufffd": "\U0001f600"}),
    ({"a": "\\u0000 and \\\0 and \\\\ud800"}, {"a": "\\u0000 and \\\ufffd and \\\\ud800"}),
    ({"a": 10**300, "b": 1e-300, "c": "", "": None}, {"a": 10**300, "b": 1e-300, "c": "", "": None}),
]


@pytest.mark.parametrize(("sent", "found"), ODD)
async def test_a_body_that_jsonb_cannot_hold_is_kept_with_replacements(inbox: Inbox, sent: Any, found: Any) -> None:
    await inbox.keep(message(body=sent))
    assert await inbox.bodies("task-1") == ({"body": found},)


@given(st.text(st.characters() | st.sampled_from('\0\\u"d80\ud800\udc00\U0001f600')))
def test_only_unstorable_characters_are_replaced(text: str) -> None:
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert json.loads(storable({"text": text}))["text"] == whole.replace("\0", "\ufffd")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_a_body_that_is_no_json_is_refused(value: object) -> None:
    with pytest.raises(Permanent):
        storable({"value": value})


def test_a_body_that_is_nested_too_deeply_is_refused() -> None:
    deep: Any = THEIRS
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(Permanent):
        storable({"deep": deep})


async def test_a_database_that_is_away_is_transient(dsn: str) -> None:
    async with Proxy(dsn) as line, opened(dsn) as books:
        database = Database(line.dsn, size=2)
        inbox = Inbox(database, books.table)
        assert (await inbox.keep(message())).fresh
        await line.refuse()
        with pytest.raises(Transient):
            await inbox.keep(message(digest="other"))
        line.mend()
        assert (await inbox.keep(message(digest="other"))).fresh
        await database.close()


async def test_keeping_a_callback_waits_for_the_disk(books: Books, inbox: Inbox) -> None:
    async with books.database.transaction() as connection:
        await connection.fetch(
            *inbox._keep.present(task_id="task-1", digest="d", generation_id=None, body="{}", has_room=True)
        )
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
