-- Until when nobody asks with a key, because KIE said that it was too fast: such a wait is told from that in a queue.
ALTER TABLE reconciler.budget ADD COLUMN IF NOT EXISTS rests_until timestamptz;
