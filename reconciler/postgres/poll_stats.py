"""How long tasks take: what was measured, what the leader made of it, and the price of one look.

The figures are kept in `reconciler.timings` and `reconciler.pace`;
the sums are `domain/poll_interval.py`. Called by the rounds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.domain.model import OPEN, DurationModel
from reconciler.domain.poll_interval import duration_model, fit, hazard, poll_price
from reconciler.postgres.pool import Database
from reconciler.postgres.schema import CREATED, TableShape

KEPT = 300
"""Completion times kept of each model, the newest."""

_ALL = ""
"""The row of `reconciler.pace` that holds the price; no model is named so."""

_SAMPLES = """
SELECT model, took FROM (
    SELECT model, took, row_number() OVER (PARTITION BY model ORDER BY id DESC) AS nth FROM reconciler.timings) AS t
 WHERE nth <= $1 AND model <> ''
"""

_TRIM = """
DELETE FROM reconciler.timings t USING (
    SELECT id, row_number() OVER (PARTITION BY model ORDER BY id DESC) AS nth FROM reconciler.timings) AS ranked
 WHERE ranked.id = t.id AND ranked.nth > $1
"""

_WRITE = """
INSERT INTO reconciler.pace AS p (model, mu, sigma, n, theta)
SELECT * FROM unnest($1::text[], $2::float8[], $3::float8[], $4::int[], $5::float8[])
ON CONFLICT (model) DO UPDATE
   SET mu = excluded.mu, sigma = excluded.sigma, n = excluded.n, theta = excluded.theta, at = now()
"""


@dataclass(frozen=True, slots=True)
class LearnedPace:
    """The learned curves by model, and theta, the price of one look in seconds of expected waste."""

    curves: Mapping[str, DurationModel]
    poll_price: float


class PollStats:
    """Learns and recalls the pace; `rate` is all keys' requests a second together."""

    def __init__(self, database: Database, shape: TableShape, *, rate: float) -> None:
        self._database = database
        self._rate = rate
        kind = f"g.{shape.kind_column}::text" if shape.kind_column else "NULL"
        model = f"g.{shape.model_column}::text" if shape.model_column else "NULL"
        words = ", ".join(f"'{word}'" for word in OPEN)
        self._running = f"""
SELECT {kind} AS kind, {model} AS model, extract(epoch FROM now() - greatest({CREATED}, w.task_since))::float8 AS age
  FROM public.generations g JOIN reconciler.work w ON w.generation_id = g.id::text
 WHERE g.status IN ({words}) AND w.due_at IS NOT NULL AND w.answered_at IS NOT NULL
   AND w.completed_at IS NULL"""

    async def recall(self) -> LearnedPace | None:
        """Return the pace as it was last learned, None before the first time."""
        rows = await self._database.fetch("SELECT model, mu, sigma, theta FROM reconciler.pace")
        prices = [row["theta"] for row in rows if row["model"] == _ALL]
        curves = {row["model"]: DurationModel(row["mu"], row["sigma"]) for row in rows if row["mu"] is not None}
        return LearnedPace(curves, prices[0]) if prices else None

    async def learn(self) -> LearnedPace:
        """Fit the curves to what was measured, price a look for what is in flight, and keep both."""
        samples: defaultdict[str, list[float]] = defaultdict(list)
        for row in await self._database.fetch(_SAMPLES, KEPT):
            samples[row["model"]].append(row["took"])
        flying = await self._database.fetch(self._running)
        ages: defaultdict[str, list[float]] = defaultdict(list)
        for row in flying:
            ages[row["model"] or _ALL].append(row["age"])
        fits = {model: fit(took, ages[model]) for model, took in samples.items()}
        curves = {model: curve for model, curve in fits.items() if curve is not None}
        price = poll_price(
            (hazard(duration_model(row["model"], row["kind"], curves), row["age"]) for row in flying), self._rate
        )
        await self._keep(curves, {model: len(took) for model, took in samples.items()}, price)
        return LearnedPace(curves, price)

    async def _keep(self, curves: Mapping[str, DurationModel], counts: Mapping[str, int], price: float) -> None:
        models = [*sorted(curves), _ALL]
        await self._database.execute(
            _WRITE,
            models,
            [curves[model].mu if model in curves else None for model in models],
            [curves[model].sigma if model in curves else None for model in models],
            [counts.get(model, 0) for model in models],
            [price if model == _ALL else None for model in models],
        )

    async def trim(self) -> None:
        """Drop the completion times beyond the newest of each model."""
        await self._database.execute(_TRIM, KEPT)
