-- @follows public.generations
-- @builds generations_reconciler_open
-- For the sweep: rows in flight, and successes without a stored asset. It stays small in a table of any size.

CREATE INDEX CONCURRENTLY IF NOT EXISTS generations_reconciler_open ON public.generations (id)
    WHERE status::pg_catalog.text IN ('queued', 'generating', 'pending', 'processing')
       OR (status::pg_catalog.text IN ('success', 'completed') AND asset_url IS NULL);
