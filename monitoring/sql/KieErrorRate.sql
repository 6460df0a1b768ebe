-- Most of what is in flight has not been answered three times in a row.
SELECT 'KieErrorRate' AS alert, 'ticket' AS severity, count(*) FILTER (WHERE unheard)::float8 AS value,
       'of ' || count(*) || ' in flight are not answered: ' || min(why) FILTER (WHERE unheard) AS says
  FROM (SELECT coalesce((failing->'kie'->>'count')::integer >= 3, false) AS unheard, why
          FROM reconciler.work
         WHERE due_at IS NOT NULL AND seen_status IN ('queued', 'generating', 'pending', 'processing')) AS w
HAVING count(*) FILTER (WHERE unheard) >= 3 AND 2 * count(*) FILTER (WHERE unheard) > count(*);
