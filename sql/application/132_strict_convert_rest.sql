-- @strict
-- What was written in an older word between 130 and 131; nothing new can come after this.

UPDATE public.generations
   SET status = CASE status WHEN 'pending' THEN 'queued' WHEN 'processing' THEN 'generating' ELSE 'success' END
 WHERE status IN ('pending', 'processing', 'completed');
