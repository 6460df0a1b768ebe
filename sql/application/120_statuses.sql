-- The CHECK on status must know the five statuses of the specification; a status in the old CHECK or in a row stays allowed.

DO $$
DECLARE
    wanted  constant text[] := ARRAY['queued', 'generating', 'success', 'failed', 'cancelled'];
    allowed constant text[] := reconciler.allowed_statuses();
    held    text[];
    dropped text;
    words   text;
BEGIN
    IF wanted <@ allowed THEN
        RETURN;
    END IF;
    EXECUTE 'SELECT array_agg(DISTINCT status::text) FROM public.generations WHERE status IS NOT NULL' INTO held;
    SELECT string_agg(quote_literal(word), ', ' ORDER BY array_position(wanted, word), word) INTO words
      FROM (SELECT DISTINCT unnest(wanted || allowed || held) AS word) AS every;
    SELECT string_agg(format('DROP CONSTRAINT %I, ', c.conname), '') INTO dropped
      FROM pg_constraint AS c
      JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND c.conkey = ARRAY[a.attnum]
     WHERE c.conrelid = to_regclass('public.generations') AND c.contype = 'c' AND a.attname = 'status';
    EXECUTE format('ALTER TABLE public.generations %s ADD CONSTRAINT generations_status_check CHECK (status IN (%s)) NOT VALID',
                   dropped, words);
END
$$;

-- A default that the CHECK refuses makes every INSERT fail that names no status.
DO $$
DECLARE
    allowed constant text[] := reconciler.allowed_statuses();
    preset  text;
BEGIN
    SELECT pg_get_expr(d.adbin, d.adrelid) INTO preset
      FROM pg_attrdef AS d
      JOIN pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
     WHERE d.adrelid = to_regclass('public.generations') AND a.attname = 'status';
    EXECUTE format('SELECT (%s)::text', coalesce(preset, 'NULL')) INTO preset;
    IF NOT preset = ANY (allowed) THEN
        EXECUTE format('ALTER TABLE public.generations ALTER COLUMN status SET DEFAULT %L',
                       CASE preset WHEN 'processing' THEN 'generating' ELSE 'queued' END);
    END IF;
END
$$;
