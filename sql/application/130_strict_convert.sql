-- @strict
-- @fires-triggers
-- The older words become the specification's. Two passes: this one before 131 narrows the CHECK, 132 for rows in between.

UPDATE public.generations
   SET status = CASE status::pg_catalog.text WHEN 'pending' THEN 'queued' WHEN 'processing' THEN 'generating' ELSE 'success' END
 WHERE status::pg_catalog.text IN ('pending', 'processing', 'completed');
