"""The checks of the application's table and of our schema: columns, statuses, triggers, indexes.

The facts come from PostgreSQL's catalogue. The server is in `database.py`, rights are in `privileges.py`.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, Literal

import asyncpg

from reconciler.operations.doctor import Check, NotKnown, fail, ok, warn
from reconciler.postgres.create_requests import let_be_null, unfilled
from reconciler.postgres.migrations.migration_files import MigrationFile, scripts, trigger_names
from reconciler.postgres.migrations.missing_files import MissingFiles
from reconciler.postgres.schema import REQUIRED, TableShape, add_required

_MIGRATE: Final = "kie-reconciler migrate"

TriggerState = Literal["on", "off", "missing"]
IndexState = Literal["valid", "invalid", "missing"]

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


def judge_schema(missing: MissingFiles | NotKnown) -> Check:
    """Judge the migration files that this version has and the database lacks."""
    if isinstance(missing, NotKnown):
        return fail("schema", missing.reason, missing.do)
    if not missing.due:
        running = " and ".join(map(str, missing.older))
        later = f"; {_names(missing.later)} waits for the end of {running}" if missing.later else ""
        return ok("schema", f"every migration is applied{later}")
    says = f"the database lacks {_names(missing.due)}"
    if any(script.needed for script in missing.due):
        return fail("schema", f"{says}: nothing runs without them", _MIGRATE)
    application = any(script.application for script in missing.due)
    return warn("schema", says, f"{_MIGRATE} --application" if application else _MIGRATE)


def _names(files: Sequence[MigrationFile]) -> str:
    return ", ".join(script.name for script in files)


async def read_columns(connection: asyncpg.Connection) -> Mapping[str, str]:
    """Return the table's columns and their types; empty where there is no table."""
    return {row["name"]: row["type"] for row in await connection.fetch(_COLUMNS)}


def judge_table(columns: AbstractSet[str] | NotKnown) -> Check:
    """Judge whether the table has the columns that nothing runs without."""
    if isinstance(columns, NotKnown):
        return fail("table", columns.reason, columns.do)
    if not columns:
        return fail("table", "there is no table public.generations", f"{_MIGRATE} --application")
    if missing := [name for name in REQUIRED if name not in columns]:
        do = f"-- or: {_MIGRATE} --application\n{add_required(missing)}"
        return fail("table", f"public.generations lacks {', '.join(missing)}", do)
    return ok("table", f"public.generations has what is needed, {len(columns)} columns in all")


def judge_statuses(allowed: AbstractSet[str] | None) -> Check:
    """Judge the words that the CHECKs on status allow; None means that every word is allowed."""
    if allowed is None:
        return ok("statuses", "no CHECK limits the status")
    forbidden = [] if allowed & {"success", "completed"} else ["success"]
    forbidden += [] if "failed" in allowed else ["failed"]
    do = f"{_MIGRATE} --application"
    if forbidden:
        return fail("statuses", f"the CHECK on status forbids {' and '.join(forbidden)}", do)
    if not allowed & {"queued", "generating", "pending", "processing"}:
        return fail("statuses", "the CHECK on status allows no status of a row in flight", do)
    unused = [word for word in ("queued", "generating", "success", "cancelled") if word not in allowed]
    # The words of an older application do as well as ours.
    if unused and not {"pending", "processing", "completed"} <= allowed:
        return warn("statuses", f"the CHECK on status forbids {', '.join(unused)}: the daemon does not write them", do)
    return ok("statuses", f"the CHECK on status allows {', '.join(sorted(allowed))}")


def judge_orders(table: TableShape) -> Check:
    """Judge whether createTask can fill every column that a row must fill."""
    if columns := unfilled(table):
        says = f"createTask cannot fill {', '.join(columns)}: NOT NULL and without a default"
        return warn("orders", says, f"-- or: give each a default\n{let_be_null(columns)}")
    return ok("orders", "createTask can fill every column that a row needs")


async def read_triggers(connection: asyncpg.Connection) -> Mapping[str, TriggerState]:
    """Return whether each of our triggers exists and fires."""
    fires = {row["name"]: row["fires"] for row in await connection.fetch(_TRIGGERS)}
    return {name: "missing" if name not in fires else "on" if fires[name] else "off" for name in trigger_names()}


def judge_triggers(states: Mapping[str, TriggerState]) -> Check:
    """Judge the triggers that announce a new or changed row."""
    missing = [name for name, state in states.items() if state == "missing"]
    off = [name for name, state in states.items() if state == "off"]
    if missing:
        return warn("triggers", f"{' and '.join(missing)} missing: only the sweep finds new and changed rows", _MIGRATE)
    if off:
        sql = "\n".join(f"ALTER TABLE public.generations ENABLE TRIGGER {name};" for name in off)
        return warn("triggers", f"{' and '.join(off)} disabled: only the sweep finds new and changed rows", sql)
    return ok("triggers", f"{' and '.join(states)} announce new and changed rows")


def _index_statements() -> Mapping[str, str]:
    """Return the statement that builds each index which the daemon reads."""
    files = scripts(application=False, strict_statuses=False)
    return {name: file.statement for file in files if (name := file.mark("builds")) is not None}


async def read_indexes(connection: asyncpg.Connection) -> Mapping[str, IndexState]:
    """Return whether each index that the daemon reads exists and is valid."""
    valid = {row["name"]: row["valid"] for row in await connection.fetch(_INDEXES)}
    names = _index_statements()
    return {name: "missing" if name not in valid else "valid" if valid[name] else "invalid" for name in names}


def judge_indexes(states: Mapping[str, IndexState]) -> Check:
    """Judge the indexes that the sweep and retention read."""
    unusable = {name: state for name, state in states.items() if state != "valid"}
    if not unusable:
        return ok("indexes", f"{' and '.join(states)} exist")
    says = ", ".join(f"{name} is {state}" for name, state in unusable.items())
    drops = [f"DROP INDEX CONCURRENTLY public.{name};" for name, state in unusable.items() if state == "invalid"]
    builds = [_index_statements()[name] for name in unusable]
    by_hand = f"-- or: {_MIGRATE}; by hand: run each statement alone, outside a transaction"
    return warn("indexes", f"{says}: the sweep reads the whole table in parts", "\n".join([by_hand, *drops, *builds]))
