"""The application's table as it is: which of the known columns exist, of what type, and which statuses it takes.

Nothing here writes. `introspect` reads the table at the start, and again when it may have changed (`table_reader`).
Every statement about the application's table is built from the TableShape, so that the table needs no change as long as
the required columns are there.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import chain
from types import MappingProxyType
from typing import Final

import asyncpg

from reconciler.domain.model import OPEN, SUCCEEDED
from reconciler.domain.object_keys import KIND_WORDS
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
    "original_path", "preview_status", "preview_url", "result_json", "completed_at",
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

KIND_COLUMNS: Final = ("kind", "type")
"""The columns that may name a row's kind, the specification's first."""

MODEL_COLUMNS: Final = ("model_key", "model_id", "model", "model_name")
"""The columns that may name a row's model, the specification's first."""

WORDED: Final = (*KIND_COLUMNS, "preview_status")
"""The columns, beside status, that we write a word of ours into."""

NO_PREVIEW: Final = "none"
"""The word in preview_status for a row whose preview the application has not made."""

# Returns the column and the condition of each CHECK that is about one of the columns $1 alone.
_CHECKS: Final = """
SELECT a.attname::text AS name, pg_get_expr(c.conbin, c.conrelid) AS condition
  FROM pg_constraint AS c
  JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND c.conkey[1] = a.attnum AND cardinality(c.conkey) = 1
 WHERE c.conrelid = to_regclass('public.generations')::oid AND c.contype = 'c' AND a.attname::text = ANY ($1)
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


_ANY_WORD: Mapping[str, frozenset[str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class TableShape:
    """public.generations as it is.

    `columns` maps each writable column to its type as format_type() prints it. `statuses` are those that the CHECK on
    status allows, None = any. `needed` are the columns that an INSERT must fill, `filled` those that take no NULL.
    `words` are those that the CHECK on another column of WORDED allows; a column without a CHECK takes any.
    `version` differs after every change of the table, also of its triggers, constraints and rights.
    """

    columns: Mapping[str, str]
    statuses: frozenset[str] | None = None
    needed: frozenset[str] = frozenset()
    filled: frozenset[str] = frozenset()
    words: Mapping[str, frozenset[str]] = field(default_factory=lambda: _ANY_WORD)
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

    def allows(self, column: str, word: str) -> bool:
        """Whether the CHECK on this column of WORDED allows this word."""
        return column not in self.words or word in self.words[column]

    def holds_text(self, column: str) -> bool:
        """Whether the table has this column, as text of any length."""
        return self.columns.get(column, "").startswith(("text", "character varying"))

    @property
    def id_type(self) -> str:
        """The type of the primary key: uuid, text, bigint."""
        return self.columns["id"]

    @property
    def kind_columns(self) -> tuple[str, ...]:
        """The columns that may name a row's kind; a row may fill only the later ones."""
        return tuple(name for name in KIND_COLUMNS if self.has(name))

    @property
    def model_columns(self) -> tuple[str, ...]:
        """The columns that may name a row's model; a row may fill only the later ones."""
        return tuple(name for name in MODEL_COLUMNS if self.has(name))

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
    _check_required({row["attname"]: row["type"] for row in rows})
    for row in rows:
        if row["attname"] in ("status", "task_id") and row["category"] != "S":
            raise Config(
                f"public.generations.{row['attname']} is {row['type']}, not text",
                code=UNUSABLE,
                hint=f"ALTER TABLE public.generations ALTER COLUMN {row['attname']} TYPE text;",
            )
    table = await _shape(connection, rows, version)
    _check_statuses(table)
    await _check_access(connection, table)
    return table


async def shape(connection: asyncpg.Connection) -> TableShape:
    """Read the table as it is, whether or not the daemon can work on it; without the table there are no columns."""
    return await _shape(connection, await connection.fetch(_COLUMNS))


async def _shape(connection: asyncpg.Connection, rows: Sequence[asyncpg.Record], version: str = "") -> TableShape:
    return TableShape(
        columns=MappingProxyType({row["attname"]: row["type"] for row in rows}),
        statuses=await statuses(connection),
        needed=frozenset(row["attname"] for row in rows if row["needed"]),
        filled=frozenset(row["attname"] for row in rows if row["filled"]),
        words=MappingProxyType(await _allowed(connection, WORDED, (*chain(*KIND_WORDS.values()), NO_PREVIEW))),
        version=version,
    )


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
    allowed = await _allowed(connection, ["status"], (*OPEN, *SUCCEEDED, "failed", "cancelled"))
    return allowed.get("status")


async def _allowed(
    connection: asyncpg.Connection, columns: Sequence[str], known: Iterable[str]
) -> dict[str, frozenset[str]]:
    """Return the words that the CHECKs on these columns allow; a column without a CHECK is left out.

    Every known word and every word in the CHECKs is tried.
    """
    checks: defaultdict[str, list[str]] = defaultdict(list)
    for row in await connection.fetch(_CHECKS, list(columns)):
        checks[row["name"]].append(row["condition"])
    tried = set(known)
    return {name: await _passing(connection, name, conditions, tried) for name, conditions in checks.items()}


async def _passing(
    connection: asyncpg.Connection, column: str, conditions: Sequence[str], known: AbstractSet[str]
) -> frozenset[str]:
    """Return the words that these conditions on a column of text let through."""
    condition = " AND ".join(f"({one})" for one in conditions)
    literals = [text.replace("''", "'") for text in re.findall(r"'((?:[^']|'')*)'", condition)]
    listed = [word for text in literals for word in re.split(r'[{},"]+', text)]  # '{one,two}'::text[]
    words = {*known, *literals, *filter(None, listed)}
    rows = await connection.fetch(
        f"SELECT {column} FROM unnest($1::text[]) AS generations ({column}) WHERE {condition}", sorted(words)
    )
    return frozenset(row[0] for row in rows)
