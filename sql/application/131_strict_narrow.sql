-- @strict
-- From here on the older words are refused, also as the column's default.

DO $$
DECLARE
    older   constant text[] := ARRAY['pending', 'processing', 'completed'];
    allowed constant text[] := reconciler.allowed_statuses();
    preset  text;
    dropped text;
    words   text;
BEGIN
    SELECT pg_get_expr(d.adbin, d.adrelid) INTO preset
      FROM pg_attrdef AS d
      JOIN pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
     WHERE d.adrelid = to_regclass('public.generations') AND a.attname = 'status';
    IF preset LIKE '''pending''%' THEN
        ALTER TABLE public.generations ALTER COLUMN status SET DEFAULT 'queued';
    ELSIF preset LIKE '''processing''%' THEN
        ALTER TABLE public.generations ALTER COLUMN status SET DEFAULT 'generating';
    END IF;
    IF NOT allowed && older THEN
        RETURN;
    END IF;
    SELECT string_agg(quote_literal(word), ', ' ORDER BY word) INTO words
      FROM unnest(allowed) AS word WHERE word <> ALL (older);
    SELECT string_agg(format('DROP CONSTRAINT %I, ', c.conname), '') INTO dropped
      FROM pg_constraint AS c
      JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND c.conkey = ARRAY[a.attnum]
     WHERE c.conrelid = to_regclass('public.generations') AND c.contype = 'c' AND a.attname = 'status';
    EXECUTE format('ALTER TABLE public.generations %s ADD CONSTRAINT generations_status_check CHECK (status IN (%s)) NOT VALID',
                   dropped, words);
END
$$;
