-- When a generation failed: retention counts from then, because a row may fail long after it was created. `failed_at` is
-- written with the failure, or when a visit first sees that the application wrote it.
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS failed_at timestamptz;

-- Returns when the failed row :id with the present task :task failed, or a later time by which it had failed: of a row
-- whose failure no daemon noted, the last of all that is known of it. Returns NULL where nothing is known but when it was
-- created; retention then notes when it first saw the failure. `updated` is the row's updated_at, NULL where it has none.
CREATE OR REPLACE FUNCTION reconciler.failure_time(
    id text, task text, created timestamptz, updated timestamptz) RETURNS timestamptz
    LANGUAGE sql STABLE
    SET search_path = ''
AS $$
    SELECT CASE
        WHEN w.failed_at >= coalesce(w.task_since, '-infinity') AND w.seen_task IS NOT DISTINCT FROM $2
        THEN greatest(w.failed_at, $3)
        ELSE (SELECT greatest($3, known.at) FROM (SELECT greatest(
                  w.failed_at, w.looked_at, w.task_since, w.ordered_at,
                  CASE WHEN $4 < now() + interval '1 day' THEN $4 END,
                  (SELECT max(e.at) FROM reconciler.events AS e
                    WHERE e.generation_id = $1 AND e.kind IN ('failed', 'gave_up')))) AS known (at)
               WHERE known.at IS NOT NULL)
        END
      FROM (SELECT) AS one LEFT JOIN reconciler.work AS w ON w.generation_id = $1
$$;
REVOKE ALL ON FUNCTION reconciler.failure_time(text, text, timestamptz, timestamptz) FROM PUBLIC;
