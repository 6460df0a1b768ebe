-- The failures in a row, counted for each side by itself: {"kie" | "source" | "storage": {"count", "since", "reason"}}.
-- `misses` counts all of them together, for the time until the next try.
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS failing jsonb;
-- Since when the log has said that the generation is stuck: it says so once for each task.
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS stuck_at timestamptz;
