"""How long tasks take, learned from deliveries, and the price of a poll for the tasks in flight."""

from __future__ import annotations

import math
import random

import pytest

from reconciler.domain import poll_interval
from reconciler.domain.model import DurationModel
from reconciler.postgres.poll_stats import KEPT, LearnedPace, PollStats
from tests.postgres.books import Books


def poll_stats(books: Books, rate: float = 5.0) -> PollStats:
    return PollStats(books.database, books.table, rate=rate)


async def measured(books: Books, model: str, times: list[float]) -> None:
    sql = "INSERT INTO reconciler.timings (model, took) VALUES ($1, $2)"
    await books.pool.executemany(sql, [(model, took) for took in times])


def drawn(curve: DurationModel, count: int) -> list[float]:
    dice = random.Random(7)
    return [dice.lognormvariate(curve.mu, curve.sigma) for _ in range(count)]


async def in_flight(books: Books, age: float, **columns: object) -> str:
    """Insert a task of this age that KIE is working on; return its generation's id."""
    generation_id = await books.insert(age=age, **columns)
    await books.claim(generation_id)
    await books.set(generation_id, "answered_at = now(), lease = NULL, lease_until = NULL")
    return generation_id


async def test_nothing_is_recalled_before_anything_was_learned(books: Books) -> None:
    assert await poll_stats(books).recall() is None


async def test_every_replica_recalls_the_learned_figures(books: Books) -> None:
    await measured(books, "flux", drawn(DurationModel(math.log(40), 0.5), 200))
    learned = await poll_stats(books).learn()
    assert await poll_stats(books).recall() == learned
    curve = learned.curves["flux"]
    assert math.exp(curve.mu) == pytest.approx(40, rel=0.15)
    assert curve.sigma == pytest.approx(0.5, rel=0.2)
    assert await books.pool.fetchval("SELECT n FROM reconciler.pace WHERE model = 'flux'") == 200


async def test_too_few_times_and_times_of_no_model_make_no_curve(books: Books) -> None:
    await measured(books, "rare", [10.0] * (poll_interval.MIN_COMPLETIONS - 1))
    await measured(books, "", [10.0] * 100)
    assert (await poll_stats(books).learn()).curves == {}


async def test_only_the_newest_times_of_a_model_count_and_are_kept(books: Books) -> None:
    await measured(books, "faster", [500.0] * 400)
    await measured(books, "faster", [5.0] * KEPT)
    await measured(books, "other", [7.0] * 10)
    curve = (await poll_stats(books).learn()).curves["faster"]
    assert math.exp(curve.mu) == pytest.approx(5)
    await poll_stats(books).trim()
    rows = await books.pool.fetch(
        "SELECT model, count(*) AS n, max(took) AS most FROM reconciler.timings GROUP BY 1 ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [("faster", KEPT, 5.0), ("other", 10, 7.0)]


async def test_running_tasks_make_a_model_slower_than_its_completions(books: Books) -> None:
    await measured(books, "flux", drawn(DurationModel(math.log(40), 0.5), 40))
    before = (await poll_stats(books).learn()).curves["flux"]
    for _ in range(30):
        await in_flight(books, 120, model_key="flux")
    after = (await poll_stats(books).learn()).curves["flux"]
    assert after.mu > before.mu


async def test_the_price_of_a_poll_is_that_of_the_tasks_in_flight(books: Books) -> None:
    for _ in range(8):
        await in_flight(books, 30, kind="image")
    await in_flight(books, 150, kind="video", model_key="new")
    learned = await poll_stats(books, rate=0.5).learn()
    image, video = poll_interval.PRIORS["image"], poll_interval.PRIORS["video"]
    hazards = [poll_interval.hazard(image, 30)] * 8 + [poll_interval.hazard(video, 150)]
    assert learned.poll_price == pytest.approx(poll_interval.poll_price(hazards, 0.5), rel=0.05)
    assert learned.poll_price > poll_interval.MIN_POLL_PRICE


async def test_rows_that_need_no_poll_cost_nothing(books: Books) -> None:
    done = await in_flight(books, 30, status="generating")
    await books.set(done, "completed_at = now()")
    left = await in_flight(books, 30)
    await books.set(left, "due_at = NULL")
    unanswered = await in_flight(books, 30)
    await books.set(unanswered, "answered_at = NULL")
    ended = await in_flight(books, 30)
    await books.change(ended, "status = 'cancelled'")
    assert await poll_stats(books, rate=0.001).learn() == LearnedPace({}, poll_interval.MIN_POLL_PRICE)


async def test_learning_again_replaces_the_former_figures(books: Books) -> None:
    await measured(books, "flux", [40.0] * 30)
    first = await poll_stats(books).learn()
    await measured(books, "flux", [80.0] * 300)
    second = await poll_stats(books).learn()
    assert second.curves["flux"].mu > first.curves["flux"].mu
    assert await poll_stats(books).recall() == second


async def test_a_running_task_is_as_old_as_its_row_or_as_the_row_has_it(books: Books) -> None:
    generation_id = await in_flight(books, age=30 * 86400, kind="image", model_key=None)
    old = (await poll_stats(books).learn()).poll_price
    await books.set(generation_id, "task_since = now() - interval '20 seconds'")
    assert (await poll_stats(books, rate=0.05).learn()).poll_price > old
