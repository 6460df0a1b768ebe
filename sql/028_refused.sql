-- KIE's reason to refuse a createTask, until the row has failed with it: the process that received it may end before.
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS refused text;
