-- The findings that a leader last published: {"by": its instance, "at": Unix time, "open": [...]}. Some of them only a
-- running daemon knows; commands show them.
-- A daemon of the version before leaves the column as it is.
ALTER TABLE reconciler.leader ADD COLUMN IF NOT EXISTS findings jsonb;
