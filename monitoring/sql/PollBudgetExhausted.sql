-- Due, and in nobody's hands: more is in flight than RECONCILER_POLL_RATE can ask about.
SELECT 'PollBudgetExhausted' AS alert, 'ticket' AS severity, count(*)::float8 AS value,
       'wait for a request to KIE, the first since ' || min(due_at) AS says
  FROM reconciler.work
 WHERE due_at < now() - interval '1 second' AND (lease_until IS NULL OR lease_until < now())
HAVING count(*) > 25;
