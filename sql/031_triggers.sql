-- @follows public.generations
-- Two triggers that only announce which row to visit. To do without them: ALTER TABLE public.generations DISABLE TRIGGER …
-- (a dropped one comes back with the next migrate); the sweep then finds everything.

DO $$
DECLARE
    lacking text;
BEGIN
    IF to_regclass('public.generations') IS NULL THEN
        RAISE WARNING 'no triggers: there is no table public.generations yet';
        RETURN;
    END IF;
    SELECT string_agg(wanted, ', ') INTO lacking
      FROM unnest(ARRAY['id', 'status', 'task_id']) AS wanted
     WHERE NOT EXISTS (SELECT FROM pg_attribute
                        WHERE attrelid = to_regclass('public.generations') AND attname = wanted AND NOT attisdropped);
    IF lacking IS NOT NULL THEN
        RAISE WARNING 'no triggers: public.generations has no column %', lacking;
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_trigger
                    WHERE tgrelid = to_regclass('public.generations') AND tgname = 'reconciler_inserted') THEN
        CREATE TRIGGER reconciler_inserted AFTER INSERT ON public.generations
            FOR EACH ROW EXECUTE FUNCTION reconciler.announce_generation();
    END IF;
    -- WHEN instead of UPDATE OF: a column list misses what a BEFORE trigger changes.
    IF NOT EXISTS (SELECT FROM pg_trigger
                    WHERE tgrelid = to_regclass('public.generations') AND tgname = 'reconciler_updated') THEN
        CREATE TRIGGER reconciler_updated AFTER UPDATE ON public.generations
            FOR EACH ROW WHEN ((OLD.status, OLD.task_id) IS DISTINCT FROM (NEW.status, NEW.task_id))
            EXECUTE FUNCTION reconciler.announce_generation();
    END IF;
END
$$;
