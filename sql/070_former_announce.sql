-- @after 1 0.2.0
-- The function of the triggers of 0.1.0. It stays where such a trigger is left: on a table whose owner has not migrated.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgfoid = to_regprocedure('reconciler.announce_generation()')) THEN
        DROP FUNCTION IF EXISTS reconciler.announce_generation();
    END IF;
END
$$;
