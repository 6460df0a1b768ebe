-- When our address was written again because the application had replaced it by one at the provider, the times of the last
-- day. They limit how often we do so. A daemon of the version before leaves the column as it is.
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS healed_at timestamptz[];
