-- The application's hooks: which calls were made, and which calls of on_delivered are still to be made. A mark stays when
-- its generation is deleted: an id that is used again gets no second refund for the same task. The table is empty where
-- no hook exists.
CREATE TABLE IF NOT EXISTS reconciler.hook_calls (
    hook          text NOT NULL,             -- on_failed, on_delivered
    generation_id text NOT NULL,
    task_id       text NOT NULL,             -- '' where the generation had no task
    done_at       timestamptz,               -- null = the call is still to be made
    due_at        timestamptz,               -- the next try
    tries         integer NOT NULL DEFAULT 0,
    trouble       text,                      -- what the last try said
    at            timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (hook, generation_id, task_id)
);
-- Calls that were never tried come first: a hook that fails for some generations delays no others.
CREATE INDEX IF NOT EXISTS hook_calls_due ON reconciler.hook_calls (least(tries, 1), due_at) WHERE done_at IS NULL;

-- Refunds from before there were marks.
INSERT INTO reconciler.hook_calls (hook, generation_id, task_id, done_at)
SELECT 'on_failed', generation_id,
       coalesce(CASE WHEN refunded_at < task_since THEN former_tasks[cardinality(former_tasks)] ELSE seen_task END, ''),
       refunded_at
  FROM reconciler.work WHERE refunded_at IS NOT NULL
ON CONFLICT DO NOTHING;

-- A hook whose failures leave no row behind: an order that on_order cannot decide is rolled back.
CREATE TABLE IF NOT EXISTS reconciler.hook_failures (
    hook     text PRIMARY KEY,
    failures integer NOT NULL DEFAULT 1,     -- since it last worked
    trouble  text NOT NULL,
    at       timestamptz NOT NULL DEFAULT now()
);

-- When each end user last ordered, as many times as the rate of a user counts.
CREATE TABLE IF NOT EXISTS reconciler.user_orders (
    user_id text PRIMARY KEY,
    recent  timestamptz[] NOT NULL DEFAULT '{}',
    at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS user_orders_at ON reconciler.user_orders (at);
