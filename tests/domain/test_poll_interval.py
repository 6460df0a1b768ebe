"""When to look again: the curves, the price of a look, the waits after a miss."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from benchmarks.pace import POLICIES, Delays, fleet, main, simulate
from reconciler.domain import poll_interval
from reconciler.domain.model import DurationModel
from reconciler.domain.object_keys import Kind

CURVES = st.builds(DurationModel, mu=st.floats(min_value=0, max_value=10), sigma=st.floats(min_value=0.01, max_value=2))
YEARS = 10 * 366 * 86400.0
AGES = st.floats(min_value=0, max_value=YEARS)
PRICES = st.floats(min_value=0, max_value=1e6)
JITTERS = st.floats(min_value=0, max_value=1, exclude_max=True)
IMAGE = DurationModel(math.log(25), 0.5)


def summed(curve: DurationModel, since: float, until: float) -> float:
    """The expected waste by its definition: a sum over thin slices of P(done by u | not done)."""
    slices = 4000
    width = (until - since) / slices
    spread = curve.sigma * math.sqrt(2)

    def open_at(age: float) -> float:
        return 0.01 + 0.99 * math.erfc((math.log(age) - curve.mu) / spread) / 2

    asked = open_at(since) if since else 1.0
    return sum(1 - open_at(since + (n + 0.5) * width) / asked for n in range(slices)) * width


def test_a_learned_curve_is_used_before_what_is_believed_of_the_kind():
    learned = {"veo3": DurationModel(4.0, 0.3)}

    assert poll_interval.duration_model("veo3", "video", learned) == DurationModel(4.0, 0.3)


@pytest.mark.parametrize("kind", ["image", "video", "audio"])
def test_an_unknown_model_is_believed_to_be_like_its_kind(kind: str):
    assert poll_interval.duration_model("new", kind, {"veo3": DurationModel(4.0, 0.3)}) == poll_interval.PRIORS[kind]


@pytest.mark.parametrize("kind", [None, "photo"])
def test_a_row_without_a_known_kind_or_model_still_has_a_curve(kind: str | None):
    assert poll_interval.duration_model(None, kind, {}) == poll_interval.PRIORS[None]


def test_every_kind_of_result_has_a_curve_of_its_own():
    assert set(poll_interval.PRIORS) == {*Kind, None}


def test_half_of_the_tasks_are_done_when_a_reader_expects_it():
    assert poll_interval.median_seconds(IMAGE) == pytest.approx(25)
    assert poll_interval.progress(IMAGE, poll_interval.median_seconds(IMAGE)) == pytest.approx(0.95 / 2)


@given(curve=CURVES, age=AGES, later=AGES)
def test_progress_only_grows_and_never_says_done(curve: DurationModel, age: float, later: float):
    sooner, then = poll_interval.progress(curve, min(age, later)), poll_interval.progress(curve, max(age, later))

    assert 0 <= sooner <= then <= 0.95


def test_progress_begins_at_nothing_even_for_a_row_from_the_future():
    assert poll_interval.progress(IMAGE, 0) == poll_interval.progress(IMAGE, -3600) == pytest.approx(0, abs=1e-9)


@given(curve=CURVES, age=AGES)
def test_the_hazard_is_a_finite_chance_at_any_age_up_to_years(curve: DurationModel, age: float):
    chance = poll_interval.hazard(curve, age)

    assert math.isfinite(chance)
    assert chance >= 0


def test_the_hazard_is_the_fall_of_the_unfinished_share():
    for age in (10.0, 25.0, 60.0):
        fallen = poll_interval.unfinished(IMAGE, age - 0.01) - poll_interval.unfinished(IMAGE, age + 0.01)

        assert poll_interval.hazard(IMAGE, age) == pytest.approx(
            fallen / 0.02 / poll_interval.unfinished(IMAGE, age), rel=1e-4
        )


def test_a_task_far_beyond_its_time_is_doubted_to_end_at_all():
    assert poll_interval.unfinished(IMAGE, 3600) == pytest.approx(0.01)
    assert poll_interval.hazard(IMAGE, 3600) < 1e-9 < poll_interval.hazard(IMAGE, 30)


@pytest.mark.parametrize(("since", "until"), [(0, 15), (0, 60), (20, 30), (40, 400), (300, 900)])
def test_the_closed_form_of_the_waste_is_its_integral(since: float, until: float):
    assert poll_interval.expected_waste(IMAGE, since, until) == pytest.approx(
        summed(IMAGE, since, until), rel=1e-3, abs=1e-6
    )


@given(curve=CURVES, since=AGES, first=AGES, more=AGES)
def test_the_waste_grows_with_the_wait_and_never_exceeds_it(
    curve: DurationModel, since: float, first: float, more: float
):
    short = poll_interval.expected_waste(curve, since, since + first)
    long = poll_interval.expected_waste(curve, since, since + first + more)

    assert 0 <= short <= first + 1e-6
    assert long >= short - 1e-6


def test_looking_again_at_once_wastes_nothing():
    assert poll_interval.expected_waste(IMAGE, 30, 30) == 0
    assert poll_interval.expected_waste(IMAGE, 30, 20) == 0


@given(curve=CURVES, age=AGES, price=PRICES, dearer=PRICES)
def test_a_dearer_look_never_comes_sooner(curve: DurationModel, age: float, price: float, dearer: float):
    low, high = sorted((price, dearer))

    # The search stops within one per cent of the price.
    assert poll_interval.interval(curve, age, high) >= poll_interval.interval(curve, age, low) * 0.99


@given(curve=CURVES, age=AGES, price=PRICES)
def test_a_gap_lies_between_two_seconds_and_the_longest_for_its_age(curve: DurationModel, age: float, price: float):
    wait = poll_interval.interval(curve, age, price)

    assert 2 <= wait <= max(300, age / 10)
    assert wait <= 6 * 3600


@given(curve=CURVES, age=st.floats(min_value=0, max_value=3000), price=st.floats(0.1, 100))
def test_a_gap_ends_when_the_price_is_wasted(curve: DurationModel, age: float, price: float):
    wait = poll_interval.interval(curve, age, price)
    assume(2 < wait < max(300, age / 10))

    assert poll_interval.expected_waste(curve, age, age + wait) == pytest.approx(price, rel=0.011)


def test_where_the_hazard_stands_still_the_gap_is_the_square_root_rule():
    video = poll_interval.PRIORS["video"]
    price = 0.5

    for age in (150.0, 250.0):
        rule = math.sqrt(2 * price / poll_interval.hazard(video, age))
        assert poll_interval.interval(video, age, price) == pytest.approx(rule, rel=0.06)


def test_a_new_task_is_looked_at_when_it_may_have_ended_though_its_hazard_is_still_zero():
    assert poll_interval.hazard(IMAGE, 0) == pytest.approx(0)
    assert 10 < poll_interval.interval(IMAGE, 0, 1.0) < 25


def test_an_old_task_is_asked_about_ever_more_slowly():
    gaps = [poll_interval.interval(IMAGE, age, 1.0) for age in (600, 3600, 7200, 86400)]

    assert gaps[0] == 300
    assert gaps == sorted(gaps)
    assert gaps[-1] == 8640


def test_the_price_is_the_closed_form_of_what_the_fleet_wants():
    assert poll_interval.poll_price([0.02] * 100, 5.0) == pytest.approx(0.6 * (100 * 0.1 / 5.0) ** 2)


def test_twice_the_budget_makes_looks_four_times_cheaper():
    fleet_hazards = [0.01, 0.03, 0.002] * 50

    assert poll_interval.poll_price(fleet_hazards, 5.0) == pytest.approx(
        4 * poll_interval.poll_price(fleet_hazards, 10.0)
    )


def test_an_idle_fleet_pays_a_least_price_and_no_image_is_asked_every_second():
    price = poll_interval.poll_price([], 5.0)

    assert price > 0
    assert min(poll_interval.interval(IMAGE, age, price) for age in range(200)) >= 2


def test_the_price_spends_about_the_budget_on_a_standing_fleet():
    """Ten tasks of each age: the looks a second that the gaps ask for are near the rate."""
    ages = [float(age) for age in range(5, 100, 5)] * 10
    price = poll_interval.poll_price((poll_interval.hazard(IMAGE, age) for age in ages), 5.0)

    wanted = sum(1 / poll_interval.interval(IMAGE, age, price) for age in ages)

    assert 2.5 < wanted < 10


def drawn(curve: DurationModel, many: int, seed: int) -> list[float]:
    dice = random.Random(seed)
    return [dice.lognormvariate(curve.mu, curve.sigma) for _ in range(many)]


def test_a_curve_is_learned_from_completion_times():
    learned = poll_interval.fit(drawn(IMAGE, 500, seed=1), [])

    assert learned is not None
    assert learned.mu == pytest.approx(IMAGE.mu, abs=0.08)
    assert learned.sigma == pytest.approx(IMAGE.sigma, abs=0.08)


def test_fewer_than_twenty_completions_teach_nothing():
    assert poll_interval.fit(drawn(IMAGE, 19, seed=1), []) is None
    assert poll_interval.fit(drawn(IMAGE, 20, seed=1), []) is not None
    assert poll_interval.fit([], [30.0] * 100) is None


def test_times_of_zero_are_no_completions():
    assert poll_interval.fit([0.0, -1.0] * 50, []) is None


def test_running_tasks_count_so_that_not_only_the_fast_ones_are_believed():
    """All began 25 s ago: the half that ended looks fast, the half that runs says otherwise."""
    took = drawn(IMAGE, 400, seed=2)
    ended = [seconds for seconds in took if seconds <= 30]
    running = [30.0] * (len(took) - len(ended))

    alone, both = poll_interval.fit(ended, []), poll_interval.fit(ended, running)

    assert alone is not None
    assert both is not None
    assert both.mu == pytest.approx(IMAGE.mu, abs=0.1)
    assert alone.mu < IMAGE.mu - 0.2


def test_too_many_still_running_to_know_the_median_teach_nothing():
    took = drawn(IMAGE, 100, seed=3)

    assert poll_interval.fit(took, [1000.0] * 90) is not None
    assert poll_interval.fit(took, [1000.0] * 120) is None
    assert poll_interval.fit(took, [1000.0] * 2000) is None


def test_young_running_tasks_change_nothing():
    took = drawn(IMAGE, 100, seed=4)

    assert poll_interval.fit(took, [min(took) / 2] * 500) == poll_interval.fit(took, [])


def test_a_few_wild_times_do_not_bend_the_curve():
    clean = drawn(IMAGE, 200, seed=5)
    wild = [*clean, *[90_000.0] * 8, *[0.001] * 8]

    learned, straight = poll_interval.fit(wild, []), poll_interval.fit(clean, [])

    assert learned is not None
    assert straight is not None
    assert learned.mu == pytest.approx(straight.mu, abs=0.05)
    assert learned.sigma == pytest.approx(straight.sigma, abs=0.15)


def test_equal_times_are_not_taken_for_certainty():
    learned = poll_interval.fit([30.0] * 50, [])

    assert learned is not None
    assert learned == DurationModel(mu=pytest.approx(math.log(30)), sigma=0.15)


@given(st.lists(st.floats(1e-6, YEARS), min_size=20, max_size=60), st.lists(st.floats(0, YEARS), max_size=20))
def test_whatever_was_measured_a_learned_curve_is_usable(samples: list[float], running: list[float]):
    learned = poll_interval.fit(samples, running)
    if learned is not None:
        assert 0.15 <= learned.sigma <= 2
        assert 2 <= poll_interval.interval(learned, 10.0, 1.0) <= 300


def test_waits_double_from_five_seconds():
    assert [poll_interval.backoff(misses, 0.0) for misses in (1, 2, 3, 4)] == [5, 10, 20, 40]


@given(misses=st.integers(0, 10**9), jitter=JITTERS)
def test_a_wait_lies_between_five_seconds_and_a_quarter_of_an_hour(misses: int, jitter: float):
    assert 5 <= poll_interval.backoff(misses, jitter) <= 900


@given(misses=st.integers(0, 60), jitter=JITTERS, asked=st.floats(0, 6 * 3600))
def test_a_wait_is_never_shorter_than_the_provider_asked_for(misses: int, jitter: float, asked: float):
    assert poll_interval.backoff(misses, jitter, asked) >= asked


@given(misses=st.integers(0, 60), jitter=JITTERS, asked=st.floats(allow_nan=True))
def test_nobody_can_make_us_wait_for_ever(misses: int, jitter: float, asked: float):
    assert 5 <= poll_interval.backoff(misses, jitter, asked) <= 6 * 3600


@given(misses=st.integers(0, 60), low=JITTERS, high=JITTERS)
def test_jitter_spreads_rows_that_failed_together(misses: int, low: float, high: float):
    assume(abs(high - low) > 1e-6)

    assert poll_interval.backoff(misses, low) != poll_interval.backoff(misses, high)


def test_a_write_that_is_refused_is_tried_after_five_minutes_and_at_last_every_hour():
    assert [poll_interval.rejected_write_wait(refusals) / 60 for refusals in (0, 1, 2, 3, 4, 5, 10**9)] == [
        5,
        5,
        10,
        20,
        40,
        60,
        60,
    ]


def test_a_parked_row_is_looked_at_every_half_hour_and_later_every_six():
    hour = 3600.0

    assert poll_interval.parked_wait(hour) == hour / 2
    assert poll_interval.parked_wait(24 * hour) == hour / 2
    assert poll_interval.parked_wait(4 * 24 * hour) == 2 * hour
    assert poll_interval.parked_wait(YEARS) == 6 * hour


def delays(policy: str, *, rate: float, seconds: float) -> Delays:
    tasks = fleet(rate, seconds, seed=11)
    return simulate(POLICIES[policy](), tasks, seconds=seconds, warm=seconds / 3)


def test_one_price_for_all_beats_round_robin_on_the_same_budget():
    """Two tasks a second share five requests a second; the mean delay falls by far, and the tail."""
    taking_turns = delays("round robin", rate=2.0, seconds=1500)
    priced = delays("one price, work-conserving", rate=2.0, seconds=1500)

    assert priced.mean <= 0.6 * taking_turns.mean
    assert priced.p95 < taking_turns.p95
    assert priced.seen >= taking_turns.seen


def test_the_closed_form_comes_near_the_exact_largest_waste():
    exact = delays("largest expected waste", rate=1.0, seconds=180)
    priced = delays("one price, work-conserving", rate=1.0, seconds=180)

    assert priced.mean <= 1.25 * exact.mean


def test_the_bench_prints_one_line_for_each_rate(capsys: pytest.CaptureFixture[str]):
    main((1.0,), seconds=60.0)

    printed = capsys.readouterr().out.splitlines()
    assert printed[0].count("|") == len(POLICIES) + 2
    assert [line.split("|")[1].strip() for line in printed[2:]] == ["1.0"]
