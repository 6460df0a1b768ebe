"""How long tasks take, learned from deliveries; and what one look costs while so many are in flight."""

from __future__ import annotations

import math
import random

import pytest

from reconciler.domain import poll_interval
from reconciler.domain.model import DurationModel
from reconciler.postgres.poll_stats import KEPT, LearnedPace, PollStats
from tests.postgres.books import Books


def tempo(books: Books, rate: float = 5.0) -> PollStats:
    return PollStats(books.database, books.shape, rate=rate)


async def measured(books: Books, model: str, times: list[float]) -> None:
    sql = "INSERT INTO reconciler.timings (model, took) VALUES ($1, $2)"
    await books.pool.executemany(sql, [(model, took) for took in times])


def drawn(curve: DurationModel, count: int) -> list[float]:
    dice = random.Random(7)
    return [dice.lognormvariate(curve.mu, curve.sigma) for _ in range(count)]


async def flying(books: Books, age: float, **columns: object) -> str:
    """A task that KIE knows and works on, of this age."""
    generation_id = await books.insert(age=age, **columns)
    await books.claim(generation_id)
    await books.set(generation_id, "answered_at = now(), lease = NULL, lease_until = NULL")
    return generation_id


async def test_nothing_is_recalled_before_anything_was_learned(books: Books) -> None:
    assert await tempo(books).recall() is None


async def test_what_was_learned_is_recalled_by_everybody(books: Books) -> None:
    await measured(books, "flux", drawn(DurationModel(math.log(40), 0.5), 200))
    learned = await tempo(books).learn()
    assert await tempo(books).recall() == learned
    curve = learned.curves["flux"]
    assert math.exp(curve.mu) == pytest.approx(40, rel=0.15)
    assert curve.sigma == pytest.approx(0.5, rel=0.2)
    assert await books.pool.fetchval("SELECT n FROM reconciler.pace WHERE model = 'flux'") == 200


async def test_too_few_times_and_times_of_no_model_make_no_curve(books: Books) -> None:
    await measured(books, "rare", [10.0] * (poll_interval.MIN_COMPLETIONS - 1))
    await measured(books, "", [10.0] * 100)
    assert (await tempo(books).learn()).curves == {}


async def test_only_the_newest_times_of_a_model_count_and_are_kept(books: Books) -> None:
    await measured(books, "faster", [500.0] * 400)
    await measured(books, "faster", [5.0] * KEPT)
    await measured(books, "other", [7.0] * 10)
    curve = (await tempo(books).learn()).curves["faster"]
    assert math.exp(curve.mu) == pytest.approx(5)
    await tempo(books).trim()
    rows = await books.pool.fetch(
        "SELECT model, count(*) AS n, max(took) AS most FROM reconciler.timings GROUP BY 1 ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [("faster", KEPT, 5.0), ("other", 10, 7.0)]


async def test_tasks_that_still_run_make_a_model_slower_than_its_completions_say(books: Books) -> None:
    await measured(books, "flux", drawn(DurationModel(math.log(40), 0.5), 40))
    before = (await tempo(books).learn()).curves["flux"]
    for _ in range(30):
        await flying(books, 120, model_key="flux")
    after = (await tempo(books).learn()).curves["flux"]
    assert after.mu > before.mu


async def test_the_price_of_a_look_is_that_of_the_tasks_in_flight(books: Books) -> None:
    for _ in range(8):
        await flying(books, 30, kind="image")
    await flying(books, 150, kind="video", model_key="new")
    learned = await tempo(books, rate=0.5).learn()
    image, video = poll_interval.PRIORS["image"], poll_interval.PRIORS["video"]
    hazards = [poll_interval.hazard(image, 30)] * 8 + [poll_interval.hazard(video, 150)]
    assert learned.poll_price == pytest.approx(poll_interval.poll_price(hazards, 0.5), rel=0.05)
    assert learned.poll_price > poll_interval.MIN_POLL_PRICE


async def test_rows_that_ask_for_no_look_cost_nothing(books: Books) -> None:
    done = await flying(books, 30, status="generating")
    await books.set(done, "completed_at = now()")
    left = await flying(books, 30)
    await books.set(left, "due_at = NULL")
    unheard = await flying(books, 30)
    await books.set(unheard, "answered_at = NULL")
    ended = await flying(books, 30)
    await books.change(ended, "status = 'cancelled'")
    assert await tempo(books, rate=0.001).learn() == LearnedPace({}, poll_interval.MIN_POLL_PRICE)


async def test_learning_again_replaces_what_was_known(books: Books) -> None:
    await measured(books, "flux", [40.0] * 30)
    first = await tempo(books).learn()
    await measured(books, "flux", [80.0] * 300)
    second = await tempo(books).learn()
    assert second.curves["flux"].mu > first.curves["flux"].mu
    assert await tempo(books).recall() == second


async def test_a_running_task_is_as_old_as_its_row_or_as_the_row_has_it(books: Books) -> None:
    generation_id = await flying(books, age=30 * 86400, kind="image", model_key=None)
    old = (await tempo(books).learn()).poll_price
    await books.set(generation_id, "task_since = now() - interval '20 seconds'")
    assert (await tempo(books, rate=0.05).learn()).poll_price > old
