-- The public bucket and the rights to write to it. Reading by address needs no policy: the bucket is public. A SELECT
-- policy for all roles would only let strangers list every user's files, so there is none.

DO $$
BEGIN
    IF to_regclass('storage.buckets') IS NULL OR to_regclass('storage.objects') IS NULL THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM storage.buckets WHERE id = 'generations') THEN
        INSERT INTO storage.buckets (id, name, public) VALUES ('generations', 'generations', true);
    ELSIF EXISTS (SELECT FROM storage.buckets WHERE id = 'generations' AND NOT public) THEN
        RAISE WARNING 'bucket generations is not public: addresses in asset_url will not open';
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'bucket generations left alone: %', SQLERRM;
END
$$;

-- At Supabase the service role bypasses row security; elsewhere it may need a policy.
DO $$
BEGIN
    IF to_regclass('storage.objects') IS NOT NULL AND to_regrole('service_role') IS NOT NULL
       AND NOT EXISTS (SELECT FROM pg_policies WHERE schemaname = 'storage' AND tablename = 'objects'
                          AND policyname = 'generations_service_write') THEN
        CREATE POLICY generations_service_write ON storage.objects
            FOR ALL TO service_role USING (bucket_id = 'generations') WITH CHECK (bucket_id = 'generations');
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'storage policies left alone: %', SQLERRM;
END
$$;
