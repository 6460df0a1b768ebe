-- What rows rest with, beside what has an alert of its own; docs/OPERATIONS.md tells of each under Findings.
SELECT 'FindingOpen' AS alert, 'ticket' AS severity, count(*)::float8 AS value,
       finding || ', for instance ' || min(generation_id) AS says
  FROM reconciler.work
 WHERE due_at IS NOT NULL AND finding IS NOT NULL
   AND finding NOT IN ('key_rejected', 'unpaid_account', 'storage_refuses')
 GROUP BY finding
UNION ALL
-- Who fails rows three times in a row: the hosts of results, or our storage. Of KIE's API KieErrorRate tells.
SELECT 'FindingOpen', 'ticket', count(*)::float8,
       side || '_failing, for instance ' || min(generation_id) || ', ' || min(series->>'reason')
  FROM reconciler.work CROSS JOIN LATERAL jsonb_each(failing) AS failing_side(side, series)
 WHERE due_at IS NOT NULL AND side IN ('source', 'storage') AND (series->>'count')::integer >= 3
   AND finding IS DISTINCT FROM 'storage_refuses'
 GROUP BY side
HAVING count(*) >= 3 OR min((series->>'since')::timestamptz) < now() - interval '5 minutes';
