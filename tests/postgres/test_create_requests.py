"""createTask keeps the row before the task, one row a key, and the task's id once."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from reconciler.domain.model import Trigger
from reconciler.errors import Config, Permanent
from reconciler.postgres.create_rates import CreateRates
from reconciler.postgres.create_requests import (
    CreateRequests,
    GenerationState,
    Order,
    OrderBegun,
    Requester,
    TaskStart,
)
from reconciler.postgres.migrations.migrate import migrate
from testkit.tables import member, older_table
from tests.postgres.books import USER, Books, opened

ORDER = Order("google/nano-banana", {"prompt": "a lighthouse", "n": 2}, "image", model_key="nano", user_id=USER)
NOBODY = Requester("")
KEY = "0123456789abcdef"


def create_rates(books: Books, rate: float = 1000.0, user_rate: float = 1000.0) -> CreateRates:
    """Return the rates, as one replica draws from them."""
    return CreateRates(books.database, rate=rate, user_rate=user_rate)


def create_requests(books: Books, **rates: float) -> CreateRequests:
    """Return the create requests of one replica."""
    return CreateRequests(books.database, books.table, rates=create_rates(books, **rates), provider="kie")


async def begin(books: Books, order: Order = ORDER, requester: Requester = NOBODY) -> str:
    made = await create_requests(books).begin(order, requester, TaskStart("market"), [KEY], patience=45.0)
    assert isinstance(made, OrderBegun)
    return made.generation_id


async def test_the_row_holds_all_that_the_application_would_write(books: Books) -> None:
    row = await books.generation(await begin(books))
    assert {name: row[name] for name in ("status", "kind", "model_key", "provider", "prompt", "task_id")} == {
        "status": "queued", "kind": "image", "model_key": "nano", "provider": "kie", "prompt": "a lighthouse",
        "task_id": None,
    }  # fmt: skip
    assert (str(row["user_id"]), json.loads(row["options"])) == (USER, {"prompt": "a lighthouse", "n": 2})


async def test_an_order_may_lack_a_user_and_a_model_key_and_bring_its_own_prompt(books: Books) -> None:
    row = await books.generation(await begin(books, Order("m", {"text": "x"}, "audio", prompt="shown")))
    assert (row["user_id"], row["prompt"], row["model_key"], row["kind"]) == (None, "shown", "m", "audio")


async def test_no_replica_visits_the_row_while_kie_is_asked_but_a_callback_is_followed(books: Books) -> None:
    generation_id = await begin(books)
    claims = books.claims()
    assert await claims.woken({generation_id: Trigger.NOTIFY}) == []
    assert await claims.due(10) == await claims.early(10) == []
    assert await claims.discover() == 0
    work = await books.work(generation_id)
    assert work is not None
    assert 40 < work["due_in"] <= 45
    assert len(await claims.woken({generation_id: Trigger.CALLBACK})) == 1


async def test_the_row_says_since_when_its_outcome_is_unknown(books: Books) -> None:
    generation_id = await begin(books)
    work = await books.work(generation_id)
    assert work is not None
    assert work["ordered_at"] is not None


async def test_the_task_is_written_once_and_is_due_at_once_with_its_key(books: Books) -> None:
    generation_id = await begin(books)
    saved = await create_requests(books).save(generation_id, "task-1", key_hash=KEY, dialect="market")
    assert saved == GenerationState("generating", "task-1")
    (claim,) = await books.claims().woken({generation_id: Trigger.NOTIFY})
    row = (await books.ledger().read([claim.generation_id]))[generation_id].row
    assert (row.task_id, row.key_hash, row.family) == ("task-1", KEY, "market")
    assert row.acknowledged_at is not None
    assert row.answered_at is None
    assert row.polls == 0


async def test_saving_again_changes_nothing(books: Books) -> None:
    generation_id = await begin(books)
    await create_requests(books).save(generation_id, "task-1", key_hash=KEY, dialect="market")
    before = await books.generation(generation_id)
    assert await create_requests(books).save(
        generation_id, "task-1", key_hash=KEY, dialect="market"
    ) == GenerationState("generating", "task-1")
    assert await books.generation(generation_id) == before


@pytest.mark.parametrize("status", ["cancelled", "failed", "success"])
async def test_a_row_that_has_ended_is_left_as_it_is(books: Books, status: str) -> None:
    generation_id = await begin(books)
    await books.change(generation_id, f"status = '{status}'")
    assert await create_requests(books).save(
        generation_id, "task-1", key_hash=KEY, dialect="market"
    ) == GenerationState(status, None)


async def test_a_task_that_a_callback_brought_first_stays(books: Books) -> None:
    generation_id = await begin(books)
    await books.change(generation_id, "task_id = 'task-1', status = 'generating'")
    before = await books.everything()
    assert await create_requests(books).save(
        generation_id, "task-1", key_hash=KEY, dialect="market"
    ) == GenerationState("generating", "task-1")
    assert await books.everything() == before


async def test_a_held_row_gets_its_task_and_keeps_its_holder(books: Books) -> None:
    generation_id = await begin(books)
    row, claim = await books.held(generation_id)
    assert await create_requests(books).save(
        generation_id, "task-1", key_hash=KEY, dialect="market"
    ) == GenerationState("generating", "task-1")
    work = await books.work(generation_id)
    assert work is not None
    assert (work["lease"], work["seen_task"]) == (claim.lease, None)
    # What changed is found without the notification, too.
    await books.ledger().leave(row, claim, "nothing to do")
    assert await books.claims().discover() == 1


async def test_a_deleted_row_has_no_state(books: Books) -> None:
    generation_id = await begin(books)
    await books.pool.execute("DELETE FROM public.generations")
    assert await create_requests(books).save(generation_id, "task-1", key_hash=KEY, dialect="market") is None
    assert await create_requests(books).state(generation_id) is None


async def test_an_id_that_the_table_refuses_raises_permanent(books: Books) -> None:
    await books.insert(task_id="task-1")
    await books.pool.execute("CREATE UNIQUE INDEX one_row_a_task ON public.generations (task_id)")
    try:
        with pytest.raises(Permanent) as raised:
            await create_requests(books).save(await begin(books), "task-1", key_hash=KEY, dialect="market")
    finally:
        await books.pool.execute("DROP INDEX public.one_row_a_task")
    assert raised.value.code == "row_refused"


async def test_the_login_with_the_fewest_rights_may_order(dsn: str) -> None:
    async with member(dsn, "reconciler") as address, opened(address) as books:
        generation_id = await begin(books, ORDER, Requester(USER, "key-1"))
        assert await create_rates(books).grant(KEY) == 0.0
        await create_rates(books).pause(KEY, 1.0)
        assert await create_requests(books).save(generation_id, "t", key_hash=KEY, dialect="market") == GenerationState(
            "generating", "t"
        )


def test_an_order_without_an_endpoint_has_the_digest_of_earlier_versions() -> None:
    # Idempotency-Keys are kept for three days, and replicas of two versions may run side by side.
    names = ("model", "input", "kind", "prompt", "model_key", "user_id")
    former = json.dumps({name: getattr(ORDER, name) for name in names}, sort_keys=True)
    assert ORDER.digest() == hashlib.sha256(former.encode()).hexdigest()
    assert replace(ORDER, endpoint="veo/extend").digest() != ORDER.digest()


async def test_a_task_that_is_known_beforehand_stands_in_the_row_at_once(books: Books) -> None:
    start = TaskStart("veo_1080p", "film~1080p-0")
    made = await create_requests(books).begin(ORDER, NOBODY, start, [KEY], patience=45.0)
    assert isinstance(made, OrderBegun)
    assert (await books.generation(made.generation_id))["task_id"] == "film~1080p-0"
    assert len(await books.claims().woken({made.generation_id: Trigger.NOTIFY})) == 1


async def test_the_dialect_of_an_order_is_known_before_its_task(books: Books) -> None:
    begun = await create_requests(books).begin(ORDER, NOBODY, TaskStart("veo"), [KEY], patience=45.0)
    assert isinstance(begun, OrderBegun)
    made = begun.generation_id
    row, _ = await books.held(made)
    assert (row.task_id, row.family, row.acknowledged_at) == (None, "veo", None)
    await create_requests(books).save(made, "task-1", key_hash=KEY, dialect="veo")
    work = await books.work(made)
    assert work is not None
    assert work["family"] == "veo"


async def test_one_key_makes_one_row_however_many_ask_at_once(books: Books) -> None:
    requester = Requester(USER, "key-1")
    replicas = [create_requests(books) for _ in range(2)]
    made = await asyncio.gather(
        *(replicas[n % 2].begin(ORDER, requester, TaskStart("market"), [KEY], patience=45.0) for n in range(8))
    )
    (generation_id,) = [one.generation_id for one in made if isinstance(one, OrderBegun)]
    assert await books.pool.fetchval("SELECT count(*) FROM public.generations") == 1
    stored = await replicas[1].find(requester)
    assert stored is not None
    assert (stored.generation_id, stored.digest) == (generation_id, ORDER.digest())
    assert stored.standing == GenerationState("queued", None)


async def test_the_commit_of_an_order_waits_for_the_disk(books: Books) -> None:
    """KIE is asked next: a crash of the server must not forget the row."""
    await books.pool.execute("""
        CREATE TABLE public.commits (waits text);
        CREATE FUNCTION public.committing() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN INSERT INTO public.commits VALUES (current_setting('synchronous_commit')); RETURN NULL; END$$;
        CREATE CONSTRAINT TRIGGER committing AFTER INSERT ON public.generations
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.committing()""")
    try:
        await begin(books)
        assert await books.pool.fetchval("SELECT waits FROM public.commits") == "on"
    finally:
        await books.pool.execute("DROP FUNCTION public.committing CASCADE; DROP TABLE public.commits")


async def test_a_key_belongs_to_its_caller_alone(books: Books) -> None:
    for caller in ("", USER, "another"):
        await begin(books, ORDER, Requester(caller, "key-1"))
    assert await create_requests(books).find(Requester("nobody", "key-1")) is None
    assert await create_requests(books).find(Requester(USER)) is None
    assert await books.pool.fetchval("SELECT count(*) FROM public.generations") == 3


async def test_a_row_that_is_refused_leaves_its_key_free(books: Books) -> None:
    await books.pool.execute("ALTER TABLE public.generations ADD CONSTRAINT short CHECK (length(prompt) < 20)")
    try:
        with pytest.raises(Permanent) as raised:
            await begin(books, replace(ORDER, prompt="x" * 20), Requester(USER, "key-1"))
    finally:
        await books.pool.execute("ALTER TABLE public.generations DROP CONSTRAINT short")
    assert raised.value.code == "row_refused"
    assert '"short"' in str(raised.value)
    assert "x" * 20 not in str(raised.value), "the message repeats no row"
    await begin(books, ORDER, Requester(USER, "key-1"))


async def test_a_user_that_the_table_cannot_hold_is_refused(books: Books) -> None:
    with pytest.raises(Permanent) as raised:
        await begin(books, replace(ORDER, user_id="somebody"))
    assert raised.value.code == "user_malformed"


def test_orders_differ_by_every_field() -> None:
    others = [
        replace(ORDER, **change)
        for change in (
            {"model": "x"}, {"input": {"prompt": "a lighthouse"}}, {"kind": "video"}, {"prompt": "x"},
            {"model_key": None}, {"user_id": None},
        )
    ]  # fmt: skip
    assert len({order.digest() for order in (ORDER, *others)}) == 7
    assert replace(ORDER, input={"n": 2, "prompt": "a lighthouse"}).digest() == ORDER.digest()


async def test_keys_are_forgotten_after_three_days(books: Books) -> None:
    for name in ("old", "new"):
        await begin(books, ORDER, Requester("", name))
    await books.pool.execute("UPDATE reconciler.requests SET at = now() - interval '73 hours' WHERE key = 'old'")
    await books.retention().traces()
    assert await create_requests(books).find(Requester("", "old")) is None
    assert await create_requests(books).find(Requester("", "new")) is not None


LEAST = "user_id uuid, status text NOT NULL, task_id text, asset_url text, created_at timestamptz NOT NULL"
OTHER_NAMES = """type varchar(10) NOT NULL, model_name text NOT NULL, model text NOT NULL, prompt text NOT NULL,
    options json NOT NULL, updated_at timestamptz NOT NULL"""
TABLES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "the least": (f"id uuid PRIMARY KEY, {LEAST}", "generating", {"status": "queued"}),
    "a text id": (f"id text PRIMARY KEY, {LEAST}", "generating", {}),
    "a number": (f"id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, {LEAST}", "generating", {}),
    "other names": (
        f"id uuid PRIMARY KEY, {LEAST}, {OTHER_NAMES}",
        "generating",
        {"type": "image", "model_name": "nano", "model": "google/nano-banana", "prompt": ""},
    ),
    "waiting is pending": (
        f"id uuid PRIMARY KEY, {LEAST}, CHECK (status IN ('pending', 'processing', 'completed', 'failed'))",
        "pending",
        {"status": "pending"},
    ),
    "only generating": (
        f"id uuid PRIMARY KEY, {LEAST}, CHECK (status IN ('generating', 'success', 'failed'))",
        "generating",
        {"status": "generating"},
    ),
}


@pytest.mark.parametrize("name", TABLES)
async def test_any_table_that_can_hold_an_order_gets_its_row_and_its_task(empty_dsn: str, name: str) -> None:
    columns, status, wanted = TABLES[name]
    await made(empty_dsn, f"CREATE TABLE public.generations ({columns})")
    async with opened(empty_dsn) as books:
        generation_id = await begin(books, replace(ORDER, input={}))
        row = await books.generation(generation_id)
        assert {column: row[column] for column in wanted} == wanted
        assert await create_requests(books).save(
            generation_id, "task-1", key_hash=KEY, dialect="market"
        ) == GenerationState(status, "task-1")
        assert len(await books.claims().woken({generation_id: Trigger.NOTIFY})) == 1


async def test_an_older_applications_table_takes_an_order(empty_dsn: str) -> None:
    await older(empty_dsn)
    async with opened(empty_dsn) as books:
        generation_id = await begin(books)
        row = await books.generation(generation_id)
        assert (row["type"], row["model_id"], row["model_name"], row["status"]) == ("image", "nano", "nano", "pending")
        saved = await create_requests(books).save(generation_id, "task-1", key_hash=KEY, dialect="market")
        assert saved == GenerationState("pending", "task-1")
        with pytest.raises(Permanent) as raised:
            await begin(books, replace(ORDER, user_id=None))
        assert raised.value.code == "user_needed"


REFUSING = {
    "credits": f"id uuid PRIMARY KEY, {LEAST}, credits integer NOT NULL",
    "task_id": f"id uuid PRIMARY KEY, {LEAST.replace('task_id text', 'task_id text NOT NULL')}",
    "status": f"id uuid PRIMARY KEY, {LEAST}, CHECK (status IN ('begun', 'success', 'failed'))",
    "id": f"id bigint PRIMARY KEY, {LEAST}",
}


@pytest.mark.parametrize("column", REFUSING)
async def test_a_table_that_takes_no_order_is_refused_with_the_columns_name(empty_dsn: str, column: str) -> None:
    await made(empty_dsn, f"CREATE TABLE public.generations ({REFUSING[column]})")
    async with opened(empty_dsn) as books:
        with pytest.raises(Config, match=rf"public\.generations\.{column}\b"):
            await begin(books)


async def made(dsn: str, sql: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
    await migrate(dsn)


async def older(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await older_table(connection)
    finally:
        await connection.close()
    await migrate(dsn)
