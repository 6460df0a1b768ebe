"""How long tasks take: the measured times, the leader's fit of them, and the price of one poll.

The figures are kept in `reconciler.timings` and `reconciler.pace`; the formulas are in `domain/poll_interval.py`. The
scheduler calls it.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.domain.model import DurationModel
from reconciler.domain.poll_interval import duration_model, fit, hazard, poll_price
from reconciler.postgres.pool import Database
from reconciler.postgres.predicates import CREATED, IN_FLIGHT, kind_of, model_of
from reconciler.postgres.schema import TableShape
from reconciler.postgres.statement import Statement
from reconciler.postgres.table_reader import PerShape, PresentTable

KEPT = 300
"""How many measured times are kept of each model, the newest."""

_ALL = ""
"""The model of the row of `reconciler.pace` that holds the price; no model has an empty name."""

# Returns the newest :limit measured times of each model.
_SAMPLES = Statement("""
SELECT model, took FROM (
    SELECT model, took, row_number() OVER (PARTITION BY model ORDER BY id DESC) AS nth FROM reconciler.timings) AS t
 WHERE nth <= :limit AND model <> ''""")

# Deletes all but the newest :limit measured times of each model.
_TRIM = Statement("""
DELETE FROM reconciler.timings t USING (
    SELECT id, row_number() OVER (PARTITION BY model ORDER BY id DESC) AS nth FROM reconciler.timings) AS ranked
 WHERE ranked.id = t.id AND ranked.nth > :limit""")

# Writes the fitted curves and the price.
_WRITE = Statement("""
INSERT INTO reconciler.pace AS p (model, mu, sigma, n, theta)
SELECT * FROM unnest(:models::text[], :mus::float8[], :sigmas::float8[], :counts::int[], :thetas::float8[])
ON CONFLICT (model) DO UPDATE
   SET mu = excluded.mu, sigma = excluded.sigma, n = excluded.n, theta = excluded.theta, at = now()""")


@dataclass(frozen=True, slots=True)
class LearnedPace:
    """The learned curves by model, and theta, the price of one poll in seconds of expected waste."""

    curves: Mapping[str, DurationModel]
    poll_price: float


class PollStats:
    """Learns and recalls how long tasks take; `rate` is the requests a second of all keys together."""

    def __init__(self, database: Database, table: PresentTable, *, rate: float) -> None:
        self._database = database
        self._rate = rate
        self._running = PerShape(table, _running_sql)

    async def recall(self) -> LearnedPace | None:
        """Return what was last learned, None before the first time."""
        rows = await self._database.fetch("SELECT model, mu, sigma, theta FROM reconciler.pace")
        prices = [row["theta"] for row in rows if row["model"] == _ALL]
        curves = {row["model"]: DurationModel(row["mu"], row["sigma"]) for row in rows if row["mu"] is not None}
        return LearnedPace(curves, prices[0]) if prices else None

    async def learn(self) -> LearnedPace:
        """Fit the curves to the measured times, price a poll for the tasks in flight, and keep both."""
        samples: defaultdict[str, list[float]] = defaultdict(list)
        for row in await self._database.fetch(*_SAMPLES(limit=KEPT)):
            samples[row["model"]].append(row["took"])
        running = await self._database.fetch(*self._running.present())
        ages: defaultdict[str, list[float]] = defaultdict(list)
        for row in running:
            ages[row["model"] or _ALL].append(row["age"])
        fits = {model: fit(took, ages[model]) for model, took in samples.items()}
        curves = {model: curve for model, curve in fits.items() if curve is not None}
        price = poll_price(
            (hazard(duration_model(row["model"], row["kind"], curves), row["age"]) for row in running), self._rate
        )
        await self._keep(curves, {model: len(took) for model, took in samples.items()}, price)
        return LearnedPace(curves, price)

    async def _keep(self, curves: Mapping[str, DurationModel], counts: Mapping[str, int], price: float) -> None:
        models = [*sorted(curves), _ALL]
        await self._database.execute(
            *_WRITE(
                models=models,
                mus=[curves[model].mu if model in curves else None for model in models],
                sigmas=[curves[model].sigma if model in curves else None for model in models],
                counts=[counts.get(model, 0) for model in models],
                thetas=[price if model == _ALL else None for model in models],
            )
        )

    async def trim(self) -> None:
        """Delete the measured times beyond the newest of each model."""
        await self._database.execute(*_TRIM(limit=KEPT))


def _running_sql(table: TableShape) -> Statement:
    """Read and return kind, model and age in seconds of every task that KIE is working on."""
    return Statement(f"""
SELECT {kind_of(table)} AS kind, {model_of(table)} AS model,
       extract(epoch FROM now() - greatest({CREATED}, w.task_since))::float8 AS age
  FROM public.generations g JOIN reconciler.work w ON w.generation_id = g.id::text
 WHERE {IN_FLIGHT} AND w.due_at IS NOT NULL AND w.answered_at IS NOT NULL
   AND w.completed_at IS NULL""")
