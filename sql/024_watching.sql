-- The activity of each replica, for `top`. The heartbeat, which is written every few seconds anyway, carries it, and each
-- second only while a `top` is open. So no transfer writes a row for it, and `top` needs no port of a replica.
ALTER TABLE reconciler.instances ADD COLUMN IF NOT EXISTS doing jsonb;

-- One row: until when a `top` is open.
CREATE TABLE IF NOT EXISTS reconciler.watching (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    until  timestamptz NOT NULL
);
