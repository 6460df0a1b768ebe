"""When to look again: how long tasks take, what waiting costs, how failures slow the pace.

All times are seconds; nothing here reads a clock or throws dice. `decide` asks for gaps and waits, the leader for theta
and learned curves, the doors for what a reader is told to expect. Who gets the next request is not decided here.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist, linear_regression
from types import MappingProxyType

from reconciler.domain.model import DurationModel

FASTEST = 2.0
"""No task is asked about more often than this."""

SLOWEST = 300.0
"""A task is asked about at least this often, until a tenth of its age is more."""

DOUBT = 0.01
"""The share of tasks believed never to end."""

LEAST_THETA = 0.1
"""At this price an image in its likeliest moment is asked about every two seconds."""

MOST_PROGRESS = 0.95
"""What a task that has not ended is never said to have passed."""

HEEDED = 60.0
"""A Retry-After keeps us from asking for no longer than this: what is said in the middle of an outage outlasts it."""

LEAST_COMPLETIONS = 20
"""Fewer completion times than this make no curve."""

PRIORS: Mapping[str | None, DurationModel] = MappingProxyType(
    {
        "image": DurationModel(mu=math.log(30), sigma=0.7),
        "video": DurationModel(mu=math.log(150), sigma=0.75),
        "audio": DurationModel(mu=math.log(90), sigma=0.8),
        None: DurationModel(mu=math.log(60), sigma=1.0),
    }
)
"""Believed until a model is known; measured were 12 to 112 s for images, 56 to 786 s for videos."""

_LEAST_SIGMA = 0.15
_MOST_SIGMA = 2.0
_LEAST_AGE = 1e-3
_HOUR = 3600.0
_DECILES = tuple(n / 10 for n in range(1, 10))


def curve_for(model: str | None, kind: str | None, curves: Mapping[str, DurationModel]) -> DurationModel:
    """Return the model's learned curve, else what is believed of its kind."""
    learned = curves.get(model) if model is not None else None
    return learned or PRIORS.get(kind) or PRIORS[None]


def expected(curve: DurationModel) -> float:
    """Return the seconds after which half of such tasks are done."""
    return math.exp(curve.mu)


def progress(curve: DurationModel, age: float) -> float:
    """Return how far along a reader is told that a task of this age is: the share done by then, 0.95 at most.

    It never says done, because only the result says that.
    """
    return MOST_PROGRESS * (1 - _survival(curve, age))


def unfinished(curve: DurationModel, age: float) -> float:
    """Return the chance that a task is not done at this age, the doubt that it ever ends included."""
    return DOUBT + (1 - DOUBT) * _survival(curve, age)


def hazard(curve: DurationModel, age: float) -> float:
    """Return the chance per second that a task of this age, not done yet, ends now."""
    z = _z(curve, age)
    # One exponential, so that neither a tiny age nor a tiny density is ever a divisor.
    density = math.exp(-z * z / 2 - math.log(max(age, _LEAST_AGE)))
    density /= _bounded(curve.sigma) * math.sqrt(2 * math.pi)
    return (1 - DOUBT) * density / unfinished(curve, age)


def expected_waste(curve: DurationModel, since: float, until: float) -> float:
    """Return the delay expected to pile up between two ages of a task not done at the first.

    It is the integral over u of P(done by u | not done at `since`), in closed form.
    """
    if until <= since:
        return 0.0
    ran_on = _lived(curve, until) - _lived(curve, since)
    missed = _survival(curve, since) * (until - since) - ran_on
    return max(0.0, (1 - DOUBT) * missed / unfinished(curve, since))


def theta(hazards: Iterable[float], rate: float) -> float:
    """Return the price of one look, in seconds of waste, that spends `rate` looks a second.

    `rate` is above zero. The factor allows for hazards that change between looks (simulated).
    """
    wanted = math.fsum(math.sqrt(chance / 2) for chance in hazards)
    return max(LEAST_THETA, 0.6 * (wanted / rate) ** 2)


