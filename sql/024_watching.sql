-- What each replica has in hand, for `top`. It goes with the presence that is written every few seconds anyway, and each
-- second only while somebody watches: no transfer writes a row for it, and nobody needs a replica's port.
ALTER TABLE reconciler.instances ADD COLUMN IF NOT EXISTS doing jsonb;

-- One row: until when somebody watches.
CREATE TABLE IF NOT EXISTS reconciler.watching (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    until  timestamptz NOT NULL
);
