-- The public bucket and the rights to write to it. Reading by address needs no policy: the bucket is public. A SELECT
-- policy for all roles would only let strangers list every user's files, so there is none. `migrate` names the bucket of
-- RECONCILER_STORAGE_BUCKET in the parameter reconciler.bucket.

DO $$
DECLARE
    bucket constant text := coalesce(nullif(current_setting('reconciler.bucket', true), ''), 'generations');
BEGIN
    IF to_regclass('storage.buckets') IS NULL OR to_regclass('storage.objects') IS NULL THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM storage.buckets WHERE id = bucket) THEN
        INSERT INTO storage.buckets (id, name, public) VALUES (bucket, bucket, true);
    ELSIF EXISTS (SELECT FROM storage.buckets WHERE id = bucket AND NOT public) THEN
        RAISE WARNING 'bucket % is not public: addresses in asset_url will not open', bucket;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'bucket % left alone: %', bucket, SQLERRM;
END
$$;

-- At Supabase the service role bypasses row security; elsewhere it may need a policy.
DO $$
DECLARE
    bucket constant text := coalesce(nullif(current_setting('reconciler.bucket', true), ''), 'generations');
    policy constant text := left(bucket, 40) || '_service_write';
BEGIN
    IF to_regclass('storage.objects') IS NOT NULL AND to_regrole('service_role') IS NOT NULL
       AND NOT EXISTS (SELECT FROM pg_policies WHERE schemaname = 'storage' AND tablename = 'objects'
                          AND policyname = policy) THEN
        EXECUTE format('CREATE POLICY %I ON storage.objects '
                       'FOR ALL TO service_role USING (bucket_id = %L) WITH CHECK (bucket_id = %L)', policy, bucket, bucket);
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'storage policies left alone: %', SQLERRM;
END
$$;
