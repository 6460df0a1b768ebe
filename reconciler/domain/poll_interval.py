"""How long to wait between two polls of a task, and after failures.

All times are seconds; nothing here reads a clock or draws random numbers. `decide` asks for intervals and waits, the
leader for the poll price and the learned duration models, the HTTP API for the progress that it shows. Which row gets
the next request is decided in `worker/`.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from statistics import NormalDist, linear_regression
from types import MappingProxyType

from reconciler.domain.model import DurationModel

MIN_INTERVAL = 2.0
"""No task is polled more often than this."""

MAX_INTERVAL = 300.0
"""No interval is longer, until a tenth of the task's age is more."""

NEVER_ENDS = 0.01
"""The share of tasks assumed never to end."""

MIN_POLL_PRICE = 0.1
"""At this price an image is polled every two seconds in the moment when it most likely ends."""

MAX_PROGRESS = 0.95
"""The progress that a running task never exceeds."""

MAX_RETRY_AFTER = 60.0
"""A spare request may go out after this time even if Retry-After is longer: servers exaggerate it in an outage."""

LONGEST_WAIT = 6 * 3600.0
"""No wait between two visits of a row is longer, whatever KIE asks for."""

CONFIRMATIONS = (3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 60.0, 120.0, 300.0, 600.0)
"""The pauses between looks at an answer that must be confirmed; the last one repeats."""

MIN_COMPLETIONS = 20
"""A duration model is learned from no fewer completion times than this."""

PRIORS: Mapping[str | None, DurationModel] = MappingProxyType(
    {
        "image": DurationModel(mu=math.log(30), sigma=0.7),
        "video": DurationModel(mu=math.log(150), sigma=0.75),
        "audio": DurationModel(mu=math.log(90), sigma=0.8),
        None: DurationModel(mu=math.log(60), sigma=1.0),
    }
)
"""Used until a model's own times are known; measured: 12 to 112 s for images, 56 to 786 s for videos."""

_MIN_SIGMA = 0.15
_MAX_SIGMA = 2.0
_MIN_AGE = 1e-3
_HOUR = 3600.0
_DECILES = tuple(n / 10 for n in range(1, 10))


def duration_model(model: str | None, kind: str | None, learned: Mapping[str, DurationModel]) -> DurationModel:
    """Return the duration model learned for this AI model, else the prior of its kind."""
    known = learned.get(model) if model is not None else None
    return known or PRIORS.get(kind) or PRIORS[None]


def median_seconds(model: DurationModel) -> float:
    """Return the seconds after which half of the tasks are done."""
    return math.exp(model.mu)


def progress(model: DurationModel, age: float) -> float:
    """Return the progress to show for a running task of this age: the share of tasks done by then, 0.95 at most."""
    return MAX_PROGRESS * (1 - _survival(model, age))


def unfinished(model: DurationModel, age: float) -> float:
    """Return the probability that a task is not done at this age; a share NEVER_ENDS of all tasks never is."""
    return NEVER_ENDS + (1 - NEVER_ENDS) * _survival(model, age)


def hazard(model: DurationModel, age: float) -> float:
    """Return the probability per second that a task of this age, not done yet, ends now."""
    z = _standard_score(model, age)
    # One exponential, so that no tiny age or density is a divisor.
    density = math.exp(-z * z / 2 - math.log(max(age, _MIN_AGE)))
    density /= _bounded_sigma(model.sigma) * math.sqrt(2 * math.pi)
    return (1 - NEVER_ENDS) * density / unfinished(model, age)


def expected_waste(model: DurationModel, since: float, until: float) -> float:
    """Return the expected seconds between a task's end and the age `until`, if it is not done at the age `since`.

    It is the integral over u of P(done by u | not done at `since`), in closed form.
    """
    if until <= since:
        return 0.0
    running = _mean_seconds_run(model, until) - _mean_seconds_run(model, since)
    wasted = _survival(model, since) * (until - since) - running
    return max(0.0, (1 - NEVER_ENDS) * wasted / unfinished(model, since))


def poll_price(hazards: Iterable[float], rate: float) -> float:
    """Return the price of one poll, in seconds of expected waste, at which these tasks get `rate` polls a second.

    `rate` is above zero. The factor 0.6 corrects for hazards that change between polls; it comes from a simulation.
    """
    demand = math.fsum(math.sqrt(hazard / 2) for hazard in hazards)
    return max(MIN_POLL_PRICE, 0.6 * (demand / rate) ** 2)


