-- @follows public.generations
-- @builds generations_reconciler_failed
-- For retention: failures with nothing stored, oldest first. The sweep's index has the same columns in its
-- condition, so this one costs the application's updates nothing more.

CREATE INDEX CONCURRENTLY IF NOT EXISTS generations_reconciler_failed ON public.generations (created_at)
    WHERE status::pg_catalog.text = 'failed' AND asset_url IS NULL;
