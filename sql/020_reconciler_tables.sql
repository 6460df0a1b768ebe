-- The daemon's bookkeeping. No foreign keys into the application: this schema can be dropped without touching it.

CREATE TABLE IF NOT EXISTS reconciler.work (
    generation_id   text PRIMARY KEY,
    due_at          timestamptz,             -- the next look; null = nothing more to do until the row changes
    early_at        timestamptz,             -- from here on a spare request may look before due_at
    lease           uuid,                    -- the right to write, drawn anew at each claim
    lease_until     timestamptz,
    instance        uuid,
    woken           integer NOT NULL DEFAULT 0,
    trigger         text,                    -- what made it due, for metrics
    seen_status     text,                    -- the application's row when we last looked at it or wrote it
    seen_task       text,                    -- everything below is about this task
    sources         text[],
    stale           boolean NOT NULL DEFAULT false,
    key_hash        text,
    family          text,
    acknowledged_at timestamptz,
    answered_at     timestamptz,
    completed_at    timestamptz,
    took            interval,
    media_deadline  timestamptz,
    looked_at       timestamptz,
    looks           integer NOT NULL DEFAULT 0,
    misses          integer NOT NULL DEFAULT 0,
    unknowns        integer NOT NULL DEFAULT 0,
    empties         integer NOT NULL DEFAULT 0,
    why             text,
    finding         text,
    gave_up         boolean NOT NULL DEFAULT false,
    reopened        boolean NOT NULL DEFAULT false,
    refunded_at     timestamptz,
    delivered_at    timestamptz
) WITH (fillfactor = 70);

-- Only the due time is indexed: lease, counters and facts change more often and stay HOT updates.
CREATE INDEX IF NOT EXISTS work_due_at ON reconciler.work (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS work_seen_task ON reconciler.work (seen_task);
CREATE INDEX IF NOT EXISTS work_delivered_at ON reconciler.work (delivered_at) WHERE delivered_at IS NOT NULL;

-- One result each. A row without verified_by is an intention: the path is written before the bytes are sent.
CREATE TABLE IF NOT EXISTS reconciler.assets (
    generation_id text NOT NULL,
    task_id       text NOT NULL,
    n             integer NOT NULL,
    path          text NOT NULL,
    mime          text NOT NULL,
    size          bigint NOT NULL,
    sha256        text NOT NULL,
    md5           text NOT NULL,
    upload        text,
    version       text,
    verified_by   text,
    stored_at     timestamptz,
    PRIMARY KEY (generation_id, task_id, n)
);

-- Objects that no row names any more; cleanup removes them.
CREATE TABLE IF NOT EXISTS reconciler.orphans (
    path  text PRIMARY KEY,
    why   text NOT NULL,
    since timestamptz NOT NULL DEFAULT now()
);

-- The outbox: one event for each transition, sent at least once.
CREATE TABLE IF NOT EXISTS reconciler.events (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key           text NOT NULL UNIQUE,      -- generation, task, kind and turn: a replayed write adds nothing
    generation_id text NOT NULL,
    kind          text NOT NULL,             -- succeeded, failed, gave_up, recovered, healed
    payload       jsonb NOT NULL,
    at            timestamptz NOT NULL DEFAULT now(),
    announced_at  timestamptz
);
CREATE INDEX IF NOT EXISTS events_unannounced ON reconciler.events (id) WHERE announced_at IS NULL;
CREATE INDEX IF NOT EXISTS events_generation ON reconciler.events (generation_id);
CREATE INDEX IF NOT EXISTS events_at ON reconciler.events (at);

-- Callbacks, kept before anything is done about them; also the inbox for tasks that no row has yet.
CREATE TABLE IF NOT EXISTS reconciler.callbacks (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id       text NOT NULL,
    generation_id text,
    body          jsonb NOT NULL,
    at            timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS callbacks_task ON reconciler.callbacks (task_id);

CREATE TABLE IF NOT EXISTS reconciler.instances (
    id         uuid PRIMARY KEY,
    host       text NOT NULL,
    pid        integer NOT NULL,
    version    text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now()
);

-- One row: which instance leads. A lease, not a session lock: session locks break behind poolers.
CREATE TABLE IF NOT EXISTS reconciler.leader (
    single   boolean PRIMARY KEY DEFAULT true CHECK (single),
    instance uuid NOT NULL,
    until    timestamptz NOT NULL
);

-- One row a key: when its next request may be sent. All replicas draw from it.
CREATE TABLE IF NOT EXISTS reconciler.budget (
    key_hash text PRIMARY KEY,
    next_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- How long tasks took at the provider, the newest of each model; and the leader's fit of these times.
CREATE TABLE IF NOT EXISTS reconciler.timings (
    id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model text NOT NULL,
    took  double precision NOT NULL,
    at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS timings_model ON reconciler.timings (model, id);

CREATE TABLE IF NOT EXISTS reconciler.pace (
    model text PRIMARY KEY,               -- '' = the row of theta, which holds for all models
    mu    double precision,
    sigma double precision,
    n     integer NOT NULL DEFAULT 0,
    theta double precision,
    at    timestamptz NOT NULL DEFAULT now()
);
