-- Rights through Supabase's API: the service role may do everything, a user may read their own rows, others nothing.
-- Where the table already has a policy for a command, that one stays and ours is not added.

DO $$
DECLARE
    owner_id text;
BEGIN
    IF to_regrole('service_role') IS NOT NULL THEN
        IF NOT has_table_privilege('service_role', 'public.generations', 'INSERT')
           OR NOT has_table_privilege('service_role', 'public.generations', 'UPDATE')
           OR NOT has_table_privilege('service_role', 'public.generations', 'SELECT')
           OR NOT has_table_privilege('service_role', 'public.generations', 'DELETE') THEN
            GRANT SELECT, INSERT, UPDATE, DELETE ON public.generations TO service_role;
        END IF;
        IF NOT EXISTS (SELECT FROM pg_policies WHERE schemaname = 'public' AND tablename = 'generations'
                          AND cmd IN ('INSERT', 'ALL') AND 'service_role' = ANY (roles)) THEN
            CREATE POLICY generations_service_insert ON public.generations
                FOR INSERT TO service_role WITH CHECK (true);
        END IF;
        IF NOT EXISTS (SELECT FROM pg_policies WHERE schemaname = 'public' AND tablename = 'generations'
                          AND cmd IN ('UPDATE', 'ALL') AND 'service_role' = ANY (roles)) THEN
            CREATE POLICY generations_service_update ON public.generations
                FOR UPDATE TO service_role USING (true) WITH CHECK (true);
        END IF;
    END IF;

    IF to_regprocedure('auth.uid()') IS NOT NULL AND to_regrole('authenticated') IS NOT NULL THEN
        IF NOT EXISTS (SELECT FROM pg_policies WHERE schemaname = 'public' AND tablename = 'generations'
                          AND cmd IN ('SELECT', 'ALL') AND roles && '{authenticated,public}'::name[]) THEN
            -- Without row security, or beside another policy or right on columns, it would open all rows to every user.
            IF (SELECT relrowsecurity FROM pg_class WHERE oid = 'public.generations'::regclass)
               AND NOT has_any_column_privilege('authenticated', 'public.generations', 'SELECT') THEN
                GRANT SELECT ON public.generations TO authenticated;
            END IF;
            SELECT CASE WHEN atttypid = 'uuid'::regtype THEN 'user_id' ELSE 'user_id::text' END INTO owner_id
              FROM pg_attribute
             WHERE attrelid = 'public.generations'::regclass AND attname = 'user_id';
            EXECUTE format('CREATE POLICY generations_owner_select ON public.generations FOR SELECT TO authenticated '
                           'USING (%s = (SELECT auth.uid()%s))', owner_id,
                           CASE owner_id WHEN 'user_id' THEN '' ELSE '::text' END);
        END IF;
    END IF;

    IF NOT (SELECT relrowsecurity FROM pg_class WHERE oid = 'public.generations'::regclass) THEN
        IF to_regrole('anon') IS NOT NULL
           AND has_table_privilege('anon', 'public.generations', 'INSERT, UPDATE, DELETE') THEN
            RAISE WARNING 'anybody may write to public.generations: row security is off. To close: '
                          'ALTER TABLE public.generations ENABLE ROW LEVEL SECURITY;';
        ELSIF to_regrole('authenticated') IS NOT NULL
              AND has_any_column_privilege('authenticated', 'public.generations', 'SELECT') THEN
            RAISE WARNING 'every user may read everybody''s rows of public.generations: row security is off. To close: '
                          'ALTER TABLE public.generations ENABLE ROW LEVEL SECURITY;';
        END IF;
    END IF;
END
$$;
