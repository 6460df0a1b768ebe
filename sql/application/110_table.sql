-- The application's table as the specification has it; an older table keeps what it has and gets what it lacks.

DO $$
DECLARE
    had       text[];
    additions text;
    stranger  text;
BEGIN
    IF to_regclass('public.generations') IS NULL THEN
        CREATE TABLE public.generations (
            id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            user_id     uuid,
            kind        text,
            model_key   text,
            provider    text NOT NULL DEFAULT 'kie',
            task_id     text,
            status      text NOT NULL DEFAULT 'queued',
            prompt      text,
            options     jsonb NOT NULL DEFAULT '{}',
            result_urls jsonb,
            asset_url   text,
            asset_urls  jsonb,
            preview_url text,
            error       text,
            created_at  timestamptz NOT NULL DEFAULT now(),
            updated_at  timestamptz NOT NULL DEFAULT now()
        );
        -- Supabase lets anon and authenticated write to every new table of public unless row security says otherwise.
        ALTER TABLE public.generations ENABLE ROW LEVEL SECURITY;
        FOREACH stranger IN ARRAY ARRAY['anon', 'authenticated'] LOOP
            IF to_regrole(stranger) IS NOT NULL THEN
                EXECUTE format('REVOKE ALL ON public.generations FROM %I', stranger);  -- row security knows no TRUNCATE
            END IF;
        END LOOP;
        RETURN;
    END IF;

    SELECT array_agg(attname::text) INTO had
      FROM pg_attribute
     WHERE attrelid = to_regclass('public.generations') AND attnum > 0 AND NOT attisdropped;
    -- `instead` are older names of the same column: where one of them exists, nothing is added.
    SELECT string_agg(format('ADD COLUMN %I %s', lacking.name, lacking.kind), ', ' ORDER BY lacking.place) INTO additions
      FROM (VALUES
            (1, 'user_id', 'uuid', '{}'::text[]),
            (2, 'kind', 'text', '{type}'),
            (3, 'model_key', 'text', '{model_id,model,model_name}'),
            (4, 'provider', 'text NOT NULL DEFAULT ''kie''', '{}'),
            (5, 'task_id', 'text', '{}'),
            (6, 'status', 'text', '{}'),
            (7, 'prompt', 'text', '{}'),
            (8, 'options', 'jsonb NOT NULL DEFAULT ''{}''', '{}'),
            (9, 'result_urls', 'jsonb', '{}'),
            (10, 'asset_url', 'text', '{}'),
            (11, 'asset_urls', 'jsonb', '{}'),
            (12, 'preview_url', 'text', '{}'),
            (13, 'error', 'text', '{error_message}'),
            (14, 'created_at', 'timestamptz NOT NULL DEFAULT now()', '{}'),
            (15, 'updated_at', 'timestamptz NOT NULL DEFAULT now()', '{}')
           ) AS lacking (place, name, kind, instead)
     WHERE NOT lacking.name = ANY (had) AND NOT lacking.instead && had;
    IF additions IS NOT NULL THEN
        EXECUTE 'ALTER TABLE public.generations ' || additions;
    END IF;
END
$$;
