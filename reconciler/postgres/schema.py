"""The application's table as it is: which of the known columns exist, of what type, and which statuses it takes.

Nothing here writes. `introspect` reads the table at the start, and again when it may have changed (`table_reader`).
Every statement about the application's table is built from the TableShape, so that the table needs no change as long as
the required columns are there.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import asyncpg

from reconciler.domain.model import OPEN, SUCCEEDED
from reconciler.errors import Config
from reconciler.postgres.connection import pin_transaction

REQUIRED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "id": "uuid PRIMARY KEY DEFAULT gen_random_uuid()",
        "user_id": "uuid",
        "status": "text NOT NULL DEFAULT 'queued'",
        "task_id": "text",
        "asset_url": "text",
        "created_at": "timestamptz NOT NULL DEFAULT now()",
    }
)
"""The columns without which the daemon cannot run, and the type with which each is added."""

WRITTEN: Final = (
    "status", "task_id", "result_urls", "asset_url", "asset_urls", "error", "error_message", "updated_at",
    "original_path", "preview_status", "result_json", "completed_at",
)  # fmt: skip
"""The columns that the daemon changes in the application's rows, where they exist."""

_MIGRATE: Final = "`kie-reconciler migrate --application` brings the table up to the specification"

_COLUMNS: Final = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod) AS type, t.typcategory::text AS category,
       a.attnotnull AS filled, a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AS needed
  FROM pg_attribute AS a
  JOIN pg_type AS t ON t.oid = a.atttypid
 WHERE a.attrelid = to_regclass('public.generations')::oid AND a.attnum > 0 AND NOT a.attisdropped
   AND a.attgenerated = ''
 ORDER BY a.attnum
"""

_CHECKS: Final = """
SELECT pg_get_expr(c.conbin, c.conrelid)
  FROM pg_constraint AS c
  JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND c.conkey[1] = a.attnum AND cardinality(c.conkey) = 1
 WHERE c.conrelid = to_regclass('public.generations')::oid AND c.contype = 'c' AND a.attname = 'status'
"""

# Returns a text that differs after whatever may change what the table takes: a column, a constraint, a trigger or its
# function, a policy, a grant. Rows of the catalogue are written anew when they change, so their xmin tells.
_VERSION: Final = """
SELECT md5(string_agg(part, ',' ORDER BY part)) FROM (
    SELECT concat_ws(' ', c.oid::text, c.relacl::text, c.relrowsecurity::text) AS part
      FROM pg_class AS c WHERE c.oid = to_regclass('public.generations')::oid
     UNION ALL
    SELECT concat_ws(' ', 'column', a.attnum::text, a.xmin::text) FROM pg_attribute AS a
     WHERE a.attrelid = to_regclass('public.generations')::oid AND a.attnum > 0
     UNION ALL
    SELECT concat_ws(' ', 'constraint', c.oid::text, c.xmin::text) FROM pg_constraint AS c
     WHERE c.conrelid = to_regclass('public.generations')::oid
     UNION ALL
    SELECT concat_ws(' ', 'trigger', t.oid::text, t.xmin::text, p.xmin::text)
      FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
     WHERE t.tgrelid = to_regclass('public.generations')::oid
     UNION ALL
    SELECT concat_ws(' ', 'policy', p.oid::text, p.xmin::text) FROM pg_policy AS p
     WHERE p.polrelid = to_regclass('public.generations')::oid) AS parts
"""

UNUSABLE: Final = "table_unusable"
"""The code of the Config that says why the daemon cannot work on the table."""

_REFUSED: Final = """
SELECT format('GRANT SELECT ON public.generations TO %I;', current_user)
 WHERE NOT has_table_privilege('public.generations', 'SELECT')
UNION ALL
SELECT format('GRANT UPDATE (%s) ON public.generations TO %I;', string_agg(quote_ident(name), ', '), current_user)
  FROM unnest($1::text[]) AS name
 WHERE NOT has_column_privilege('public.generations', name, 'UPDATE')
HAVING count(*) > 0
"""

# Returns the policies that are missing. A policy for all roles shows each user only their own rows, unless its
# condition is true; one that names our role is meant for us.
UNSEEN: Final = """
SELECT format('CREATE POLICY %I ON public.generations FOR %s TO %I USING (true);',
              'reconciler_' || lower(command) || '_' || current_user::text, command, current_user)
  FROM (VALUES ('SELECT', 'r'), ('UPDATE', 'w')) AS asked (command, letter)
 WHERE row_security_active('public.generations')
   AND NOT EXISTS (
       SELECT FROM pg_policy AS p
        WHERE p.polrelid = to_regclass('public.generations')::oid AND p.polpermissive
          AND p.polcmd::text IN (letter, '*')
          AND (pg_get_expr(p.polqual, p.polrelid) = 'true' AND 0::oid = ANY (p.polroles)
               OR EXISTS (SELECT FROM unnest(p.polroles) AS named
                           WHERE CASE WHEN named <> 0::oid THEN pg_has_role(named, 'USAGE') END)))
