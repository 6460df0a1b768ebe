-- No replica has told of itself for two minutes.
SELECT 'DaemonDown' AS alert, 'page' AS severity, 0::float8 AS value,
       'replicas alive, the last was seen ' || coalesce(max(seen_at)::text, 'more than a day ago') AS says
  FROM reconciler.instances
HAVING coalesce(max(seen_at), '-infinity') < now() - interval '2 minutes';
