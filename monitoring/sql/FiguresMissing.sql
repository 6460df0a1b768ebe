-- Nobody has had the lead for three minutes: nothing old is deleted, and nobody learns the pace.
SELECT 'FiguresMissing' AS alert, 'page' AS severity, 0::float8 AS value, 'replicas lead' AS says
 WHERE NOT EXISTS (SELECT FROM reconciler.leader WHERE until > now() - interval '3 minutes');
