-- Storage is away or busy: rows rest and are tried again.
SELECT 'StorageErrorRate' AS alert, 'ticket' AS severity, count(*)::float8 AS value,
       'are to be stored again: ' || min(why) AS says
  FROM reconciler.work
 WHERE due_at IS NOT NULL AND finding IS NULL AND misses > 0 AND (why LIKE 'store: %' OR why LIKE 'prove: %')
HAVING count(*) >= 3;
