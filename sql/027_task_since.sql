-- A row may be given another task, by a button that makes it once more: since when it has the present one (null = since it
-- was created), and the last of those that it had, oldest first, which are never adopted for it again.
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS task_since timestamptz;
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS former_tasks text[] NOT NULL DEFAULT '{}';
