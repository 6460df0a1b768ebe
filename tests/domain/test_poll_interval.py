"""How long to wait between polls: duration models, the poll price, the waits after failures."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from reconciler.domain import poll_interval
from reconciler.domain.model import DurationModel
from reconciler.domain.object_keys import MEDIA_KINDS
from testkit.poll_simulation import POLICIES, Delays, fleet, simulate, table

MODELS = st.builds(DurationModel, mu=st.floats(min_value=0, max_value=10), sigma=st.floats(min_value=0.01, max_value=2))
YEARS = 10 * 366 * 86400.0
AGES = st.floats(min_value=0, max_value=YEARS)
PRICES = st.floats(min_value=0, max_value=1e6)
JITTERS = st.floats(min_value=0, max_value=1, exclude_max=True)
IMAGE = DurationModel(math.log(25), 0.5)


def waste_by_definition(model: DurationModel, since: float, until: float) -> float:
    """Return the expected waste by its definition: a sum over thin slices of P(done by u | not done)."""
    slices = 4000
    width = (until - since) / slices
    spread = model.sigma * math.sqrt(2)

    def unfinished(age: float) -> float:
        return 0.01 + 0.99 * math.erfc((math.log(age) - model.mu) / spread) / 2

    at_start = unfinished(since) if since else 1.0
    return sum(1 - unfinished(since + (n + 0.5) * width) / at_start for n in range(slices)) * width


def test_a_learned_duration_model_is_used_before_the_prior_of_the_kind():
    learned = {"veo3": DurationModel(4.0, 0.3)}

    assert poll_interval.duration_model("veo3", "video", learned) == DurationModel(4.0, 0.3)


@pytest.mark.parametrize("kind", ["image", "video", "audio"])
def test_an_unknown_model_gets_the_prior_of_its_kind(kind: str):
    assert poll_interval.duration_model("new", kind, {"veo3": DurationModel(4.0, 0.3)}) == poll_interval.PRIORS[kind]


@pytest.mark.parametrize("kind", [None, "photo"])
def test_a_row_without_a_known_kind_or_model_gets_the_general_prior(kind: str | None):
    assert poll_interval.duration_model(None, kind, {}) == poll_interval.PRIORS[None]


def test_every_kind_of_result_has_a_prior():
    assert set(poll_interval.PRIORS) == {*MEDIA_KINDS, None}


def test_half_of_the_tasks_are_done_at_the_median():
    assert poll_interval.median_seconds(IMAGE) == pytest.approx(25)
    assert poll_interval.progress(IMAGE, poll_interval.median_seconds(IMAGE)) == pytest.approx(0.95 / 2)


@given(model=MODELS, age=AGES, later=AGES)
def test_progress_only_grows_and_stays_below_one(model: DurationModel, age: float, later: float):
    earlier, last = poll_interval.progress(model, min(age, later)), poll_interval.progress(model, max(age, later))

    assert 0 <= earlier <= last <= 0.95


def test_progress_begins_at_zero_even_for_a_row_from_the_future():
    assert poll_interval.progress(IMAGE, 0) == poll_interval.progress(IMAGE, -3600) == pytest.approx(0, abs=1e-9)


@given(model=MODELS, age=AGES)
def test_the_hazard_is_finite_at_any_age_up_to_years(model: DurationModel, age: float):
    hazard = poll_interval.hazard(model, age)

    assert math.isfinite(hazard)
    assert hazard >= 0


def test_the_hazard_is_the_fall_of_the_unfinished_share():
    for age in (10.0, 25.0, 60.0):
        ended = poll_interval.unfinished(IMAGE, age - 0.01) - poll_interval.unfinished(IMAGE, age + 0.01)

        assert poll_interval.hazard(IMAGE, age) == pytest.approx(
            ended / 0.02 / poll_interval.unfinished(IMAGE, age), rel=1e-4
        )


def test_a_task_far_past_its_time_probably_never_ends():
    assert poll_interval.unfinished(IMAGE, 3600) == pytest.approx(0.01)
    assert poll_interval.hazard(IMAGE, 3600) < 1e-9 < poll_interval.hazard(IMAGE, 30)


@pytest.mark.parametrize(("since", "until"), [(0, 15), (0, 60), (20, 30), (40, 400), (300, 900)])
def test_the_closed_form_of_the_waste_is_its_integral(since: float, until: float):
    assert poll_interval.expected_waste(IMAGE, since, until) == pytest.approx(
        waste_by_definition(IMAGE, since, until), rel=1e-3, abs=1e-6
    )


@given(model=MODELS, since=AGES, first=AGES, more=AGES)
def test_the_waste_grows_with_the_wait_and_never_exceeds_it(
    model: DurationModel, since: float, first: float, more: float
):
    short = poll_interval.expected_waste(model, since, since + first)
    long = poll_interval.expected_waste(model, since, since + first + more)

    assert 0 <= short <= first + 1e-6
    assert long >= short - 1e-6


def test_the_waste_of_no_time_is_zero():
    assert poll_interval.expected_waste(IMAGE, 30, 30) == 0
    assert poll_interval.expected_waste(IMAGE, 30, 20) == 0


@given(model=MODELS, age=AGES, price=PRICES, other=PRICES)
def test_a_higher_price_never_shortens_the_interval(model: DurationModel, age: float, price: float, other: float):
    low, high = sorted((price, other))

    # The search stops within one per cent of the price.
    assert poll_interval.interval(model, age, high) >= poll_interval.interval(model, age, low) * 0.99


@given(model=MODELS, age=AGES, price=PRICES)
def test_an_interval_is_between_two_seconds_and_the_maximum_for_the_age(model: DurationModel, age: float, price: float):
    wait = poll_interval.interval(model, age, price)

    assert 2 <= wait <= max(300, age / 10)
    assert wait <= 6 * 3600


@given(model=MODELS, age=st.floats(min_value=0, max_value=3000), price=st.floats(0.1, 100))
def test_an_interval_ends_when_the_expected_waste_reaches_the_price(model: DurationModel, age: float, price: float):
    wait = poll_interval.interval(model, age, price)
    assume(2 < wait < max(300, age / 10))

    assert poll_interval.expected_waste(model, age, age + wait) == pytest.approx(price, rel=0.011)


def test_for_a_constant_hazard_the_interval_follows_the_square_root_rule():
    video = poll_interval.PRIORS["video"]
    price = 0.5

    for age in (150.0, 250.0):
        rule = math.sqrt(2 * price / poll_interval.hazard(video, age))
        assert poll_interval.interval(video, age, price) == pytest.approx(rule, rel=0.06)


def test_a_new_task_is_polled_when_it_may_have_ended_though_its_hazard_is_still_zero():
    assert poll_interval.hazard(IMAGE, 0) == pytest.approx(0)
    assert 10 < poll_interval.interval(IMAGE, 0, 1.0) < 25


def test_an_old_task_is_polled_more_and_more_slowly():
    intervals = [poll_interval.interval(IMAGE, age, 1.0) for age in (600, 3600, 7200, 86400)]

    assert intervals[0] == 300
    assert intervals == sorted(intervals)
    assert intervals[-1] == 8640


def test_the_price_is_the_closed_form_for_all_hazards():
    assert poll_interval.poll_price([0.02] * 100, 5.0) == pytest.approx(0.6 * (100 * 0.1 / 5.0) ** 2)


def test_twice_the_rate_makes_polls_four_times_cheaper():
    fleet_hazards = [0.01, 0.03, 0.002] * 50

    assert poll_interval.poll_price(fleet_hazards, 5.0) == pytest.approx(
        4 * poll_interval.poll_price(fleet_hazards, 10.0)
    )


def test_without_tasks_there_is_a_minimum_price_and_no_image_is_polled_every_second():
    price = poll_interval.poll_price([], 5.0)

    assert price > 0
    assert min(poll_interval.interval(IMAGE, age, price) for age in range(200)) >= 2


def test_the_price_uses_about_the_whole_rate_for_tasks_of_all_ages():
    """Ten tasks of each age: their intervals add up to about the rate in polls a second."""
    ages = [float(age) for age in range(5, 100, 5)] * 10
    price = poll_interval.poll_price((poll_interval.hazard(IMAGE, age) for age in ages), 5.0)

    polls_per_second = sum(1 / poll_interval.interval(IMAGE, age, price) for age in ages)

    assert 2.5 < polls_per_second < 10


def random_durations(model: DurationModel, count: int, seed: int) -> list[float]:
    rng = random.Random(seed)
    return [rng.lognormvariate(model.mu, model.sigma) for _ in range(count)]


def test_a_duration_model_is_learned_from_completion_times():
    learned = poll_interval.fit(random_durations(IMAGE, 500, seed=1), [])

    assert learned is not None
    assert learned.mu == pytest.approx(IMAGE.mu, abs=0.08)
    assert learned.sigma == pytest.approx(IMAGE.sigma, abs=0.08)


def test_fewer_than_twenty_completions_give_no_duration_model():
    assert poll_interval.fit(random_durations(IMAGE, 19, seed=1), []) is None
    assert poll_interval.fit(random_durations(IMAGE, 20, seed=1), []) is not None
    assert poll_interval.fit([], [30.0] * 100) is None


def test_times_of_zero_do_not_count_as_completions():
    assert poll_interval.fit([0.0, -1.0] * 50, []) is None


def test_running_tasks_count_so_that_the_fast_ones_do_not_decide_alone():
    """All tasks began 30 s ago: the half that ended looks fast, the half still running corrects that."""
    durations = random_durations(IMAGE, 400, seed=2)
    ended = [seconds for seconds in durations if seconds <= 30]
    running = [30.0] * (len(durations) - len(ended))

    alone, both = poll_interval.fit(ended, []), poll_interval.fit(ended, running)

    assert alone is not None
    assert both is not None
    assert both.mu == pytest.approx(IMAGE.mu, abs=0.1)
    assert alone.mu < IMAGE.mu - 0.2


def test_without_a_known_median_there_is_no_duration_model():
    durations = random_durations(IMAGE, 100, seed=3)

    assert poll_interval.fit(durations, [1000.0] * 90) is not None
    assert poll_interval.fit(durations, [1000.0] * 120) is None
    assert poll_interval.fit(durations, [1000.0] * 2000) is None


def test_young_running_tasks_do_not_change_the_duration_model():
    durations = random_durations(IMAGE, 100, seed=4)

    assert poll_interval.fit(durations, [min(durations) / 2] * 500) == poll_interval.fit(durations, [])


def test_a_few_outliers_do_not_change_the_duration_model():
    clean = random_durations(IMAGE, 200, seed=5)
    wild = [*clean, *[90_000.0] * 8, *[0.001] * 8]

    learned, straight = poll_interval.fit(wild, []), poll_interval.fit(clean, [])

    assert learned is not None
    assert straight is not None
    assert learned.mu == pytest.approx(straight.mu, abs=0.05)
    assert learned.sigma == pytest.approx(straight.sigma, abs=0.15)


def test_equal_times_still_have_a_minimum_spread():
    learned = poll_interval.fit([30.0] * 50, [])

    assert learned is not None
    assert learned == DurationModel(mu=pytest.approx(math.log(30)), sigma=0.15)


@given(st.lists(st.floats(1e-6, YEARS), min_size=20, max_size=60), st.lists(st.floats(0, YEARS), max_size=20))
def test_a_duration_model_learned_from_any_times_is_usable(samples: list[float], running: list[float]):
    learned = poll_interval.fit(samples, running)
    if learned is not None:
        assert 0.15 <= learned.sigma <= 2
        assert 2 <= poll_interval.interval(learned, 10.0, 1.0) <= 300


def test_waits_double_from_five_seconds():
    assert [poll_interval.backoff(failures, 0.0) for failures in (1, 2, 3, 4)] == [5, 10, 20, 40]


@given(failures=st.integers(0, 10**9), jitter=JITTERS)
def test_a_wait_is_between_five_seconds_and_fifteen_minutes(failures: int, jitter: float):
    assert 5 <= poll_interval.backoff(failures, jitter) <= 900


@given(failures=st.integers(0, 60), jitter=JITTERS, retry_after=st.floats(0, 6 * 3600))
def test_a_wait_is_never_shorter_than_retry_after(failures: int, jitter: float, retry_after: float):
    assert poll_interval.backoff(failures, jitter, retry_after) >= retry_after


@given(failures=st.integers(0, 60), jitter=JITTERS, retry_after=st.floats(allow_nan=True))
def test_no_retry_after_makes_us_wait_longer_than_six_hours(failures: int, jitter: float, retry_after: float):
    assert 5 <= poll_interval.backoff(failures, jitter, retry_after) <= 6 * 3600


@given(failures=st.integers(0, 60), low=JITTERS, high=JITTERS)
def test_jitter_spreads_rows_that_failed_together(failures: int, low: float, high: float):
    assume(abs(high - low) > 1e-6)

    assert poll_interval.backoff(failures, low) != poll_interval.backoff(failures, high)


def test_a_rejected_write_is_tried_after_five_minutes_and_finally_every_hour():
    minutes = [poll_interval.rejected_write_wait(rejections) / 60 for rejections in (0, 1, 2, 3, 4, 5, 10**9)]

    assert minutes == [5, 5, 10, 20, 40, 60, 60]


def test_a_parked_row_is_polled_every_half_hour_and_later_every_six_hours():
    hour = 3600.0

    assert poll_interval.parked_wait(hour) == hour / 2
    assert poll_interval.parked_wait(24 * hour) == hour / 2
    assert poll_interval.parked_wait(4 * 24 * hour) == 2 * hour
    assert poll_interval.parked_wait(YEARS) == 6 * hour


def delays(policy: str, *, rate: float, seconds: float) -> Delays:
    tasks = fleet(rate, seconds, seed=11)
    return simulate(POLICIES[policy](), tasks, seconds=seconds, warm=seconds / 3)


def test_one_price_for_all_beats_round_robin_at_the_same_rate():
    """Two new tasks a second share five requests a second: the mean delay and the p95 fall."""
    round_robin = delays("round robin", rate=2.0, seconds=1500)
    priced = delays("one price, work-conserving", rate=2.0, seconds=1500)

    assert priced.mean <= 0.6 * round_robin.mean
    assert priced.p95 < round_robin.p95
    assert priced.seen >= round_robin.seen


def test_the_closed_form_is_close_to_the_exact_largest_waste():
    exact = delays("largest expected waste", rate=1.0, seconds=180)
    priced = delays("one price, work-conserving", rate=1.0, seconds=180)

    assert priced.mean <= 1.25 * exact.mean


def test_the_table_has_one_line_for_each_rate():
    lines = table((1.0,), seconds=60.0)

    assert len(lines) == 3
    assert lines[0].count("|") == len(POLICIES) + 2
