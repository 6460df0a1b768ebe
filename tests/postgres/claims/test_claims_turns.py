"""F9: hopeless rows at the front of many overdue ones keep no good row waiting."""

from __future__ import annotations

import pytest

from tests.postgres.books import Books

HOPELESS = """
INSERT INTO reconciler.work (generation_id, due_at, seen_status, seen_task, misses)
SELECT gen_random_uuid()::text, now() - n * interval '1 second', 'queued', 'hopeless-' || n, 5
  FROM generate_series(1, 1000) n
"""
GOOD = """
INSERT INTO reconciler.work (generation_id, due_at, seen_status, seen_task)
VALUES (gen_random_uuid()::text, now() - $1 * interval '1 second', 'queued', 'good') RETURNING generation_id
"""


@pytest.mark.parametrize("overdue", [0.5, 100.5], ids=["just due", "among those that missed"])
async def test_a_good_row_is_claimed_at_the_second_attempt_before_a_thousand_that_failed(
    books: Books, overdue: float
) -> None:
    await books.pool.execute(HOPELESS)
    good = await books.pool.fetchval(GOOD, overdue)
    claims = books.claims()
    claimed = [claim.generation_id for _ in range(2) for claim in await claims.due(8)]
    assert len(set(claimed)) == 16
    assert good in claimed


async def test_hopeless_rows_have_their_turn_while_good_ones_keep_coming(books: Books) -> None:
    await books.pool.execute(HOPELESS)
    oldest = await books.pool.fetchval("SELECT generation_id FROM reconciler.work ORDER BY due_at LIMIT 1")
    for n in range(20):
        await books.pool.execute(GOOD, n / 100)
    claims = books.claims()
    assert oldest in [claim.generation_id for _ in range(2) for claim in await claims.due(8)]
