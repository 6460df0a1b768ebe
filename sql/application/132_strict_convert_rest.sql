-- @strict
-- @fires-triggers
-- Rows that were written with an older word between 130 and 131; none can follow.

UPDATE public.generations
   SET status = CASE status::pg_catalog.text WHEN 'pending' THEN 'queued' WHEN 'processing' THEN 'generating' ELSE 'success' END
 WHERE status::pg_catalog.text IN ('pending', 'processing', 'completed');
