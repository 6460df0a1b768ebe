-- A schema of its own: none of our tables stands among the application's.

CREATE SCHEMA IF NOT EXISTS reconciler;

CREATE TABLE IF NOT EXISTS reconciler.schema_version (
    file       text PRIMARY KEY,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- What a daemon must have to run after this file: its level, and the first version with that level. 0 = any daemon.
ALTER TABLE reconciler.schema_version ADD COLUMN IF NOT EXISTS requires_level integer NOT NULL DEFAULT 0;
ALTER TABLE reconciler.schema_version ADD COLUMN IF NOT EXISTS requires_version text;
