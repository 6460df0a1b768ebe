-- @strict
-- Rows that were written with an older word between 130 and 131; none can follow.

UPDATE public.generations
   SET status = CASE status WHEN 'pending' THEN 'queued' WHEN 'processing' THEN 'generating' ELSE 'success' END
 WHERE status IN ('pending', 'processing', 'completed');