"""


@dataclass(frozen=True, slots=True)
class TableShape:
    """public.generations as it is.

    `columns` maps each writable column to its type as format_type() prints it. `statuses` are those that the CHECK on
    status allows, None = any. `needed` are the columns that an INSERT must fill, `filled` those that take no NULL.
    `version` differs after every change of the table, also of its triggers, constraints and rights.
    """

    columns: Mapping[str, str]
    statuses: frozenset[str] | None = None
    needed: frozenset[str] = frozenset()
    filled: frozenset[str] = frozenset()
    version: str = field(default="", compare=False)

    @property
    def shape(self) -> "TableShape":
        """Return itself: a description that never changes can stand where the present one is asked for."""
        return self

    def has(self, column: str) -> bool:
        """Whether the table has this column."""
        return column in self.columns

    def takes(self, status: str) -> bool:
        """Whether the CHECK on status allows this word."""
        return self.statuses is None or status in self.statuses

    @property
    def id_type(self) -> str:
        """The type of the primary key: uuid, text, bigint."""
        return self.columns["id"]

    @property
    def kind_column(self) -> str | None:
        """The column that holds image, video or audio; `type` in older tables."""
        return self._first("kind", "type")

    @property
    def model_column(self) -> str | None:
        """The column that names the model."""
        return self._first("model_key", "model_id", "model", "model_name")

    @property
    def error_column(self) -> str | None:
        """The column for the reason of a failure."""
        return self._first("error", "error_message")

    @property
    def success(self) -> str:
        """The word for a delivered row: `completed` only where `success` is refused."""
        return "success" if self.takes("success") else "completed"

    @property
    def writes_generating(self) -> bool:
        """Whether queued → generating can be written here."""
        return self.takes("generating")

    def _first(self, *names: str) -> str | None:
        return next((name for name in names if self.has(name)), None)


async def introspect(connection: asyncpg.Connection) -> TableShape:
    """Read the table's columns and statuses in a transaction, which it pins.

    Config (code "table_unusable"), with the SQL that mends it, where the daemon cannot work on the table. Types come
    with their schemas.
    """
    await pin_transaction(connection)
    # First: where the table changes between these statements, the next read must find another version than this one.
    version = await connection.fetchval(_VERSION)
    rows = await connection.fetch(_COLUMNS)
    if not rows:
        raise Config("there is no table public.generations", code=UNUSABLE, hint=_MIGRATE)
    types = {row["attname"]: row["type"] for row in rows}
    _check_required(types)
    for row in rows:
        if row["attname"] in ("status", "task_id") and row["category"] != "S":
            raise Config(
                f"public.generations.{row['attname']} is {row['type']}, not text",
                code=UNUSABLE,
                hint=f"ALTER TABLE public.generations ALTER COLUMN {row['attname']} TYPE text;",
            )
    table = TableShape(
        columns=MappingProxyType(types),
        statuses=await statuses(connection),
        needed=frozenset(row["attname"] for row in rows if row["needed"]),
        filled=frozenset(row["attname"] for row in rows if row["filled"]),
        version=version,
    )
    _check_statuses(table)
    await _check_access(connection, table)
    return table


def add_required(missing: Iterable[str]) -> str:
    """Return the statement that adds these columns of REQUIRED."""
    return f"ALTER TABLE public.generations {', '.join(f'ADD COLUMN {name} {REQUIRED[name]}' for name in missing)};"


def _check_required(types: Mapping[str, str]) -> None:
    missing = [name for name in REQUIRED if name not in types]
    if missing:
        raise Config(
            f"public.generations lacks {', '.join(missing)}",
            code=UNUSABLE,
            hint=f"{add_required(missing)} or: {_MIGRATE}",
        )


def _check_statuses(table: TableShape) -> None:
    refused = [word for word in (table.success, "failed") if not table.takes(word)]
    if refused:
        raise Config(
            f"the CHECK on public.generations.status refuses {' and '.join(refused)}", code=UNUSABLE, hint=_MIGRATE
        )


async def _check_access(connection: asyncpg.Connection, table: TableShape) -> None:
    """Raise Config without a grant, where every statement fails, or without a policy, where rows silently vanish."""
    refused = await connection.fetch(_REFUSED, [name for name in WRITTEN if table.has(name)])
    unseen = await connection.fetch(UNSEEN)
    if not refused and not unseen:
        return
    member = "or make the login a member of role reconciler and `kie-reconciler migrate` as the table's owner"
    raise Config(
        "this login may not read and write public.generations"
        if refused
        else "row security hides the rows of public.generations from this login: no policy names it",
        code=UNUSABLE,
        hint=f"{' '.join(row[0] for row in [*refused, *unseen])} {member}",
    )


async def statuses(connection: asyncpg.Connection) -> frozenset[str] | None:
    """Return the statuses that the CHECKs allow, None = any; every word in them or known to us is tried."""
    checks = [row[0] for row in await connection.fetch(_CHECKS)]
    if not checks:
        return None
    condition = " AND ".join(f"({check})" for check in checks)
    literals = [text.replace("''", "'") for text in re.findall(r"'((?:[^']|'')*)'", condition)]
    listed = [word for text in literals for word in re.split(r'[{},"]+', text)]  # '{one,two}'::text[]
    known = {*OPEN, *SUCCEEDED, "failed", "cancelled", *literals, *filter(None, listed)}
    rows = await connection.fetch(
        f"SELECT status FROM unnest($1::text[]) AS generations (status) WHERE {condition}", sorted(known)
    )
    return frozenset(row[0] for row in rows)
