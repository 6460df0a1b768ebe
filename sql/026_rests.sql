-- Until when a key rests, because KIE said that it was too fast. Apart from next_at, which also grows with a queue.
ALTER TABLE reconciler.budget ADD COLUMN IF NOT EXISTS rests_until timestamptz;