def interval(model: DurationModel, age: float, price: float) -> float:
    """Return the seconds until the next poll of a task that is not done at this age.

    The interval ends when the expected waste reaches the poll price. For a constant hazard that is
    sqrt(2 price / hazard). A young task's hazard rises from zero, so the waste itself is solved for.
    """
    longest = min(max(MAX_INTERVAL, age / 10), LONGEST_WAIT)
    return max(MIN_INTERVAL, _seconds_until_waste(model, age, max(price, MIN_POLL_PRICE), longest))


def _seconds_until_waste(model: DurationModel, age: float, price: float, longest: float) -> float:
    seconds = longest
    # Newton's method from above: the waste is convex, so no step passes the solution.
    while (excess := expected_waste(model, age, age + seconds) - price) > 0.01 * price:
        seconds -= excess / (1 - unfinished(model, age + seconds) / unfinished(model, age))
    return seconds


def fit(samples: Sequence[float], running: Sequence[float]) -> DurationModel | None:
    """Return the duration model through the deciles of completion times, None if too few are known.

    The ages of tasks still running count as censored (Kaplan-Meier): without them only fast tasks would count. A line
    through the deciles ignores stray times.
    """
    completions = sorted(seconds for seconds in samples if seconds > 0)
    if len(completions) < MIN_COMPLETIONS:
        return None
    reached = _decile_times(completions, sorted(running))
    # Without the median, the fast tail alone would decide.
    if len(reached) < 5:
        return None
    scores = [NormalDist().inv_cdf(level) for level in _DECILES[: len(reached)]]
    line = linear_regression(scores, [math.log(seconds) for seconds in reached])
    return DurationModel(mu=line.intercept, sigma=_bounded_sigma(line.slope))


def _decile_times(completions: Sequence[float], running: Sequence[float]) -> list[float]:
    """Return the times at which the deciles were reached, as far as they were; both inputs are sorted."""
    times: list[float] = []
    alive = 1.0
    for index, seconds in enumerate(completions):
        at_risk = len(completions) - index + len(running) - bisect_left(running, seconds)
        alive *= 1 - 1 / at_risk
        passed = sum(1 - alive > level - 1e-9 for level in _DECILES)
        times += [seconds] * (passed - len(times))
    return times


def backoff(failures: int, jitter: float, retry_after: float | None = None) -> float:
    """Return the seconds to wait after this many failures in a row: 5 at first, 900 at most.

    `jitter` in [0, 1) spreads them. The wait is never shorter than `retry_after`, up to six hours.
    """
    doublings = min(max(failures - 1, 0), 7)
    wait = min(5.0 * 2.0**doublings, 450.0) * (1 + jitter)
    return max(wait, min(retry_after or 0.0, LONGEST_WAIT))


def confirmation_wait(elapsed: float) -> float:
    """Return the seconds until the next look at an answer that must be confirmed, so long after the first.

    The looks are fixed by the clock: visits in between change none of them.
    """
    for offset in accumulate(CONFIRMATIONS):
        if offset > elapsed:
            return max(offset - elapsed, MIN_INTERVAL)
    return CONFIRMATIONS[-1]


def rejected_write_wait(rejections: int) -> float:
    """Return the seconds until a rejected write is tried again: 300 after the first rejection, an hour at most."""
    return min(300.0 * 2.0 ** min(max(rejections - 1, 0), 4), _HOUR)


def parked_wait(age: float) -> float:
    """Return the seconds between polls of a parked row, which is past its time and may not be failed."""
    return min(max(age / 48, _HOUR / 2), LONGEST_WAIT)


def _bounded_sigma(sigma: float) -> float:
    """Return a spread above zero, which would be certainty, and small enough not to overflow."""
    return min(max(sigma, _MIN_SIGMA), _MAX_SIGMA)


def _standard_score(model: DurationModel, age: float) -> float:
    return (math.log(max(age, _MIN_AGE)) - model.mu) / _bounded_sigma(model.sigma)


def _normal_cdf(z: float) -> float:
    """Return the share of a normal distribution below z."""
    return math.erfc(-z / math.sqrt(2)) / 2


def _survival(model: DurationModel, age: float) -> float:
    return _normal_cdf(-_standard_score(model, age))


def _mean_seconds_run(model: DurationModel, age: float) -> float:
    """Return the mean seconds that a task has run by this age: the integral of its survival."""
    sigma = _bounded_sigma(model.sigma)
    mean = math.exp(model.mu + sigma * sigma / 2)
    return age * _survival(model, age) + mean * _normal_cdf(_standard_score(model, age) - sigma)
