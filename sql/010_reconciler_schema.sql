-- A schema of its own: none of our tables stands among the application's.

CREATE SCHEMA IF NOT EXISTS reconciler;

CREATE TABLE IF NOT EXISTS reconciler.schema_version (
    file       text PRIMARY KEY,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
