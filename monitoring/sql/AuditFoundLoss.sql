-- Results that were stored, are gone from storage, and that KIE has no more.
SELECT 'AuditFoundLoss' AS alert, 'page' AS severity, count(*)::float8 AS value,
       'lost, for instance ' || min(generation_id) AS says
  FROM reconciler.work
 WHERE lost_at IS NOT NULL
HAVING count(*) > 0;
