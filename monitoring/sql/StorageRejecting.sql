-- Its key, a policy, a type, a size or the bucket: the finding storage_refuses.
SELECT 'StorageRejecting' AS alert, 'page' AS severity, count(*)::float8 AS value,
       min(why) || ', for instance ' || min(generation_id) AS says
  FROM reconciler.work
 WHERE due_at IS NOT NULL AND finding = 'storage_refuses'
HAVING count(*) > 0;
