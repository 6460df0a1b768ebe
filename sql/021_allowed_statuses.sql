-- Returns the statuses that the CHECKs on public.generations.status allow, by evaluating them; null = there is none.

CREATE OR REPLACE FUNCTION reconciler.allowed_statuses() RETURNS text[]
    LANGUAGE plpgsql STABLE
    SET search_path = ''
AS $$
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
$$;

REVOKE ALL ON FUNCTION reconciler.allowed_statuses() FROM PUBLIC;
