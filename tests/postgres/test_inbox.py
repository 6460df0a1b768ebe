"""The inbox: what a callback said is kept once, whatever it holds, and those whose task it is are found with it."""

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

from reconciler.errors import Permanent, Transient
from reconciler.postgres import inbox as module
from reconciler.postgres.inbox import CROWD, FEW, MOST, CallbackMessage, Inbox, StoredCallback, storable
from reconciler.postgres.migrations.migrate import migrate
from reconciler.postgres.pool import Database
from testkit.standins.proxy import Proxy
from tests.postgres.books import OURS, THEIRS, Books, opened


@pytest.fixture
def inbox(books: Books) -> Inbox:
    return Inbox(books.database, books.shape)


def said(task_id: str = "task-1", digest: str = "d", generation_id: str | None = None, **body: Any) -> CallbackMessage:
    return CallbackMessage(task_id, generation_id, body or {"data": {"taskId": task_id}}, digest)


async def kept_rows(books: Books) -> list[tuple[Any, ...]]:
    sql = "SELECT task_id, generation_id, digest, count FROM reconciler.callbacks ORDER BY id"
    return [tuple(row) for row in await books.pool.fetch(sql)]


async def test_a_body_is_kept_once_and_counted_when_it_comes_again(books: Books, inbox: Inbox) -> None:
    row = await books.insert()
    assert await inbox.keep(said()) == StoredCallback(fresh=True, ids=(row,), ended=False)
    assert await inbox.keep(said()) == StoredCallback(fresh=False, ids=(row,), ended=False)
    assert await inbox.keep(said(digest="other")) == StoredCallback(fresh=True, ids=(row,), ended=False)
    assert await kept_rows(books) == [("task-1", None, "d", 2), ("task-1", None, "other", 1)]


async def test_of_two_at_once_exactly_one_is_the_first(books: Books) -> None:
    row = await books.insert()
    other = Database(books.database._dsn, size=2)
    replicas = [Inbox(books.database, books.shape), Inbox(other, books.shape)]
    for n in range(10):
        told = await asyncio.gather(*(replica.keep(said(digest=str(n))) for replica in replicas))
        assert sorted(kept.fresh for kept in told) == [False, True]
        assert {kept.ids for kept in told} == {(row,)}
    await other.close()


async def test_a_task_that_no_row_knows_is_kept_all_the_same(books: Books, inbox: Inbox) -> None:
    assert await inbox.keep(said()) == StoredCallback(fresh=True, ids=(), ended=False)
    assert await kept_rows(books) == [("task-1", None, "d", 1)]


async def test_the_generation_that_the_address_names_is_found_before_its_task_is_saved(
    books: Books, inbox: Inbox
) -> None:
    row = await books.insert(task_id=None)
    assert (await inbox.keep(said(generation_id=row.upper()))).ids == (row,)
    assert await kept_rows(books) == [("task-1", row, "d", 1)]


@pytest.mark.parametrize("name", ["nobody", "' OR true --", "\0", str(uuid.UUID(int=1))])
async def test_a_name_that_no_generation_has_finds_none(books: Books, inbox: Inbox, name: str) -> None:
    row = await books.insert()
    assert (await inbox.keep(said("other", generation_id=name))).ids == ()
    assert (await inbox.keep(said(generation_id=name))).ids == (row,)


async def test_every_row_of_a_task_is_found(books: Books, inbox: Inbox) -> None:
    rows = [await books.insert() for _ in range(3)]
    named = await books.insert(task_id=None)
    assert set((await inbox.keep(said(generation_id=named))).ids) == {*rows, named}


ENDS = {
    "failed": ({"status": "failed"}, True),
    "cancelled": ({"status": "cancelled"}, True),
    "delivered": ({"status": "success", "asset_url": OURS}, True),
    "unhealed": ({"status": "success"}, False),
    "in flight": ({"status": "generating"}, False),
}


@pytest.mark.parametrize("name", ENDS)
async def test_a_row_has_ended_when_nothing_is_left_to_do(books: Books, inbox: Inbox, name: str) -> None:
    columns, ended = ENDS[name]
    await books.insert(**columns)
    assert (await inbox.keep(said())).ended == ended
    await books.insert(status="queued")
    assert not (await inbox.keep(said())).ended


@pytest.mark.parametrize("fact", ["gave_up", "reopened"])
async def test_our_own_give_up_has_not_ended(books: Books, inbox: Inbox, fact: str) -> None:
    row = await books.insert(status="queued")
    await books.claim(row)
    await books.change(row, "status = 'failed'")
    assert (await inbox.keep(said())).ended
    await books.set(row, f"{fact} = true")
    assert not (await inbox.keep(said())).ended


