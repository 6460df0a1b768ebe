-- A schema of its own: nothing of ours stands among the application's tables.

CREATE SCHEMA IF NOT EXISTS reconciler;

CREATE TABLE IF NOT EXISTS reconciler.schema_version (
    file       text PRIMARY KEY,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
