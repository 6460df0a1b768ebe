-- @strict
-- The older words become the specification's. Two passes: this one before new writes are bound, 132 for what came between.

UPDATE public.generations
   SET status = CASE status WHEN 'pending' THEN 'queued' WHEN 'processing' THEN 'generating' ELSE 'success' END
 WHERE status IN ('pending', 'processing', 'completed');