async def test_a_large_table_without_an_index_is_not_read_through(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", 0)
    async with opened(dsn) as books:
        inbox = Inbox(books.database, books.shape)
        failed = await books.insert(status="failed")
        assert (await inbox.keep(said())).ids == (failed,)
        await books.pool.execute("DROP INDEX public.generations_task_id")
        assert (await inbox.keep(said())).ids == ()
        flying = await books.insert(status="queued")
        assert (await inbox.keep(said())).ids == (flying,)
        await books.claim(flying)
        await books.change(flying, f"status = 'success', asset_url = '{OURS}'")
        assert (await inbox.keep(said())).ids == (flying,)


@asynccontextmanager
async def numbered(dsn: str) -> AsyncIterator[Books]:
    """The books of an application that counts its rows."""
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
        inbox = Inbox(books.database, books.shape)
        row = await books.insert(task_id=None)
        assert (await inbox.keep(said(generation_id=row))).ids == (row,)
        assert (await inbox.keep(said(generation_id="9" * 30))).ids == ()
        assert (await inbox.keep(said(generation_id="no number"))).ids == ()


async def test_what_was_said_of_a_task_is_told_newest_first(books: Books, inbox: Inbox) -> None:
    await books.insert(task_id="task-1")
    for n in range(FEW):
        await inbox.keep(said("task-1", digest=f"more-{n}", n=n))
    assert [body["n"] for body in await inbox.said("task-1")] == [3, 2, 1, 0]
    assert await inbox.said("nobody") == ()


@pytest.mark.parametrize("lies", [FEW, MOST + 1])
async def test_nobody_is_listened_to_where_lies_may_have_crowded_out_the_truth(
    books: Books, inbox: Inbox, lies: int
) -> None:
    await books.insert()
    await inbox.keep(said(digest="true", true=True))
    for n in range(lies):
        await inbox.keep(said(digest=str(n), true=False))
    assert await inbox.said("task-1") == ()


async def test_the_name_of_a_row_with_another_task_neither_finds_it_nor_makes_room(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STRANGERS", 3 * module.LEAST)
    monkeypatch.setattr(module.time, "monotonic", lambda: 0.0)
    inbox = Inbox(books.database, books.shape)
    row = await books.insert()
    for n in range(3):
        assert (await inbox.keep(said(f"forged-{n}", generation_id=row))).ids == ()
    with pytest.raises(Transient):
        await inbox.keep(said("forged-3", generation_id=row))
    assert (await inbox.keep(said(generation_id=row))).ids == (row,)


async def test_who_offers_many_tasks_to_a_row_crowds_out_neither_the_first_nor_the_last(
    books: Books, inbox: Inbox
) -> None:
    row, other = await books.insert(task_id=None), await books.insert(task_id=None)
    await inbox.keep(said("other", generation_id=other))
    for n in range(3 * CROWD):
        assert (await inbox.keep(said(f"task-{n}", generation_id=row))).ids == (row,)
    kept = [task_id for task_id, *_ in await kept_rows(books)]
    ends = [*range(CROWD), *range(2 * CROWD, 3 * CROWD)]
    assert kept == ["other", *(f"task-{n}" for n in ends)]


async def test_of_one_task_the_newest_bodies_are_kept(books: Books, inbox: Inbox) -> None:
    await books.insert()
    for n in range(MOST + 5):
        await inbox.keep(said(digest=str(n), n=n))
    await inbox.keep(said("another"))
    digests = [row[2] for row in await kept_rows(books)]
    assert digests == [*(str(n) for n in range(5, MOST + 5)), "d"]


async def test_unknown_tasks_may_only_say_so_much_in_an_hour_and_known_ones_whatever_they_like(
    books: Books, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STRANGERS", 3 * module.LEAST)
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    inbox = Inbox(books.database, books.shape)
    row = await books.insert()
    for n in range(3):
        assert (await inbox.keep(said(f"stranger-{n}"))).fresh
    with pytest.raises(Transient) as full:
        await inbox.keep(said("stranger-3"))
    assert (full.value.code, len(await kept_rows(books))) == ("inbox_full", 3)
    assert (await inbox.keep(said())).ids == (row,)
    now = module.HOUR / 3 + 1
    assert (await inbox.keep(said("stranger-3"))).fresh


ODD = [
    ({"words": "a\0b", "ke\0y": ["\0"]}, {"words": "a\ufffdb", "ke\ufffdy": ["\ufffd"]}),
    ({"a": "\ud800 and \udc00 and \U0001f600"}, {"a": "\ufffd and \ufffd and \U0001f600"}),
    ({"\udfff": "\ud83d\ude00"}, {"\ufffd": "\U0001f600"}),
    ({"a": "\\u0000 and \\\0 and \\\\ud800"}, {"a": "\\u0000 and \\\ufffd and \\\\ud800"}),
    ({"a": 10**300, "b": 1e-300, "c": "", "": None}, {"a": 10**300, "b": 1e-300, "c": "", "": None}),
]


@pytest.mark.parametrize(("sent", "found"), ODD)
async def test_what_jsonb_cannot_hold_is_kept_all_the_same(inbox: Inbox, sent: Any, found: Any) -> None:
    await inbox.keep(said(body=sent))
    assert await inbox.said("task-1") == ({"body": found},)


@given(st.text(st.characters() | st.sampled_from('\0\\u"d80\ud800\udc00\U0001f600')))
def test_only_what_cannot_be_stored_is_replaced(text: str) -> None:
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert json.loads(storable({"text": text}))["text"] == whole.replace("\0", "\ufffd")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_what_is_no_json_is_refused(value: object) -> None:
    with pytest.raises(Permanent):
        storable({"value": value})


def test_what_is_nested_too_deeply_is_refused() -> None:
    deep: Any = THEIRS
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(Permanent):
        storable({"deep": deep})


async def test_a_database_that_is_away_is_transient(dsn: str) -> None:
    async with Proxy(dsn) as line, opened(dsn) as books:
        database = Database(line.dsn, size=2)
        inbox = Inbox(database, books.shape)
        assert (await inbox.keep(said())).fresh
        await line.refuse()
        with pytest.raises(Transient):
            await inbox.keep(said(digest="other"))
        line.mend()
        assert (await inbox.keep(said(digest="other"))).fresh
        await database.close()


async def test_what_was_kept_waits_for_the_disk(books: Books, inbox: Inbox) -> None:
    async with books.database.transaction() as connection:
        await connection.fetch(inbox._keep, "task-1", "d", None, "{}", True)
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
