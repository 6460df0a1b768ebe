-- The schema level of each replica: a file of phase `after` waits until no replica has a lower one. A replica that does
-- not write it is of version 0.1.0, which has level 0.
ALTER TABLE reconciler.instances ADD COLUMN IF NOT EXISTS level integer NOT NULL DEFAULT 0;
