-- The results that KIE announced, each with its addresses, and which of them the application's row shows. `sources` keeps
-- their addresses for older daemons. The times say since when failures, empty successes and missing results go on.
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS results jsonb;
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS failing_since timestamptz;
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS empty_since timestamptz;
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS empty_counted_at timestamptz;
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS missing_since timestamptz;
-- What KIE says failed, where the same record holds finished results.
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS contradiction text;
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS shown integer;
-- The task that these columns are about: a daemon of 0.1.0 that notes another task in seen_task leaves them as they are.
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS results_task text;
