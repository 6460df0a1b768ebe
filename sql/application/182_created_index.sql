-- @builds generations_created_at
-- @unless-led-by created_at
-- Monitoring: the rows of the last hours.

CREATE INDEX CONCURRENTLY IF NOT EXISTS generations_created_at ON public.generations (created_at);
