-- @builds generations_task_id
-- @unless-led-by task_id
-- Callbacks know only the task. Not unique: older applications hold one task in several rows.

CREATE INDEX CONCURRENTLY IF NOT EXISTS generations_task_id ON public.generations (task_id) WHERE task_id IS NOT NULL;
