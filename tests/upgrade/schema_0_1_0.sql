-- A database as kie-reconciler 0.1.0 leaves it after `migrate --application`: from pg_dump, tidied by dump_schema.py.

DO $$
BEGIN
    CREATE ROLE reconciler NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;  -- roles belong to the whole server
END
$$;


CREATE SCHEMA reconciler;

CREATE FUNCTION public.cleanup_old_failed_generations(days_old integer DEFAULT 30) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
        DECLARE
            deleted integer;
        BEGIN
            -- The row as JSON, because result_urls is jsonb here and text[] there, and asset_urls may be missing.
            DELETE FROM public.generations AS g
             WHERE g.status = 'failed'
               AND g.created_at < now() - make_interval(days => days_old)
               AND coalesce(g.asset_url, '') = ''
               AND coalesce(to_jsonb(g) -> 'result_urls', 'null') IN ('null', '[]', '{}', '""', '"[]"')
               AND coalesce(to_jsonb(g) -> 'asset_urls', 'null') IN ('null', '[]', '{}', '""', '"[]"')
               AND NOT EXISTS (SELECT FROM reconciler.assets AS a
                                WHERE a.generation_id = g.id::text AND a.verified_by IS NOT NULL);
            GET DIAGNOSTICS deleted = ROW_COUNT;
            RETURN deleted;
        END
        $$;

CREATE FUNCTION reconciler.allowed_statuses() RETURNS text[]
    LANGUAGE plpgsql STABLE
    SET search_path TO ''
    AS $_$
DECLARE
    condition text;
    words     text[];
    allowed   text[];
