"""The shop's own table takes orders in its words, and its rows are read whichever columns they fill."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.errors import Permanent
from reconciler.operations.doctor.table import judge_orders
from reconciler.postgres.create_rates import CreateRates
from reconciler.postgres.create_requests import CreateRequests, GenerationState, Order, OrderBegun, Requester, TaskStart
from reconciler.postgres.migrations.migrate import migrate
from reconciler.postgres.poll_stats import PollStats
from reconciler.postgres.reports.reports import Reports, ReportScope
from reconciler.postgres.schema import introspect, shape
from testkit.shop_table import SHOP_USER, YEARS, made_shop, shop_insert
from tests.postgres.books import Books, opened

ORDER = Order("google/nano-banana", {"prompt": "a lighthouse"}, "image", model_key="nano", user_id=SHOP_USER)


@pytest.fixture(params=YEARS)
async def shop(empty_dsn: str, request: pytest.FixtureRequest) -> AsyncIterator[Books]:
    await made_shop(empty_dsn, request.param)
    await migrate(empty_dsn)
    async with opened(empty_dsn) as books:
        yield books


def requests(books: Books) -> CreateRequests:
    rates = CreateRates(books.database, rate=1000.0, user_rate=1000.0)
    return CreateRequests(books.database, books.table, rates=rates, provider="kie")


async def order(books: Books, order: Order) -> str:
    begun = await requests(books).begin(order, Requester(""), TaskStart("market"), ["key"], patience=45.0)
    assert isinstance(begun, OrderBegun)
    return begun.generation_id


async def test_an_order_is_written_in_the_words_that_each_column_allows(shop: Books) -> None:
    image, video = await order(shop, ORDER), await order(shop, replace(ORDER, kind="video"))
    row = await shop.generation(image)
    assert (row["kind"], row["type"]) == ("image", "photo")
    assert (row["model_key"], row["model_id"], row["model_name"]) == ("nano", "nano", "nano")
    assert row["status"] == "queued"
    assert (await shop.generation(video))["type"] == "video"
    saved = await requests(shop).save(image, "task-1", key_hash="key", dialect="market")
    assert saved == GenerationState("generating", "task-1")


async def test_an_order_of_a_kind_that_no_word_allows_is_refused_with_the_words_that_there_are(shop: Books) -> None:
    with pytest.raises(Permanent, match=r"type has no word for audio; it allows: photo, product, video") as refused:
        await order(shop, replace(ORDER, kind="audio"))
    assert refused.value.code == "row_refused"
    assert await shop.pool.fetchval("SELECT count(*) FROM public.generations") == 0


async def test_where_the_column_may_stay_empty_an_order_leaves_it_so(shop: Books) -> None:
    await shop.pool.execute("ALTER TABLE public.generations ALTER COLUMN type DROP NOT NULL")
    async with shop.pool.acquire() as connection:
        books = replace(shop, table=await introspect(connection))
    row = await books.generation(await order(books, replace(ORDER, kind="audio")))
    assert (row["kind"], row["type"]) == ("audio", None)


@pytest.mark.parametrize(
    ("columns", "kind", "model"),
    [
        pytest.param({"type": "photo"}, "image", "its-id", id="a photo of an older route"),
        pytest.param({"type": "product"}, "image", "its-id", id="a picture of a product"),
        pytest.param({"type": "video"}, "video", "its-id", id="a film of an older route"),
        pytest.param({"type": "photo", "kind": "video", "model_key": "k"}, "video", "k", id="a row of a newer route"),
        pytest.param({"type": "video", "kind": "", "model_key": ""}, "video", "its-id", id="empty words"),
        pytest.param({"type": "photo", "model_id": ""}, "image", "Its name", id="a name alone"),
    ],
)
async def test_kind_and_model_are_read_from_the_columns_that_a_row_fills(
    shop: Books, columns: dict[str, str], kind: str, model: str
) -> None:
    values = {"model_id": "its-id", "model_name": "Its name", **columns}
    generation_id = await shop.insert(status="generating", **values)
    row, _ = await shop.held(generation_id)
    assert (row.kind, row.model) == (kind, model)
    details = await Reports(shop.database, shop.table).details(generation_id)
    assert details is not None
    assert (details.generation.kind, details.generation.model) == (kind, model)
    (stuck,) = await Reports(shop.database, shop.table, ReportScope(stuck_after=timedelta())).stuck()
    assert (stuck.kind, stuck.model) == (kind, model)


async def test_each_model_has_its_own_pace(shop: Books) -> None:
    """Of each model thirty tasks took 10, or 600 seconds; the rows name it in the older column only."""
    for model, seconds in {"fast": 10.0, "slow": 600.0}.items():
        generation_id = await shop_insert(shop.pool, f"task-{model}", model=model)
        row, _ = await shop.held(generation_id)
        sql = "INSERT INTO reconciler.timings (model, took) SELECT $1, $2 FROM generate_series(1, 30)"
        await shop.pool.execute(sql, row.model, seconds)
    learned = await PollStats(shop.database, shop.table, rate=5.0).learn()
    assert learned.curves["fast"].mu < learned.curves["slow"].mu


async def test_doctor_tells_the_column_that_an_order_cannot_fill_and_its_sql_mends_it(shop: Books) -> None:
    async with shop.pool.acquire() as connection:
        assert judge_orders(await shape(connection)).word == "ok"
        await connection.execute('ALTER TABLE public.generations ADD COLUMN "Shelf" integer NOT NULL')
        check = judge_orders(await shape(connection))
        assert (check.word, "cannot fill Shelf" in check.says) == ("warn", True)
        await connection.execute(check.do)
        assert judge_orders(await shape(connection)).word == "ok"
