-- @optional
-- Monitoring for people and dashboards. The application's table is read through a function, late bound: a view over its
-- columns would keep the application from changing them. Ages count from created_at, or from when a row got another task;
-- deliveries from our own receipts. updated_at does not count: any writer may set it.

CREATE OR REPLACE FUNCTION reconciler.first_column(VARIADIC names text[]) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = ''
BEGIN ATOMIC
    SELECT coalesce(
        (SELECT quote_ident(name)
           FROM unnest(names) WITH ORDINALITY AS wanted (name, place)
           JOIN pg_catalog.pg_attribute AS a ON a.attname = wanted.name
          WHERE a.attrelid = pg_catalog.to_regclass('public.generations') AND a.attnum > 0 AND NOT a.attisdropped
          ORDER BY place LIMIT 1),
        'NULL');
END;

-- Returns the rows for which `condition` holds (SQL about id, status, asset_url and created_at), and the rows `ids`. A
-- time of creation may be infinite, or of any year: it is limited to one that can be calculated with.
CREATE OR REPLACE FUNCTION reconciler.generations_where(condition text, ids text[] DEFAULT NULL)
    RETURNS TABLE (id text, task_id text, provider text, kind text, model_key text, status text, error text,
                   asset_url text, created_at timestamptz)
    LANGUAGE plpgsql STABLE
    SET search_path = ''
AS $$
DECLARE
    id_type text;
BEGIN
    SELECT format_type(atttypid, NULL) INTO id_type
      FROM pg_attribute WHERE attrelid = to_regclass('public.generations') AND attname = 'id';
    IF id_type IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY EXECUTE format(
        'SELECT id::text, task_id::text, %s::text, %s::text, %s::text, status::text, %s::text, asset_url::text,'
        ' CASE WHEN created_at IS NOT NULL THEN least(greatest(created_at::timestamptz, ''epoch''), now()) END'
        ' FROM public.generations WHERE (%s)'
        || CASE WHEN ids IS NULL THEN '' ELSE ' OR id = ANY ($1::%s[])' END,
        reconciler.first_column('provider'), reconciler.first_column('kind', 'type'),
        reconciler.first_column('model_key', 'model_id', 'model', 'model_name'),
        reconciler.first_column('error', 'error_message'), condition, id_type) USING ids;
END
$$;

-- It runs as its owner, because the role reconciler may not read storage.objects; it returns two numbers.
CREATE OR REPLACE FUNCTION reconciler.stored_in_bucket(OUT files bigint, OUT bytes bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = ''
AS $$
BEGIN
    IF to_regclass('storage.objects') IS NOT NULL THEN
        SELECT count(*), coalesce(sum((metadata ->> 'size')::bigint), 0) INTO files, bytes
          FROM storage.objects WHERE bucket_id = 'generations';
    ELSE
        SELECT count(*), coalesce(sum(size), 0) INTO files, bytes
          FROM reconciler.assets WHERE verified_by IS NOT NULL;
    END IF;
END
$$;

REVOKE ALL ON FUNCTION reconciler.first_column(text[]), reconciler.generations_where(text, text[]),
    reconciler.stored_in_bucket() FROM PUBLIC;

CREATE OR REPLACE VIEW reconciler.success_rate_24h AS
SELECT count(*) AS total,
       count(*) FILTER (WHERE status IN ('success', 'completed')) AS success,
       count(*) FILTER (WHERE status = 'failed') AS failed,
       count(*) FILTER (WHERE status IN ('queued', 'generating', 'pending', 'processing')) AS in_flight,
       round(100.0 * count(*) FILTER (WHERE status IN ('success', 'completed')) / nullif(count(*), 0), 1) AS success_percent
  FROM reconciler.generations_where('created_at > now() - interval ''24 hours''')
 WHERE coalesce(provider, 'kie') = 'kie';

CREATE OR REPLACE VIEW reconciler.time_to_completion AS
SELECT count(*) AS delivered,
       round(extract(epoch FROM avg(w.delivered_at - g.created_at)), 1) AS mean_seconds,
       round(extract(epoch FROM percentile_cont(0.95) WITHIN GROUP (ORDER BY w.delivered_at - g.created_at)), 1) AS p95_seconds
  FROM reconciler.generations_where('created_at > now() - interval ''24 hours''') AS g
  JOIN reconciler.work AS w ON w.generation_id = g.id AND w.delivered_at IS NOT NULL
 WHERE coalesce(g.provider, 'kie') = 'kie';

CREATE OR REPLACE VIEW reconciler.storage_usage AS
SELECT files, bytes, pg_size_pretty(bytes) AS size FROM reconciler.stored_in_bucket();

CREATE OR REPLACE VIEW reconciler.stuck_over_10_minutes AS
SELECT g.id, g.task_id, g.kind, g.model_key, g.created_at,
       round(extract(epoch FROM now() - since)) AS seconds,
       g.status, w.why
  FROM reconciler.generations_where('status IN (''queued'', ''generating'', ''pending'', ''processing'')') AS g
  LEFT JOIN reconciler.work AS w ON w.generation_id = g.id
 CROSS JOIN LATERAL greatest(g.created_at, CASE WHEN w.seen_task = g.task_id THEN w.task_since END) AS since
 WHERE coalesce(g.provider, 'kie') = 'kie' AND since < now() - interval '10 minutes'
 ORDER BY g.created_at;

-- A failure that we wrote has its time in our events; of others only the time of creation is certain.
CREATE OR REPLACE VIEW reconciler.failed_last_hour AS
SELECT g.id, g.task_id, g.kind, g.model_key, g.error, g.created_at, e.at AS failed_at
  FROM reconciler.generations_where(
           'status = ''failed'' AND created_at > now() - interval ''1 hour''',
           ARRAY(SELECT generation_id FROM reconciler.events
                  WHERE kind IN ('failed', 'gave_up') AND at > now() - interval '1 hour')) AS g
  LEFT JOIN LATERAL (SELECT max(at) AS at FROM reconciler.events
                      WHERE generation_id = g.id AND kind IN ('failed', 'gave_up')) AS e ON true
 WHERE g.status = 'failed' AND coalesce(g.provider, 'kie') = 'kie'
 ORDER BY coalesce(e.at, g.created_at) DESC;
