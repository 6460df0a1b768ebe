-- The line in which a row waits for its visit. A claim reads the first rows of each line, so that no backlog of one sort
-- stands before the rows of another (reconciler/postgres/claims/queues.py). The trigger chooses the line with each new due
-- time, also for daemons that do not know it; leases, counters and facts touch neither the line nor its index.

ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS line smallint;
CREATE INDEX IF NOT EXISTS work_line ON reconciler.work (line, due_at) WHERE line IS NOT NULL;

CREATE OR REPLACE FUNCTION reconciler.choose_line() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = ''
AS $$
BEGIN
    NEW.line := CASE
        WHEN NEW.due_at IS NULL THEN NULL
        -- Requested: KIE called back, or a person asked.
        WHEN NEW.trigger IN ('callback', 'sync') AND NEW.due_at <= now() + interval '5 seconds' THEN 7
        -- Ended: its user sees an end already.
        WHEN NEW.seen_status NOT IN ('queued', 'generating', 'pending', 'processing') THEN 6
        -- Hopeless, and failing.
        WHEN NEW.misses > 3 THEN 5
        WHEN NEW.misses > 0 THEN 4
        -- Never asked about; then by the wait between two looks.
        WHEN NEW.looks = 0 THEN 0
        WHEN NEW.due_at <= now() + interval '8 seconds' THEN 1
        WHEN NEW.due_at <= now() + interval '64 seconds' THEN 2
        ELSE 3
    END;
    RETURN NEW;
END
$$;

REVOKE ALL ON FUNCTION reconciler.choose_line() FROM PUBLIC;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger
                    WHERE tgrelid = 'reconciler.work'::regclass AND tgname = 'line_of_new') THEN
        CREATE TRIGGER line_of_new BEFORE INSERT ON reconciler.work
            FOR EACH ROW EXECUTE FUNCTION reconciler.choose_line();
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger
                    WHERE tgrelid = 'reconciler.work'::regclass AND tgname = 'line_of_changed') THEN
        CREATE TRIGGER line_of_changed BEFORE UPDATE ON reconciler.work
            FOR EACH ROW WHEN (NEW.due_at IS DISTINCT FROM OLD.due_at OR (NEW.line IS NULL AND NEW.due_at IS NOT NULL))
            EXECUTE FUNCTION reconciler.choose_line();
    END IF;
END
$$;

-- The rows from before: the trigger fills the line in.
UPDATE reconciler.work SET line = NULL WHERE due_at IS NOT NULL AND line IS NULL;
