-- KIE rejects an API key: the finding key_rejected.
SELECT 'KieUnauthorized' AS alert, 'page' AS severity, count(*)::float8 AS value,
       min(why) || ', for instance ' || min(generation_id) AS says
  FROM reconciler.work
 WHERE due_at IS NOT NULL AND finding = 'key_rejected'
HAVING count(*) > 0;
