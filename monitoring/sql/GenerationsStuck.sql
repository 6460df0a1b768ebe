-- Somebody has paid and waits. RECONCILER_STUCK_AFTER is not known here: the view counts from ten minutes on.
SELECT 'GenerationsStuck' AS alert, 'page' AS severity, count(*)::float8 AS value,
       'in flight for too long, the longest for ' || max(seconds) || ' s' AS says
  FROM reconciler.stuck_over_10_minutes
HAVING count(*) > 0;
