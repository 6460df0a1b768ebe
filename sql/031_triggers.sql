-- @follows public.generations
-- Two triggers that only announce which row to visit. To do without them: ALTER TABLE public.generations DISABLE TRIGGER …
-- (a dropped one comes back with the next migrate); the sweep then finds everything.
--
-- A trigger is made where none has its name, so a changed definition needs a new name: the next number. The former ones
-- are dropped in the same transaction, and a trigger that was disabled stays disabled. Daemons of the version before hear
-- the same channel and payload.

DO $$
DECLARE
    lacking text;
    made    text[] := '{}';
    former  record;
BEGIN
    IF to_regclass('public.generations') IS NULL THEN
        RAISE WARNING 'no triggers: there is no table public.generations yet';
        RETURN;
    END IF;
    SELECT string_agg(wanted, ', ') INTO lacking
      FROM unnest(ARRAY['id', 'status', 'task_id', 'asset_url']) AS wanted
     WHERE NOT EXISTS (SELECT FROM pg_attribute
                        WHERE attrelid = to_regclass('public.generations') AND attname = wanted AND NOT attisdropped);
    IF lacking IS NOT NULL THEN
        RAISE WARNING 'no triggers: public.generations has no column %', lacking;
        RETURN;
    END IF;
    -- Before the first one is made: a lock that grows later could end in a deadlock with the application.
    IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'public.generations'::regclass
                  AND tgname ~ '^reconciler_(inserted|updated)(_[0-9]+)?$'
                  AND tgname NOT IN ('reconciler_inserted_3', 'reconciler_updated_2')) THEN
        LOCK TABLE public.generations IN ACCESS EXCLUSIVE MODE;
    END IF;
    -- A row that ended before it came needs a visit only where its asset is missing or still lies at the provider.
    IF NOT EXISTS (SELECT FROM pg_trigger
                    WHERE tgrelid = to_regclass('public.generations') AND tgname = 'reconciler_inserted_3') THEN
        CREATE TRIGGER reconciler_inserted_3 AFTER INSERT ON public.generations
            FOR EACH ROW WHEN ((
                NEW.status::text IN ('success', 'completed', 'failed', 'cancelled') AND NEW.asset_url::text !~
                '^$|^https?://([^/@?#]*\.)?(aiquickdraw\.com|kie\.ai|redpandaai\.co|suno\.ai)(:[0-9]+)?([/?#]|$)'
            ) IS NOT TRUE)
            EXECUTE FUNCTION reconciler.announce_row();
        made := made || 'reconciler_inserted_3'::text;
    END IF;
    -- WHEN instead of UPDATE OF: a column list misses what a BEFORE trigger changes.
    IF NOT EXISTS (SELECT FROM pg_trigger
                    WHERE tgrelid = to_regclass('public.generations') AND tgname = 'reconciler_updated_2') THEN
        CREATE TRIGGER reconciler_updated_2 AFTER UPDATE ON public.generations
            FOR EACH ROW WHEN ((OLD.status, OLD.task_id, OLD.asset_url)
                               IS DISTINCT FROM (NEW.status, NEW.task_id, NEW.asset_url))
            EXECUTE FUNCTION reconciler.announce_row();
        made := made || 'reconciler_updated_2'::text;
    END IF;
    FOR former IN
        SELECT t.tgname AS name, t.tgenabled AS state, wanted.name AS successor
          FROM pg_trigger AS t
          JOIN unnest(ARRAY['reconciler_inserted_3', 'reconciler_updated_2']) AS wanted (name)
            ON regexp_replace(t.tgname, '_[0-9]+$', '') = regexp_replace(wanted.name, '_[0-9]+$', '')
         WHERE t.tgrelid = 'public.generations'::regclass AND t.tgname <> wanted.name
    LOOP
        IF former.successor = ANY (made) AND former.state <> 'O' THEN
            EXECUTE format('ALTER TABLE public.generations %s TRIGGER %I',
                           CASE former.state WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END,
                           former.successor);
        END IF;
        EXECUTE format('DROP TRIGGER %I ON public.generations', former.name);
    END LOOP;
END
$$;
