"""Databases as they are found in the field: an older application's table, and what Supabase puts around a table.

Roles belong to the whole server, so they are made where they are missing and stay.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import quote, urlsplit

import asyncpg

USER = "11111111-2222-4333-8444-555555555555"
"""The user who owns the rows of the older table."""

_OLDER = """
CREATE TABLE public.generations (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id       uuid NOT NULL,
    type          text NOT NULL CHECK (type IN ('image', 'video', 'audio')),
    model_id      text NOT NULL,
    model_name    text NOT NULL,
    prompt        text NOT NULL DEFAULT '',
    task_id       text,
    status        text NOT NULL DEFAULT 'pending'
                  CHECK (status IN ('pending', 'processing', 'completed', 'failed')),
    result_urls   text[],
    error         text,
    credits_used  integer NOT NULL DEFAULT 0,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now()
);
CREATE FUNCTION public.touch_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
$$;
CREATE TRIGGER generations_updated_at BEFORE UPDATE ON public.generations
    FOR EACH ROW EXECUTE FUNCTION public.touch_updated_at();
"""

_OWN = """
ALTER TABLE public.generations ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Users see their own" ON public.generations FOR SELECT
    USING (user_id::text = current_setting('request.jwt.claim.sub', true));
"""

_THEIRS = "https://tempfile.aiquickdraw.com/r/older.png"
_OURS = "https://project.supabase.co/storage/v1/object/public/generations/older_0.png"

# name: status, task, result_urls, asset_url, error
_ROWS: Mapping[str, tuple[str, str | None, list[str] | None, str | None, str | None]] = {
    "pending": ("pending", "older-pending", None, None, None),
    "untasked": ("pending", None, None, None, None),
    "processing": ("processing", "older-processing", None, None, None),
    "twin": ("processing", "older-twin", None, None, None),
    "other_twin": ("processing", "older-twin", None, None, None),
    "stored": ("completed", "older-stored", [_THEIRS], _OURS, None),
    "unstored": ("completed", "older-unstored", [_THEIRS], None, None),
    "echoed": ("completed", "older-echoed", [_THEIRS], _THEIRS, None),
    "failed": ("failed", "older-failed", None, None, "Internal error (500)"),
}

_SUPABASE = """
DO $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN
        SELECT * FROM (VALUES ('anon', ''), ('authenticated', ''), ('service_role', 'BYPASSRLS')) AS named (role, more)
    LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT %s', wanted.role, wanted.more);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END LOOP;
END
$$;
GRANT USAGE ON SCHEMA public TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON SEQUENCES TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON FUNCTIONS TO anon, authenticated, service_role;

CREATE SCHEMA auth;
GRANT USAGE ON SCHEMA auth TO anon, authenticated, service_role;
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT nullif(current_setting('request.jwt.claim.sub', true), '')::uuid
$$;

CREATE SCHEMA storage;
GRANT USAGE ON SCHEMA storage TO anon, authenticated, service_role;
CREATE TABLE storage.buckets (
    id                 text PRIMARY KEY,
    name               text NOT NULL UNIQUE,
    public             boolean DEFAULT false,
    file_size_limit    bigint,
    allowed_mime_types text[],
    created_at         timestamptz DEFAULT now(),
    updated_at         timestamptz DEFAULT now()
);
CREATE TABLE storage.objects (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    bucket_id     text REFERENCES storage.buckets (id),
    name          text,
    owner_id      text,
    version       text,
    metadata      jsonb,
    user_metadata jsonb,
    created_at    timestamptz DEFAULT now(),
    updated_at    timestamptz DEFAULT now(),
    UNIQUE (bucket_id, name)
);
ALTER TABLE storage.buckets ENABLE ROW LEVEL SECURITY;
ALTER TABLE storage.objects ENABLE ROW LEVEL SECURITY;
GRANT ALL ON ALL TABLES IN SCHEMA storage TO anon, authenticated, service_role;
"""


async def older_table(
    connection: asyncpg.Connection, *, asset_url: bool = True, row_security: bool = False
) -> dict[str, str]:
    """Make public.generations as an older application has it, with rows in every status; their ids by name.

    In flight: pending, untasked (no task_id), processing, twin and other_twin (one task). Ended: stored, unstored (no
    asset), echoed (asset_url is the provider's address), failed. The task of each is `older-<name>`, of both twins
    `older-twin`. `asset_url` False leaves that column out; `row_security` lets a user read their own rows only.
    """
    await connection.execute(_OLDER)
    if asset_url:
        await connection.execute("ALTER TABLE public.generations ADD COLUMN asset_url text")
    if row_security:
        await connection.execute(_OWN)
    more = (", asset_url", ", $7") if asset_url else ("", "")
    insert = f"""
        INSERT INTO public.generations (user_id, type, model_id, model_name, created_at, updated_at,
                                        prompt, task_id, status, result_urls, error{more[0]})
        SELECT '{USER}', 'image', 'nano-banana', 'Nano Banana', made, made, $1, $2, $3, $4, $5{more[1]}
          FROM (SELECT now() - $6 * interval '1 second') AS t (made)
        RETURNING id::text"""
    ids = {}
    for place, (name, (status, task, results, asset, error)) in enumerate(_ROWS.items()):
        values = (name, task, status, results, error, 300 - place, *([asset] if asset_url else []))
        ids[name] = await connection.fetchval(insert, *values)
    return ids


async def supabase_like(connection: asyncpg.Connection) -> None:
    """Make the roles, default privileges and schemas that a Supabase project has; needs a superuser."""
    await connection.execute(_SUPABASE)


@asynccontextmanager
async def member(dsn: str, role: str | None = None, options: str = "") -> AsyncIterator[str]:
    """The address of the same database for a login of its own, a member of `role`; it goes when the test ends."""
    name, password = f"kr_{secrets.token_hex(6)}", secrets.token_hex(12)
    within = f" IN ROLE {role}" if role else ""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"CREATE ROLE {name} LOGIN {options} PASSWORD '{password}'{within}")
        parts = urlsplit(dsn)
        host = parts.netloc.rpartition("@")[2]
        try:
            yield parts._replace(netloc=f"{quote(name)}:{password}@{host}").geturl()
        finally:
            await connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
    finally:
        await connection.close()
