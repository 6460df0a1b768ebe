"""The table of the shop that the specification came from, in the two shapes that it had, and the shop's statements.

Written anew from what its public migrations say. In rows of its older code `kind` and `model_key` are NULL; `type`
and `model_id` are always filled.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import asyncpg

SHOP_USER = "22222222-3333-4444-8555-666666666666"

Year = Literal[2025, 2026]

YEARS: tuple[Year, ...] = (2025, 2026)

_TABLE = f"""
CREATE SCHEMA IF NOT EXISTS auth;
CREATE TABLE auth.users (id uuid PRIMARY KEY);
INSERT INTO auth.users VALUES ('{SHOP_USER}');
CREATE TABLE public.generations (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id         uuid REFERENCES auth.users ON DELETE CASCADE,
    type            text NOT NULL CHECK (type IN ('photo', 'video', 'product')),
    model_id        text NOT NULL,
    model_name      text NOT NULL,
    prompt          text,
    negative_prompt text,
    preview_url     text,
    results         jsonb,
    settings        jsonb,
    error           text,
    status          text DEFAULT 'pending' CHECK (status IN ('pending', 'processing', 'completed', 'failed')),
    created_at      timestamptz DEFAULT now()
);
ALTER TABLE public.generations
    ADD COLUMN task_id text, ADD COLUMN kind text, ADD COLUMN model_key text, ADD COLUMN result_urls jsonb,
    ADD COLUMN options jsonb, ADD COLUMN provider text, ADD COLUMN asset_url text, ADD COLUMN updated_at timestamptz;
ALTER TABLE public.generations DROP CONSTRAINT generations_status_check;
ALTER TABLE public.generations
    ADD CONSTRAINT generations_status_check CHECK (status IN ('queued', 'generating', 'success', 'failed'));
CREATE VIEW public.recent_generations AS
    SELECT id, user_id, type, status, asset_url FROM public.generations WHERE status <> 'failed';
"""

_SINCE = """
ALTER TABLE public.generations
    ADD COLUMN original_path text, ADD COLUMN preview_path text, ADD COLUMN poster_path text,
    ADD COLUMN preview_status text DEFAULT 'none' CHECK (preview_status IN ('none', 'processing', 'ready', 'failed')),
    ADD COLUMN completed_at timestamptz;
"""


async def shop_table(connection: Any, year: Year) -> None:
    """Make public.generations as the shop has it: when the specification was written, or in 2026."""
    await connection.execute(_TABLE + (_SINCE if year == 2026 else ""))


async def shop_insert(pool: Any, task_id: str, *, kind: str = "photo", model: str = "nano-banana") -> str:
    """Insert a row as the shop's older routes do, a minute ago; return its id."""
    generation_id: str = await pool.fetchval(
        "INSERT INTO public.generations (user_id, type, model_id, model_name, prompt, status, task_id, created_at)"
        f" VALUES ('{SHOP_USER}', $1, $2, 'Its name', 'a lighthouse', 'generating', $3, now() - interval '1 minute')"
        " RETURNING id::text",
        kind, model, task_id,
    )  # fmt: skip
    return generation_id


async def shop_webhook(pool: Any, task_id: str, address: str, *, asset: bool) -> None:
    """Write success as the shop's webhook does, whatever the status is.

    Without `asset` it leaves asset_url alone; else it writes the provider's address, as where its own storage fails.
    """
    assets = ", asset_url = $3" if asset else ""
    values = [task_id, json.dumps([address]), *([address] if asset else [])]
    written = await pool.execute(
        f"UPDATE public.generations SET status = 'success', result_urls = $2{assets} WHERE task_id = $1", *values
    )
    assert written == "UPDATE 1"


async def made_shop(dsn: str, year: Year) -> None:
    """Make the shop's table in this database."""
    connection = await asyncpg.connect(dsn)
    try:
        await shop_table(connection, year)
    finally:
        await connection.close()
