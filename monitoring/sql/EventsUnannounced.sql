-- Events that somebody was to be told of: tried in vain for ten minutes, or given up. Where nobody is to be told none
-- is tried.
SELECT 'EventsUnannounced' AS alert, 'ticket' AS severity, count(*)::float8 AS value,
       CASE WHEN dead_at IS NULL THEN 'wait' ELSE 'were given up' END || ', last answer: ' || coalesce(max(trouble), 'none') AS says
  FROM reconciler.events
 WHERE announced_at IS NULL AND tries > 0 AND (dead_at IS NOT NULL OR at < now() - interval '10 minutes')
 GROUP BY (dead_at IS NULL), CASE WHEN dead_at IS NULL THEN 'wait' ELSE 'were given up' END;
