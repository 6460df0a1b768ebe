"""What the catalogue says of public.generations and our schema, and what is made here: kinds, types, models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import asyncpg

from reconciler.domain.object_keys import Kind
from reconciler.operations.doctor.database import Publications
from reconciler.operations.doctor.storage import BucketUse
from reconciler.operations.doctor.table import Built, State
from reconciler.postgres.migrations.migration_files import scripts
from reconciler.postgres.schema import TableShape

MODELS: Final = 5
"""Models whose newest task is asked for: each costs a request that the daemon cannot make meanwhile."""

_COLUMNS: Final = """
SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type
  FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = 'public' AND c.relname = 'generations' AND a.attnum > 0 AND NOT a.attisdropped
"""

_TRIGGERS: Final = """
SELECT t.tgname::text AS name, t.tgenabled::text IN ('O', 'A') AS fires
  FROM pg_trigger AS t WHERE t.tgrelid = to_regclass('public.generations')
"""

_INDEXES: Final = """
SELECT c.relname::text AS name, i.indisvalid AS valid
  FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid WHERE i.indrelid = to_regclass('public.generations')
"""

_PUBLICATIONS: Final = """
SELECT p.pubname::text AS name,
       p.pubupdate AND (c.relreplident = 'n' OR c.relreplident = 'd' AND NOT EXISTS (
           SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary)) AS nameless
  FROM pg_publication_tables AS t JOIN pg_publication AS p ON p.pubname = t.pubname
  JOIN pg_class AS c ON c.oid = to_regclass('public.generations')
 WHERE t.schemaname = 'public' AND t.tablename = 'generations' ORDER BY 1
"""

_VERSIONS: Final = """
SELECT version, count(*)::int AS count FROM reconciler.instances WHERE seen_at > now() - $1::interval GROUP BY 1
"""

_STORED: Final = """
SELECT a.mime, max(a.size)::bigint AS largest
  FROM (SELECT generation_id FROM reconciler.work
         WHERE delivered_at > now() - interval '30 days' ORDER BY delivered_at DESC LIMIT 1000) AS w
  JOIN reconciler.assets AS a ON a.generation_id = w.generation_id
 WHERE a.verified_by IS NOT NULL GROUP BY 1
"""


@dataclass(frozen=True, slots=True)
class NewestTask:
    """The newest task of a model that we know, and what we know of how to ask about it."""

    model: str
    task_id: str
    family: str | None
    key_hash: str | None


async def columns(connection: asyncpg.Connection) -> Mapping[str, str]:
    """The table's columns and their types; empty where there is no table."""
    return {row["name"]: row["type"] for row in await connection.fetch(_COLUMNS)}


async def triggers(connection: asyncpg.Connection) -> Mapping[str, State]:
    """Every trigger of ours: whether it is there and fires."""
    fires = {row["name"]: row["fires"] for row in await connection.fetch(_TRIGGERS)}
    wanted = [name for script in scripts(application=False, strict_statuses=False) for name in script.triggers]
    states: dict[str, State] = {}
    for name in wanted:
        states[name] = "missing" if name not in fires else "on" if fires[name] else "off"
    return states


def index_sql() -> Mapping[str, str]:
    """How each index that the daemon reads is built."""
    found = scripts(application=False, strict_statuses=False)
    return {name: script.statement for script in found if (name := script.mark("builds")) is not None}


async def indexes(connection: asyncpg.Connection) -> Mapping[str, Built]:
    """Every index that the daemon reads: whether it is there and can be used."""
    valid = {row["name"]: row["valid"] for row in await connection.fetch(_INDEXES)}
    states: dict[str, Built] = {}
    for name in index_sql():
        states[name] = "missing" if name not in valid else "valid" if valid[name] else "invalid"
    return states


async def publications(connection: asyncpg.Connection) -> Publications:
    """The publications that carry the table, and whether one of them makes its UPDATEs fail."""
    rows = await connection.fetch(_PUBLICATIONS)
    return Publications(tuple(row["name"] for row in rows), any(row["nameless"] for row in rows))


async def versions(connection: asyncpg.Connection, alive: timedelta) -> Mapping[str, int]:
    """How many daemons of each version were seen within `alive`."""
    return {row["version"]: row["count"] for row in await connection.fetch(_VERSIONS, alive)}


async def use(connection: asyncpg.Connection, types: Mapping[str, str]) -> BucketUse:
    """What is made here: the kinds of ten thousand rows (all where none tells), and what was stored lately."""
    column = TableShape(types).kind_column
    kinds: set[Kind] = set()
    if column is not None:
        sample = f"(SELECT {column}::text AS kind FROM public.generations LIMIT 10000) AS few"
        rows = await connection.fetch(f"SELECT DISTINCT kind FROM {sample}")
        kinds = {kind for kind in Kind if kind.value in {row["kind"] for row in rows}}
    stored = await connection.fetch(_STORED)
    return BucketUse(
        kinds=frozenset(kinds or Kind),
        types=frozenset(row["mime"] for row in stored),
        largest=max((row["largest"] for row in stored), default=0),
    )


async def newest(connection: asyncpg.Connection, types: Mapping[str, str]) -> tuple[NewestTask, ...]:
    """The newest task of each model among the last thousand rows that we worked on, in flight or delivered."""
    table = TableShape(types)
    if table.model_column is None:
        return ()
    rows = await connection.fetch(f"""
        WITH latest AS (
            (SELECT generation_id, family, key_hash FROM reconciler.work WHERE due_at IS NOT NULL
              ORDER BY due_at DESC LIMIT 500)
            UNION
            (SELECT generation_id, family, key_hash FROM reconciler.work WHERE delivered_at IS NOT NULL
              ORDER BY delivered_at DESC LIMIT 500))
        SELECT DISTINCT ON (model) g.{table.model_column}::text AS model, g.task_id, w.family, w.key_hash
          FROM latest AS w JOIN public.generations AS g ON g.id = w.generation_id::{table.id_type}
         WHERE g.task_id IS NOT NULL AND g.{table.model_column} IS NOT NULL
         ORDER BY model, g.created_at DESC LIMIT {MODELS}""")
    return tuple(NewestTask(row["model"], row["task_id"], row["family"], row["key_hash"]) for row in rows)
