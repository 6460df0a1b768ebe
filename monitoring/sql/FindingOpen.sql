-- What rows rest with, beside what has an alert of its own; docs/OPERATIONS.md tells of each under Findings.
SELECT 'FindingOpen' AS alert, 'ticket' AS severity, count(*)::float8 AS value,
       finding || ', for instance ' || min(generation_id) AS says
  FROM reconciler.work
 WHERE due_at IS NOT NULL AND finding IS NOT NULL
   AND finding NOT IN ('key_rejected', 'unpaid_account', 'storage_refuses')
 GROUP BY finding;
