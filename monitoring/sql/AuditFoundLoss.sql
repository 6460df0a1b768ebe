-- Results that were stored, were found gone from storage within the last day, and that KIE has no more.
SELECT 'AuditFoundLoss' AS alert, 'page' AS severity, count(*)::float8 AS value,
       'lost, for instance ' || min(generation_id) AS says
  FROM reconciler.work
 WHERE lost_at > now() - interval '1 day'
HAVING count(*) > 0;
