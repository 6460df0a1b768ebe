-- Fewer sessions listen than replicas live. Ask with the daemon's own login, or with pg_read_all_stats: others do not
-- see what a session does.
SELECT 'ListenerDeaf' AS alert, 'ticket' AS severity, listening::float8 AS value,
       'listen, and ' || alive || ' replicas are alive' AS says
  FROM (SELECT count(*) AS alive FROM reconciler.instances WHERE seen_at > now() - interval '1 minute') AS i,
       (SELECT count(*) AS listening FROM pg_stat_activity
         WHERE datname = current_database() AND query ILIKE 'LISTEN%reconciler%') AS s
 WHERE listening < alive;
