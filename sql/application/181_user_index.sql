-- @builds generations_user_id_created_at
-- @unless-led-by user_id
-- The history page: one user's rows, newest first.

CREATE INDEX CONCURRENTLY IF NOT EXISTS generations_user_id_created_at ON public.generations (user_id, created_at DESC);
