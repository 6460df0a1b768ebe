-- The account has no credits or a key's cap is reached: the finding unpaid_account.
SELECT 'KieOutOfCredits' AS alert, 'page' AS severity, count(*)::float8 AS value,
       min(why) || ', for instance ' || min(generation_id) AS says
  FROM reconciler.work
 WHERE due_at IS NOT NULL AND finding = 'unpaid_account'
HAVING count(*) > 0;
