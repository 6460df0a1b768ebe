-- A write that waits for a lock of the application, and when it is tried again. due_at is set meanwhile, so that a daemon
-- that does not know these columns visits the row, too.
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS locked_write jsonb;
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS write_at timestamptz;
CREATE INDEX IF NOT EXISTS work_write_at ON reconciler.work (write_at) WHERE write_at IS NOT NULL;
