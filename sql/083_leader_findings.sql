-- The findings that the leader last published, as a list. Some of them only a running daemon knows; commands show them.
-- A daemon of the version before leaves the column as it is.
ALTER TABLE reconciler.leader ADD COLUMN IF NOT EXISTS findings jsonb;
