-- For HTTP: which callbacks and requests are repetitions, the rate of createTask, and the progress of the outbox.

-- The same callback comes up to four times: one body of one task is kept once.
ALTER TABLE reconciler.callbacks ADD COLUMN IF NOT EXISTS digest text;
ALTER TABLE reconciler.callbacks ADD COLUMN IF NOT EXISTS count integer NOT NULL DEFAULT 1;
CREATE UNIQUE INDEX IF NOT EXISTS callbacks_once ON reconciler.callbacks (task_id, digest);
-- A task whose id could not be saved is found by the generation that its callback names.
CREATE INDEX IF NOT EXISTS callbacks_generation ON reconciler.callbacks (generation_id) WHERE generation_id IS NOT NULL;

-- One row for each caller and Idempotency-Key: the same key gives the same generation.
CREATE TABLE IF NOT EXISTS reconciler.requests (
    caller        text NOT NULL,             -- a user's id, '' for the operator
    key           text NOT NULL,
    digest        text NOT NULL,             -- of the order: the same key with another order is an error
    generation_id text,
    at            timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (caller, key)
);
CREATE INDEX IF NOT EXISTS requests_at ON reconciler.requests (at);

-- When createTask was last called with a key, as many times as its rate counts: exact for any window.
CREATE TABLE IF NOT EXISTS reconciler.creations (
    key_hash text PRIMARY KEY,
    recent   timestamptz[] NOT NULL DEFAULT '{}',
    shut     timestamptz                     -- no request before then: KIE said that we are too fast
);

-- Set with the row that our own createTask writes, before KIE is asked. While the row has no task, it is unknown whether
-- KIE has made one.
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS ordered_at timestamptz;

-- How often sending an event was tried, when it is tried again, and when and why it was given up.
ALTER TABLE reconciler.events ADD COLUMN IF NOT EXISTS tries integer NOT NULL DEFAULT 0;
ALTER TABLE reconciler.events ADD COLUMN IF NOT EXISTS next_at timestamptz;
ALTER TABLE reconciler.events ADD COLUMN IF NOT EXISTS dead_at timestamptz;
ALTER TABLE reconciler.events ADD COLUMN IF NOT EXISTS trouble text;
-- The events to send, the next first; and those that were given up.
CREATE INDEX IF NOT EXISTS events_due ON reconciler.events (coalesce(next_at, '-infinity'), id)
 WHERE announced_at IS NULL AND dead_at IS NULL;
CREATE INDEX IF NOT EXISTS events_dead ON reconciler.events (dead_at) WHERE dead_at IS NOT NULL;
