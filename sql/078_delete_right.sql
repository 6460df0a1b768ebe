-- @follows public.generations
-- @after 1 0.2.0
-- The role reconciler deletes through reconciler.delete_failed alone, which takes failed rows only. Version 0.1.0 deletes
-- rows itself.

DO $$
BEGIN
    IF to_regrole('reconciler') IS NULL OR to_regclass('public.generations') IS NULL THEN
        RETURN;
    END IF;
    IF has_table_privilege('reconciler', 'public.generations', 'DELETE') THEN
        REVOKE DELETE ON public.generations FROM reconciler;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'role reconciler keeps the right to delete rows of public.generations (%): its owner must migrate', SQLERRM;
END
$$;
