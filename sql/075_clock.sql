-- One row: what daemons have seen of this server's clock, for those that start later. seen_at: the last heartbeat.
-- steady_at: the last heartbeat of a daemon that had compared the clock for minutes. stepped_at: the last step.
CREATE TABLE IF NOT EXISTS reconciler.clock (
    single     boolean PRIMARY KEY DEFAULT true CHECK (single),
    seen_at    timestamptz NOT NULL,
    steady_at  timestamptz,
    stepped_at timestamptz
);
