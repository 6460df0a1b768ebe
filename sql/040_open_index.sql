-- @follows public.generations
-- @builds generations_reconciler_open
-- What the sweep reads: rows in flight, and successes without a stored asset. Small however large the table is.

CREATE INDEX CONCURRENTLY IF NOT EXISTS generations_reconciler_open ON public.generations (id)
    WHERE status IN ('queued', 'generating', 'pending', 'processing')
       OR (status IN ('success', 'completed') AND asset_url IS NULL);