def gap(curve: DurationModel, age: float, theta: float) -> float:
    """Return the seconds to the next look at a task seen unfinished at this age.

    The gap ends when the expected waste reaches theta. While the hazard stands still that is
    sqrt(2 theta / hazard); but a young task's hazard is zero and rises, so the waste is followed.
    """
    longest = min(max(SLOWEST, age / 10), 6 * _HOUR)
    return max(FASTEST, _until_wasted(curve, age, max(theta, LEAST_THETA), longest))


def _until_wasted(curve: DurationModel, age: float, theta: float, longest: float) -> float:
    found = longest
    # Newton from above: the waste is convex, so a step never passes the answer.
    while (beyond := expected_waste(curve, age, age + found) - theta) > 0.01 * theta:
        found -= beyond / (1 - unfinished(curve, age + found) / unfinished(curve, age))
    return found


def fit(samples: Sequence[float], running: Sequence[float]) -> DurationModel | None:
    """Return the curve through the deciles of completion times, None while too little is known.

    The ages of tasks still running count as censored (Kaplan and Meier): without them only the fast
    ones would be believed. Deciles, so that stray times do not bend the curve.
    """
    completions = sorted(took for took in samples if took > 0)
    if len(completions) < LEAST_COMPLETIONS:
        return None
    reached = _reached(completions, sorted(running))
    # Short of the median, the curve would be guessed from its fast tail.
    if len(reached) < 5:
        return None
    scores = [NormalDist().inv_cdf(level) for level in _DECILES[: len(reached)]]
    line = linear_regression(scores, [math.log(seconds) for seconds in reached])
    return DurationModel(mu=line.intercept, sigma=_bounded(line.slope))


def _reached(completions: Sequence[float], running: Sequence[float]) -> list[float]:
    """Return the times at which the deciles were reached, as far as they were; both are sorted."""
    times: list[float] = []
    alive = 1.0
    for nth, took in enumerate(completions):
        at_risk = len(completions) - nth + len(running) - bisect_left(running, took)
        alive *= 1 - 1 / at_risk
        passed = sum(1 - alive > level - 1e-9 for level in _DECILES)
        times += [took] * (passed - len(times))
    return times


def backoff(misses: int, jitter: float, retry_after: float | None = None) -> float:
    """Return the seconds to wait after so many misses in a row: 5 at first, 900 at most.

    `jitter` in [0, 1) spreads them. Never under `retry_after`, which is believed up to six hours.
    """
    doublings = min(max(misses - 1, 0), 7)
    wait = min(5.0 * 2.0**doublings, 450.0) * (1 + jitter)
    return max(wait, min(retry_after or 0.0, 6 * _HOUR))


def behind(refusals: int) -> float:
    """Return the seconds until a write refused so often in a row is tried again: 300 at first, an hour at most."""
    return min(300.0 * 2.0 ** min(max(refusals - 1, 0), 4), _HOUR)


def parked(age: float) -> float:
    """Return the seconds between looks at a row past its time that nothing allows to fail."""
    return min(max(age / 48, _HOUR / 2), 6 * _HOUR)


def _bounded(sigma: float) -> float:
    """Return a spread that is neither certainty, which nobody has, nor a number that overflows."""
    return min(max(sigma, _LEAST_SIGMA), _MOST_SIGMA)


def _z(curve: DurationModel, age: float) -> float:
    return (math.log(max(age, _LEAST_AGE)) - curve.mu) / _bounded(curve.sigma)


def _below(z: float) -> float:
    """Return the share of a normal distribution below z."""
    return math.erfc(-z / math.sqrt(2)) / 2


def _survival(curve: DurationModel, age: float) -> float:
    return _below(-_z(curve, age))


def _lived(curve: DurationModel, age: float) -> float:
    """Return the seconds a task has run by this age on average: the integral of its survival."""
    sigma = _bounded(curve.sigma)
    mean = math.exp(curve.mu + sigma * sigma / 2)
    return age * _survival(curve, age) + mean * _below(_z(curve, age) - sigma)
