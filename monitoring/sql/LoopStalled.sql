-- Rows that no notification told of wait for a sweep, which comes every 15 seconds. Where RECONCILER_PROVIDERS or
-- RECONCILER_TASK_PATTERN leave rows alone on purpose, leave those out here too.
SELECT 'LoopStalled' AS alert, 'page' AS severity, count(*)::float8 AS value,
       'found by no sweep, the oldest since ' || min(g.created_at) AS says
  FROM reconciler.generations_where(
           'status IN (''queued'', ''generating'', ''pending'', ''processing'')'
           ' AND created_at < now() - interval ''2 minutes''') AS g
  LEFT JOIN reconciler.work AS w ON w.generation_id = g.id
 WHERE w.generation_id IS NULL AND coalesce(g.provider, 'kie') = 'kie'
HAVING count(*) > 0;
