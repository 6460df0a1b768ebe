-- When a generation failed: retention counts from then, because a row may fail long after it was created. `failed_at` is
-- written with the failure, or when a visit first sees that the application wrote it.
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS failed_at timestamptz;

-- Returns when these failed rows with these present tasks failed, or a later time by which they had failed: of a row whose
-- failure no daemon noted, the last of all that is known of it. `at` is NULL where nothing is known but when the row was
-- created; retention then notes when it first saw the failure. `updated` is the row's updated_at, NULL where it has none.
CREATE OR REPLACE FUNCTION reconciler.failure_times(
    ids text[], tasks text[], created timestamptz[], updated timestamptz[]) RETURNS TABLE (id text, at timestamptz)
    LANGUAGE sql STABLE
    SET search_path = ''
AS $$
    SELECT f.id, CASE
        WHEN w.failed_at >= coalesce(w.task_since, '-infinity') AND w.seen_task IS NOT DISTINCT FROM f.task
        THEN greatest(w.failed_at, f.created)
        ELSE (SELECT greatest(f.created, known.at) FROM (SELECT greatest(
                  w.failed_at, w.looked_at, w.task_since, w.ordered_at,
                  CASE WHEN f.updated < now() + interval '1 day' THEN f.updated END,
                  (SELECT max(e.at) FROM reconciler.events AS e
                    WHERE e.generation_id = f.id AND e.kind IN ('failed', 'gave_up')))) AS known (at)
               WHERE known.at IS NOT NULL)
        END
      FROM unnest($1, $2, $3, $4) AS f (id, task, created, updated)
      LEFT JOIN reconciler.work AS w ON w.generation_id = f.id
$$;
REVOKE ALL ON FUNCTION reconciler.failure_times(text[], text[], timestamptz[], timestamptz[]) FROM PUBLIC;

-- The same for one row.
CREATE OR REPLACE FUNCTION reconciler.failure_time(
    id text, task text, created timestamptz, updated timestamptz) RETURNS timestamptz
    LANGUAGE sql STABLE COST 1000
    SET search_path = ''
AS $$
    SELECT f.at FROM reconciler.failure_times(ARRAY[$1], ARRAY[$2], ARRAY[$3], ARRAY[$4]) AS f
$$;
REVOKE ALL ON FUNCTION reconciler.failure_time(text, text, timestamptz, timestamptz) FROM PUBLIC;
