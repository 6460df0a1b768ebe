-- Deletes generations that failed more than so many days ago with nothing stored; returns how many. For a cron job of
-- the application; the daemon's own cleanup follows the same rule. It runs as its owner, because the service role may not
-- read schema reconciler. A function of the application by that name stays; that of 0.1.0, which counted the days from
-- the creation, is replaced.

DO $outer$
DECLARE
    stranger text;
BEGIN
    IF to_regprocedure('public.cleanup_old_failed_generations(integer)') IS NULL
       OR EXISTS (SELECT FROM pg_proc WHERE oid = to_regprocedure('public.cleanup_old_failed_generations(integer)')
                     AND md5(prosrc) = 'f5cfe332ac9ffd4d6d14b38abf41a1cb' AND pg_has_role(proowner, 'USAGE')) THEN
        CREATE OR REPLACE FUNCTION public.cleanup_old_failed_generations(days_old integer DEFAULT 30) RETURNS integer
            LANGUAGE plpgsql SECURITY DEFINER
            SET search_path = ''
        AS $$
        DECLARE
            deleted integer;
        BEGIN
            -- The row as JSON, because result_urls is jsonb here and text[] there, and asset_urls may be missing.
            DELETE FROM public.generations AS g
             WHERE g.status = 'failed'
               AND g.created_at < now() - make_interval(days => days_old)
               AND reconciler.failure_time(g.id::text, g.task_id::text, g.created_at::timestamptz,
                                           (to_jsonb(g) ->> 'updated_at')::timestamptz)
                   < now() - make_interval(days => days_old)
               AND coalesce(g.asset_url, '') = ''
               AND coalesce(to_jsonb(g) -> 'result_urls', 'null') IN ('null', '[]', '{}', '""', '"[]"')
               AND coalesce(to_jsonb(g) -> 'asset_urls', 'null') IN ('null', '[]', '{}', '""', '"[]"')
               AND NOT EXISTS (SELECT FROM reconciler.assets AS a
                                WHERE a.generation_id = g.id::text AND a.verified_by IS NOT NULL)
               -- A row that was given up or reopened is still asked about.
               AND NOT EXISTS (SELECT FROM reconciler.work AS w
                                WHERE w.generation_id = g.id::text AND (w.gave_up OR w.reopened)
                                  AND w.due_at IS NOT NULL);
            GET DIAGNOSTICS deleted = ROW_COUNT;
            RETURN deleted;
        END
        $$;
        REVOKE ALL ON FUNCTION public.cleanup_old_failed_generations(integer) FROM PUBLIC;
        IF to_regrole('service_role') IS NOT NULL THEN
            GRANT EXECUTE ON FUNCTION public.cleanup_old_failed_generations(integer) TO service_role;
        END IF;
    END IF;
    -- Supabase grants every new function of public to these two roles, and their own grant outlives the REVOKE above.
    FOREACH stranger IN ARRAY ARRAY['anon', 'authenticated'] LOOP
        IF to_regrole(stranger) IS NOT NULL
           AND has_function_privilege(stranger, 'public.cleanup_old_failed_generations(integer)', 'EXECUTE') THEN
            REVOKE ALL ON FUNCTION public.cleanup_old_failed_generations(integer) FROM PUBLIC;
            EXECUTE format('REVOKE ALL ON FUNCTION public.cleanup_old_failed_generations(integer) FROM %I', stranger);
        END IF;
    END LOOP;
END
$outer$;
