-- @follows reconciler.work
-- The role that `run` needs, and nothing more. It cannot log in: make a login that is a member of it,
--   CREATE ROLE kie_daemon LOGIN PASSWORD '…' IN ROLE reconciler;
-- Policies TO reconciler hold for its members; BYPASSRLS would not be inherited.

DO $$
DECLARE
    kept record;
BEGIN
    IF to_regrole('reconciler') IS NULL THEN
        BEGIN
            CREATE ROLE reconciler NOLOGIN;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN
                NULL;  -- another database of this server made it at the same moment
            WHEN insufficient_privilege THEN
                RAISE WARNING 'no role reconciler: this user may not create roles; run works as the owner of the tables';
                RETURN;
        END;
    END IF;

    IF NOT has_schema_privilege('reconciler', 'reconciler', 'USAGE') THEN
        GRANT USAGE ON SCHEMA reconciler TO reconciler;
    END IF;
    IF NOT has_schema_privilege('reconciler', 'public', 'USAGE') THEN
        GRANT USAGE ON SCHEMA public TO reconciler;
    END IF;
    FOR kept IN
        SELECT c.oid::regclass AS name, needed
          FROM pg_class AS c
         CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS needed
         WHERE c.relnamespace = 'reconciler'::regnamespace
           AND (c.relkind IN ('r', 'p') OR (c.relkind = 'v' AND needed = 'SELECT'))
           AND (c.relname <> 'schema_version' OR needed = 'SELECT')
           AND NOT has_table_privilege('reconciler', c.oid, needed)
    LOOP
        EXECUTE format('GRANT %s ON %s TO reconciler', kept.needed, kept.name);
    END LOOP;
    FOR kept IN
        SELECT p.oid::regprocedure AS name
          FROM pg_proc AS p
         WHERE p.pronamespace = 'reconciler'::regnamespace AND p.prorettype <> 'trigger'::regtype
           AND NOT has_function_privilege('reconciler', p.oid, 'EXECUTE')
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO reconciler', kept.name);
    END LOOP;
END
$$;

-- The application's table: read and add rows, change only what the daemon writes. Failed rows are deleted by the function
-- of 078_delete_failed.sql.
DO $$
DECLARE
    written record;
    policy  record;
BEGIN
    IF to_regrole('reconciler') IS NULL OR to_regclass('public.generations') IS NULL THEN
        RETURN;
    END IF;
    FOR written IN
        SELECT needed
          FROM unnest(ARRAY['SELECT', 'INSERT']) AS needed
         WHERE NOT has_table_privilege('reconciler', 'public.generations', needed)
    LOOP
        EXECUTE format('GRANT %s ON public.generations TO reconciler', written.needed);
    END LOOP;
    FOR written IN
        SELECT attname
          FROM pg_attribute
         WHERE attrelid = 'public.generations'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
           AND attname IN ('status', 'task_id', 'result_urls', 'asset_url', 'asset_urls', 'error', 'error_message',
                           'updated_at', 'original_path', 'preview_status', 'preview_url', 'result_json', 'completed_at')
           AND NOT has_column_privilege('reconciler', 'public.generations', attname, 'UPDATE')
    LOOP
        EXECUTE format('GRANT UPDATE (%I) ON public.generations TO reconciler', written.attname);
    END LOOP;

    -- A superuser may migrate. The deletion then runs with the rights of the table's owner, not with all of them.
    IF EXISTS (SELECT FROM pg_proc AS p JOIN pg_class AS c ON c.oid = 'public.generations'::regclass
                WHERE p.oid = to_regprocedure('reconciler.delete_failed(text[])') AND p.proowner <> c.relowner
                  AND (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)) THEN
        EXECUTE format('ALTER FUNCTION reconciler.delete_failed(text[]) OWNER TO %s',
                       (SELECT relowner::regrole FROM pg_class WHERE oid = 'public.generations'::regclass));
    END IF;

    IF NOT (SELECT relrowsecurity FROM pg_class WHERE oid = 'public.generations'::regclass) THEN
        RETURN;
    END IF;
    FOR policy IN
        SELECT name, rule
          FROM (VALUES
                ('reconciler_select', 'FOR SELECT TO reconciler USING (true)'),
                ('reconciler_insert', 'FOR INSERT TO reconciler WITH CHECK (true)'),
                ('reconciler_update', 'FOR UPDATE TO reconciler USING (true) WITH CHECK (true)'),
                ('reconciler_delete', 'FOR DELETE TO reconciler USING (status = ''failed'' AND asset_url IS NULL)')
               ) AS wanted (name, rule)
         WHERE NOT EXISTS (SELECT FROM pg_policy
                            WHERE polrelid = 'public.generations'::regclass AND polname = wanted.name)
           -- An older table may lack a column that a rule names; the next migrate tries again.
           AND NOT (rule LIKE '%asset_url%' AND NOT EXISTS (
                   SELECT FROM pg_attribute
                    WHERE attrelid = 'public.generations'::regclass AND attname = 'asset_url' AND NOT attisdropped))
    LOOP
        EXECUTE format('CREATE POLICY %I ON public.generations %s', policy.name, policy.rule);
    END LOOP;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'role reconciler got no rights on public.generations (%): its owner must migrate', SQLERRM;
END
$$;