BEGIN
    SELECT string_agg('(' || pg_get_expr(c.conbin, c.conrelid) || ')', ' AND ') INTO condition
      FROM pg_constraint AS c
      JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND c.conkey = ARRAY[a.attnum]
     WHERE c.conrelid = to_regclass('public.generations') AND c.contype = 'c' AND a.attname = 'status';
    IF condition IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT array_agg(DISTINCT word) INTO words
      FROM (SELECT unnest(ARRAY['queued', 'generating', 'success', 'failed', 'cancelled',
                                'pending', 'processing', 'completed']) AS word
             UNION
            SELECT replace(literal[1], '''''', '''') FROM regexp_matches(condition, '''((?:[^'']|'''')*)''', 'g') AS literal
             UNION
            SELECT replace(word, '''''', '''')  -- of '{one,two}'::text[]
              FROM regexp_matches(condition, '''\{((?:[^'']|'''')*)\}''', 'g') AS list,
                   regexp_split_to_table(list[1], '[,"]+') AS word
             WHERE word <> '') AS known;
    EXECUTE format('SELECT array_agg(status ORDER BY status) FROM unnest($1) AS generations (status) WHERE %s', condition)
       INTO allowed USING words;
    RETURN coalesce(allowed, '{}');
END
$_$;

CREATE FUNCTION reconciler.announce_generation() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
BEGIN
    PERFORM pg_notify('reconciler_generations', json_build_object(
        'id', NEW.id::text,
        'task_id', left(NEW.task_id::text, 200),  -- a payload of 8,000 bytes would abort the application's INSERT
        'status', left(NEW.status::text, 40))::text);
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'generation not announced: %', SQLERRM;
    RETURN NULL;
END
$$;

CREATE FUNCTION reconciler.first_column(VARIADIC names text[]) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO ''
    BEGIN ATOMIC
 SELECT COALESCE(( SELECT quote_ident(wanted.name) AS quote_ident
            FROM (unnest(first_column.names) WITH ORDINALITY wanted(name, place)
              JOIN pg_attribute a ON ((a.attname = wanted.name)))
           WHERE ((a.attrelid = (to_regclass('public.generations'::text))::oid) AND (a.attnum > 0) AND (NOT a.attisdropped))
           ORDER BY wanted.place
          LIMIT 1), 'NULL'::text) AS "coalesce";
END;

CREATE FUNCTION reconciler.generations_where(condition text, ids text[] DEFAULT NULL::text[]) RETURNS TABLE(id text, task_id text, provider text, kind text, model_key text, status text, error text, asset_url text, created_at timestamp with time zone)
    LANGUAGE plpgsql STABLE
    SET search_path TO ''
    AS $_$
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
$_$;

CREATE FUNCTION reconciler.stored_in_bucket(OUT files bigint, OUT bytes bigint) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO ''
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

CREATE TABLE public.generations (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    user_id uuid,
    kind text,
    model_key text,
    provider text DEFAULT 'kie'::text NOT NULL,
    task_id text,
    status text DEFAULT 'queued'::text NOT NULL,
    prompt text,
    options jsonb DEFAULT '{}'::jsonb NOT NULL,
    result_urls jsonb,
    asset_url text,
    asset_urls jsonb,
    preview_url text,
    error text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT generations_status_check CHECK ((status = ANY (ARRAY['queued'::text, 'generating'::text, 'success'::text, 'failed'::text, 'cancelled'::text])))
);

CREATE TABLE reconciler.assets (
    generation_id text NOT NULL,
    task_id text NOT NULL,
    n integer NOT NULL,
    path text NOT NULL,
    mime text NOT NULL,
    size bigint NOT NULL,
    sha256 text NOT NULL,
    md5 text NOT NULL,
    upload text,
    version text,
    verified_by text,
    stored_at timestamp with time zone
);

CREATE TABLE reconciler.budget (
    key_hash text NOT NULL,
    next_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    rests_until timestamp with time zone
);

CREATE TABLE reconciler.callbacks (
    id bigint NOT NULL,
    task_id text NOT NULL,
    generation_id text,
    body jsonb NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    digest text,
    count integer DEFAULT 1 NOT NULL
);

ALTER TABLE reconciler.callbacks ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME reconciler.callbacks_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE reconciler.creations (
    key_hash text NOT NULL,
    recent timestamp with time zone[] DEFAULT '{}'::timestamp with time zone[] NOT NULL,
    shut timestamp with time zone
);

CREATE TABLE reconciler.events (
    id bigint NOT NULL,
    key text NOT NULL,
    generation_id text NOT NULL,
    kind text NOT NULL,
    payload jsonb NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    announced_at timestamp with time zone,
    tries integer DEFAULT 0 NOT NULL,
    next_at timestamp with time zone,
    dead_at timestamp with time zone,
    trouble text
);

ALTER TABLE reconciler.events ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME reconciler.events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE VIEW reconciler.failed_last_hour AS
 SELECT g.id,
    g.task_id,
    g.kind,
    g.model_key,
    g.error,
    g.created_at,
    e.at AS failed_at
   FROM (reconciler.generations_where('status = ''failed'' AND created_at > now() - interval ''1 hour'''::text, ARRAY( SELECT events.generation_id
           FROM reconciler.events
          WHERE ((events.kind = ANY (ARRAY['failed'::text, 'gave_up'::text])) AND (events.at > (now() - '01:00:00'::interval))))) g(id, task_id, provider, kind, model_key, status, error, asset_url, created_at)
     LEFT JOIN LATERAL ( SELECT max(events.at) AS at
           FROM reconciler.events
          WHERE ((events.generation_id = g.id) AND (events.kind = ANY (ARRAY['failed'::text, 'gave_up'::text])))) e ON (true))
  WHERE ((g.status = 'failed'::text) AND (COALESCE(g.provider, 'kie'::text) = 'kie'::text))
  ORDER BY COALESCE(e.at, g.created_at) DESC;

CREATE TABLE reconciler.instances (
    id uuid NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    seen_at timestamp with time zone DEFAULT now() NOT NULL,
    doing jsonb
);

CREATE TABLE reconciler.leader (
    single boolean DEFAULT true NOT NULL,
    instance uuid NOT NULL,
    until timestamp with time zone NOT NULL,
    CONSTRAINT leader_single_check CHECK (single)
);

CREATE TABLE reconciler.orphans (
    path text NOT NULL,
    why text NOT NULL,
    since timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE reconciler.pace (
    model text NOT NULL,
    mu double precision,
    sigma double precision,
    n integer DEFAULT 0 NOT NULL,
    theta double precision,
    at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE reconciler.requests (
    caller text NOT NULL,
    key text NOT NULL,
    digest text NOT NULL,
    generation_id text,
    at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE reconciler.schema_version (
    file text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE VIEW reconciler.storage_usage AS
 SELECT stored_in_bucket.files,
    stored_in_bucket.bytes,
    pg_size_pretty(stored_in_bucket.bytes) AS size
   FROM reconciler.stored_in_bucket() stored_in_bucket(files, bytes);

CREATE TABLE reconciler.work (
    generation_id text NOT NULL,
    due_at timestamp with time zone,
    early_at timestamp with time zone,
    lease uuid,
    lease_until timestamp with time zone,
    instance uuid,
    woken integer DEFAULT 0 NOT NULL,
    trigger text,
    seen_status text,
    seen_task text,
    sources text[],
    stale boolean DEFAULT false NOT NULL,
    key_hash text,
    family text,
    acknowledged_at timestamp with time zone,
    answered_at timestamp with time zone,
    completed_at timestamp with time zone,
    took interval,
    media_deadline timestamp with time zone,
    looked_at timestamp with time zone,
    looks integer DEFAULT 0 NOT NULL,
    misses integer DEFAULT 0 NOT NULL,
    unknowns integer DEFAULT 0 NOT NULL,
    empties integer DEFAULT 0 NOT NULL,
    why text,
    finding text,
    gave_up boolean DEFAULT false NOT NULL,
    reopened boolean DEFAULT false NOT NULL,
    refunded_at timestamp with time zone,
    delivered_at timestamp with time zone,
    ordered_at timestamp with time zone,
    audit_at timestamp with time zone,
    lost_at timestamp with time zone,
    traceparent text,
    task_since timestamp with time zone,
    former_tasks text[] DEFAULT '{}'::text[] NOT NULL,
    refused text
)
WITH (fillfactor='70');

CREATE VIEW reconciler.stuck_over_10_minutes AS
 SELECT g.id,
    g.task_id,
    g.kind,
    g.model_key,
    g.created_at,
    round(EXTRACT(epoch FROM (now() - since.since))) AS seconds,
    g.status,
    w.why
   FROM ((reconciler.generations_where('status IN (''queued'', ''generating'', ''pending'', ''processing'')'::text) g(id, task_id, provider, kind, model_key, status, error, asset_url, created_at)
     LEFT JOIN reconciler.work w ON ((w.generation_id = g.id)))
     CROSS JOIN LATERAL GREATEST(g.created_at,
        CASE
            WHEN (w.seen_task = g.task_id) THEN w.task_since
            ELSE NULL::timestamp with time zone
        END) since(since))
  WHERE ((COALESCE(g.provider, 'kie'::text) = 'kie'::text) AND (since.since < (now() - '00:10:00'::interval)))
  ORDER BY g.created_at;

CREATE VIEW reconciler.success_rate_24h AS
 SELECT count(*) AS total,
    count(*) FILTER (WHERE (generations_where.status = ANY (ARRAY['success'::text, 'completed'::text]))) AS success,
    count(*) FILTER (WHERE (generations_where.status = 'failed'::text)) AS failed,
    count(*) FILTER (WHERE (generations_where.status = ANY (ARRAY['queued'::text, 'generating'::text, 'pending'::text, 'processing'::text]))) AS in_flight,
    round(((100.0 * (count(*) FILTER (WHERE (generations_where.status = ANY (ARRAY['success'::text, 'completed'::text]))))::numeric) / (NULLIF(count(*), 0))::numeric), 1) AS success_percent
   FROM reconciler.generations_where('created_at > now() - interval ''24 hours'''::text) generations_where(id, task_id, provider, kind, model_key, status, error, asset_url, created_at)
  WHERE (COALESCE(generations_where.provider, 'kie'::text) = 'kie'::text);

CREATE VIEW reconciler.time_to_completion AS
 SELECT count(*) AS delivered,
    round(EXTRACT(epoch FROM avg((w.delivered_at - g.created_at))), 1) AS mean_seconds,
    round(EXTRACT(epoch FROM percentile_cont((0.95)::double precision) WITHIN GROUP (ORDER BY (w.delivered_at - g.created_at))), 1) AS p95_seconds
   FROM (reconciler.generations_where('created_at > now() - interval ''24 hours'''::text) g(id, task_id, provider, kind, model_key, status, error, asset_url, created_at)
     JOIN reconciler.work w ON (((w.generation_id = g.id) AND (w.delivered_at IS NOT NULL))))
  WHERE (COALESCE(g.provider, 'kie'::text) = 'kie'::text);

CREATE TABLE reconciler.timings (
    id bigint NOT NULL,
    model text NOT NULL,
    took double precision NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE reconciler.timings ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME reconciler.timings_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE reconciler.watching (
    single boolean DEFAULT true NOT NULL,
    until timestamp with time zone NOT NULL,
    CONSTRAINT watching_single_check CHECK (single)
);

INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('010_reconciler_schema.sql', '706d88f19e37f92af416bfe1a4158b44981611acea53bce6f7e49da9db1b7e12', '2026-11-30 23:45:16.179014+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('020_reconciler_tables.sql', 'd662cdcec7631555e28aa2de5ca2092984cb43c2c84bb828f1cf0c1a2de4e5d3', '2026-11-30 23:45:16.187506+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('021_allowed_statuses.sql', '4da7a3a01f1e925efd44e09b2ec83244d37137ca8b18882c43e9331007c93cc4', '2026-11-30 23:45:16.217428+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('022_http_tables.sql', 'ec8d4eab22acb52354d16666a53beff66aa197b89d883890c09255e47e21c9ba', '2026-11-30 23:45:16.222803+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('023_audit.sql', '5f1553d55002a2cdb77c043616abdb923b4ba4ee3565aa5a64066ca6533f5500', '2026-11-30 23:45:16.23265+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('024_watching.sql', '4988ee1e2ab1262b901af4508320552fc6b8cbbe8857b3613b0c245d45f283e8', '2026-11-30 23:45:16.236122+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('025_trace.sql', '0637d016e81cdf7a63df3be240ce159c73b49d522259c3bd6a43de94bbdaea67', '2026-11-30 23:45:16.239298+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('026_rests.sql', '443bae69dc3b711e9175542b6e38c69f3d2130cd7aac78be829f0bac25a3c3c1', '2026-11-30 23:45:16.241048+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('027_task_since.sql', '013e2c8e4a5928e09fa32bacbce4132ceeabe5cdd95f665b2498c2e61d71683f', '2026-11-30 23:45:16.24326+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('028_refused.sql', '9e4cca9763ea2de9870c589e5d56c88db1c65007a87792c658ddcbb403df713d', '2026-11-30 23:45:16.245429+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('030_announce.sql', 'ebfd5884e5c87c46396c7692229f0d9cdd0fde379389ae933e650bffb681982a', '2026-11-30 23:45:16.247177+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('050_views.sql', 'e4c96acb82c15a26d524059aeb3dae7937251f667d353983bbff3d018d18cf59', '2026-11-30 23:45:16.250125+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('application/110_table.sql', 'fffbece74dfbd4199d9293386ce5315847ac4ff0c08d45d16e9c764ba92c7839', '2026-11-30 23:45:16.259997+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('application/120_statuses.sql', '713e8db42f9e63e7c79f0f9cd8c7fb13c907e685c1934056d543a7026b1c2a18', '2026-11-30 23:45:16.265244+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('application/140_statuses_validated.sql', '31d569e05130de10629528f66b234d60be813e864a5ab0d13a302c96238fac50', '2026-11-30 23:45:16.271815+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('application/150_policies.sql', '616747a04db922d5d3519fbfbfbae48879ac0375595d41ad064fa6cdfc43a562', '2026-11-30 23:45:16.273336+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('application/160_storage.sql', '807117604020ba6af4e59c63548d4c9272a7135620f5698c73a82b7d39476a56', '2026-11-30 23:45:16.27492+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('application/170_cleanup.sql', '3c31cbd7821f154a1a631b285062dbdb684fe754535d01ffdc6731ccefd263a7', '2026-11-30 23:45:16.277755+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('031_triggers.sql', 'f6757b99f4ba6fa665189cad00fbc7246cb1c1ea713706a06cf2b6d2d0738048', '2026-11-30 23:45:16.279682+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('060_role.sql', '52bf7d773e755ce66b6b3350ec74b1f366dfaf7eed1d774f42319ba2dc2a064c', '2026-11-30 23:45:16.283135+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('040_open_index.sql', '42afb9ad1d9d8ca2af81eff3b4ffa798edc5ca99994e7d2bcb7fba002a11add6', '2026-11-30 23:45:16.314347+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('041_failed_index.sql', 'b13994edd5e54547ff6e72263a21e4a7291b1a2be91bc6fcf6c9644866dd5edd', '2026-11-30 23:45:16.318919+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('application/180_task_index.sql', 'a16756b6b69386f9b8e0b62f630eebb43c39e1379361945440a656df0eae45c5', '2026-11-30 23:45:16.322615+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('application/181_user_index.sql', 'bb8623c509584206a8d7a184890a7a76e433b17d6ebcbb972110423a05fe7ba6', '2026-11-30 23:45:16.325691+00');
INSERT INTO reconciler.schema_version (file, sha256, applied_at) VALUES ('application/182_created_index.sql', '022c78c9d98f9c73aef93c4a3f3f4ca03b8b075f39b2f6e5a4b7d70414fc6214', '2026-11-30 23:45:16.32851+00');

SELECT pg_catalog.setval('reconciler.callbacks_id_seq', 1, false);

SELECT pg_catalog.setval('reconciler.events_id_seq', 1, false);

SELECT pg_catalog.setval('reconciler.timings_id_seq', 1, false);

ALTER TABLE ONLY public.generations
    ADD CONSTRAINT generations_pkey PRIMARY KEY (id);

ALTER TABLE ONLY reconciler.assets
    ADD CONSTRAINT assets_pkey PRIMARY KEY (generation_id, task_id, n);

ALTER TABLE ONLY reconciler.budget
    ADD CONSTRAINT budget_pkey PRIMARY KEY (key_hash);

ALTER TABLE ONLY reconciler.callbacks
    ADD CONSTRAINT callbacks_pkey PRIMARY KEY (id);

ALTER TABLE ONLY reconciler.creations
    ADD CONSTRAINT creations_pkey PRIMARY KEY (key_hash);

ALTER TABLE ONLY reconciler.events
    ADD CONSTRAINT events_key_key UNIQUE (key);

ALTER TABLE ONLY reconciler.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (id);

ALTER TABLE ONLY reconciler.instances
    ADD CONSTRAINT instances_pkey PRIMARY KEY (id);

ALTER TABLE ONLY reconciler.leader
    ADD CONSTRAINT leader_pkey PRIMARY KEY (single);

ALTER TABLE ONLY reconciler.orphans
    ADD CONSTRAINT orphans_pkey PRIMARY KEY (path);

ALTER TABLE ONLY reconciler.pace
    ADD CONSTRAINT pace_pkey PRIMARY KEY (model);

ALTER TABLE ONLY reconciler.requests
    ADD CONSTRAINT requests_pkey PRIMARY KEY (caller, key);

ALTER TABLE ONLY reconciler.schema_version
    ADD CONSTRAINT schema_version_pkey PRIMARY KEY (file);

ALTER TABLE ONLY reconciler.timings
    ADD CONSTRAINT timings_pkey PRIMARY KEY (id);

ALTER TABLE ONLY reconciler.watching
    ADD CONSTRAINT watching_pkey PRIMARY KEY (single);

ALTER TABLE ONLY reconciler.work
    ADD CONSTRAINT work_pkey PRIMARY KEY (generation_id);

CREATE INDEX generations_created_at ON public.generations USING btree (created_at);

CREATE INDEX generations_reconciler_failed ON public.generations USING btree (created_at) WHERE ((status = 'failed'::text) AND (asset_url IS NULL));

CREATE INDEX generations_reconciler_open ON public.generations USING btree (id) WHERE ((status = ANY (ARRAY['queued'::text, 'generating'::text, 'pending'::text, 'processing'::text])) OR ((status = ANY (ARRAY['success'::text, 'completed'::text])) AND (asset_url IS NULL)));

CREATE INDEX generations_task_id ON public.generations USING btree (task_id) WHERE (task_id IS NOT NULL);

CREATE INDEX generations_user_id_created_at ON public.generations USING btree (user_id, created_at DESC);

CREATE INDEX callbacks_generation ON reconciler.callbacks USING btree (generation_id) WHERE (generation_id IS NOT NULL);

CREATE UNIQUE INDEX callbacks_once ON reconciler.callbacks USING btree (task_id, digest);

CREATE INDEX callbacks_task ON reconciler.callbacks USING btree (task_id);

CREATE INDEX events_at ON reconciler.events USING btree (at);

CREATE INDEX events_dead ON reconciler.events USING btree (dead_at) WHERE (dead_at IS NOT NULL);

CREATE INDEX events_due ON reconciler.events USING btree (COALESCE(next_at, '-infinity'::timestamp with time zone), id) WHERE ((announced_at IS NULL) AND (dead_at IS NULL));

CREATE INDEX events_generation ON reconciler.events USING btree (generation_id);

CREATE INDEX events_unannounced ON reconciler.events USING btree (id) WHERE (announced_at IS NULL);

CREATE INDEX requests_at ON reconciler.requests USING btree (at);

CREATE INDEX timings_model ON reconciler.timings USING btree (model, id);

CREATE INDEX work_audit_at ON reconciler.work USING btree (audit_at) WHERE (audit_at IS NOT NULL);

CREATE INDEX work_delivered_at ON reconciler.work USING btree (delivered_at) WHERE (delivered_at IS NOT NULL);

CREATE INDEX work_due_at ON reconciler.work USING btree (due_at) WHERE (due_at IS NOT NULL);

CREATE INDEX work_lost_at ON reconciler.work USING btree (lost_at) WHERE (lost_at IS NOT NULL);

CREATE INDEX work_seen_task ON reconciler.work USING btree (seen_task);

CREATE TRIGGER reconciler_inserted AFTER INSERT ON public.generations FOR EACH ROW EXECUTE FUNCTION reconciler.announce_generation();

CREATE TRIGGER reconciler_updated AFTER UPDATE ON public.generations FOR EACH ROW WHEN (((old.status IS DISTINCT FROM new.status) OR (old.task_id IS DISTINCT FROM new.task_id))) EXECUTE FUNCTION reconciler.announce_generation();

ALTER TABLE public.generations ENABLE ROW LEVEL SECURITY;

CREATE POLICY reconciler_delete ON public.generations FOR DELETE TO reconciler USING (((status = 'failed'::text) AND (asset_url IS NULL)));

CREATE POLICY reconciler_insert ON public.generations FOR INSERT TO reconciler WITH CHECK (true);

CREATE POLICY reconciler_select ON public.generations FOR SELECT TO reconciler USING (true);

CREATE POLICY reconciler_update ON public.generations FOR UPDATE TO reconciler USING (true) WITH CHECK (true);

GRANT USAGE ON SCHEMA reconciler TO reconciler;

REVOKE ALL ON FUNCTION public.cleanup_old_failed_generations(days_old integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION reconciler.allowed_statuses() FROM PUBLIC;
GRANT ALL ON FUNCTION reconciler.allowed_statuses() TO reconciler;

REVOKE ALL ON FUNCTION reconciler.announce_generation() FROM PUBLIC;

REVOKE ALL ON FUNCTION reconciler.first_column(VARIADIC names text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION reconciler.first_column(VARIADIC names text[]) TO reconciler;

REVOKE ALL ON FUNCTION reconciler.generations_where(condition text, ids text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION reconciler.generations_where(condition text, ids text[]) TO reconciler;

REVOKE ALL ON FUNCTION reconciler.stored_in_bucket(OUT files bigint, OUT bytes bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION reconciler.stored_in_bucket(OUT files bigint, OUT bytes bigint) TO reconciler;

GRANT SELECT,INSERT,DELETE ON TABLE public.generations TO reconciler;

GRANT UPDATE(task_id) ON TABLE public.generations TO reconciler;

GRANT UPDATE(status) ON TABLE public.generations TO reconciler;

GRANT UPDATE(result_urls) ON TABLE public.generations TO reconciler;

GRANT UPDATE(asset_url) ON TABLE public.generations TO reconciler;

GRANT UPDATE(asset_urls) ON TABLE public.generations TO reconciler;

GRANT UPDATE(error) ON TABLE public.generations TO reconciler;

GRANT UPDATE(updated_at) ON TABLE public.generations TO reconciler;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE reconciler.assets TO reconciler;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE reconciler.budget TO reconciler;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE reconciler.callbacks TO reconciler;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE reconciler.creations TO reconciler;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE reconciler.events TO reconciler;

GRANT SELECT ON TABLE reconciler.failed_last_hour TO reconciler;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE reconciler.instances TO reconciler;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE reconciler.leader TO reconciler;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE reconciler.orphans TO reconciler;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE reconciler.pace TO reconciler;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE reconciler.requests TO reconciler;

GRANT SELECT ON TABLE reconciler.schema_version TO reconciler;

GRANT SELECT ON TABLE reconciler.storage_usage TO reconciler;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE reconciler.work TO reconciler;

GRANT SELECT ON TABLE reconciler.stuck_over_10_minutes TO reconciler;

GRANT SELECT ON TABLE reconciler.success_rate_24h TO reconciler;

GRANT SELECT ON TABLE reconciler.time_to_completion TO reconciler;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE reconciler.timings TO reconciler;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE reconciler.watching TO reconciler;
