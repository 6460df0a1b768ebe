-- The application may give a row another task. task_since: since when it has the present one (null = since it was
-- created). former_tasks: its latest former tasks, oldest first; none of them is adopted for it again.
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS task_since timestamptz;
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS former_tasks text[] NOT NULL DEFAULT '{}';
