-- One that ends in order takes its row along. One that crashed leaves it, for a day or until a new one runs on its host.
SELECT 'ReplicaMissing' AS alert, 'ticket' AS severity, count(*)::float8 AS value,
       'gone without a word, for instance ' || min(host) AS says
  FROM reconciler.instances AS gone
 WHERE seen_at < now() - interval '5 minutes'
   AND NOT EXISTS (SELECT FROM reconciler.instances AS alive
                    WHERE alive.host = gone.host AND alive.started_at > gone.seen_at
                      AND alive.seen_at > now() - interval '2 minutes')
HAVING count(*) > 0;
