-- No video takes an hour.
SELECT 'OldestGenerationTooOld' AS alert, 'ticket' AS severity, max(seconds)::float8 AS value,
       'seconds in flight, for instance ' || (array_agg(id ORDER BY seconds DESC))[1] AS says
  FROM reconciler.stuck_over_10_minutes
HAVING max(seconds) > 3600;
