-- Deletes those of these generations that have failed with nothing stored, and returns their ids. It runs as its owner, so
-- that the role reconciler needs no right to delete rows.
--
-- Triggers of the application run in its DELETE, and may name their tables without a schema. So it has the search_path
-- with which sessions of the migrating user begin: the caller's would let the caller choose what they call.

CREATE OR REPLACE FUNCTION reconciler.delete_failed(ids text[]) RETURNS SETOF text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = ''
AS $$
DECLARE
    has_id text;
BEGIN
    SELECT CASE WHEN t.typcategory OPERATOR(pg_catalog.=) 'S'::"char" THEN 'g.id::pg_catalog.text = ANY ($1)'
                ELSE pg_catalog.format('g.id = ANY ($1::%s[])', a.atttypid::pg_catalog.regtype::pg_catalog.text) END INTO has_id
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) c.oid
      JOIN pg_catalog.pg_type AS t ON t.oid OPERATOR(pg_catalog.=) a.atttypid
     WHERE n.nspname OPERATOR(pg_catalog.=) 'public'::pg_catalog.name
       AND c.relname OPERATOR(pg_catalog.=) 'generations'::pg_catalog.name
       AND a.attname OPERATOR(pg_catalog.=) 'id'::pg_catalog.name AND NOT a.attisdropped;
    RETURN QUERY EXECUTE
        pg_catalog.concat('DELETE FROM public.generations AS g WHERE ', has_id,
                          ' AND g.status::pg_catalog.text = ''failed'' AND g.asset_url IS NULL'
                          ' RETURNING g.id::pg_catalog.text') USING ids;
END
$$;

REVOKE ALL ON FUNCTION reconciler.delete_failed(text[]) FROM PUBLIC;

DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION reconciler.delete_failed(text[]) SET search_path = %s',
                   (SELECT coalesce(nullif(reset_val, ''), '''''') FROM pg_settings WHERE name = 'search_path'));
END
$$;
