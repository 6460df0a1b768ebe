-- When a delivery is next compared with storage, and since when it is lost because KIE has its result no more.

ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS audit_at timestamptz;
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS lost_at timestamptz;
CREATE INDEX IF NOT EXISTS work_audit_at ON reconciler.work (audit_at) WHERE audit_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS work_lost_at ON reconciler.work (lost_at) WHERE lost_at IS NOT NULL;
