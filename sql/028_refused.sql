-- What KIE said to a createTask that it refused, until the row has failed for it: the process that heard it may end before.
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS refused text;
