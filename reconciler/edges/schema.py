"""The application's table as it is: which of the known columns exist, of what type, and which statuses it takes.

Read once at start, and by doctor; nothing here writes. The ledger builds its statements from the Shape, so a table
that belongs to somebody else needs no change as long as the required columns are there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import asyncpg

from reconciler.core.model import OPEN, SUCCEEDED
from reconciler.errors import Config

OPEN_OR_UNHEALED: Final = (
    "status IN ('queued', 'generating', 'pending', 'processing')"
    " OR (status IN ('success', 'completed') AND asset_url IS NULL)"
)
"""Rows that may need a visit, as the partial index has it; the same words in the index and in the sweep."""

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
"""The columns without which nothing runs, and how to add each."""

_MIGRATE: Final = "`kie-reconciler migrate --application` brings the table up to the specification"

_COLUMNS: Final = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod) AS type, t.typcategory::text AS category,
       a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AS needed
  FROM pg_attribute AS a
  JOIN pg_type AS t ON t.oid = a.atttypid
 WHERE a.attrelid = to_regclass('public.generations') AND a.attnum > 0 AND NOT a.attisdropped
   AND a.attgenerated = ''
 ORDER BY a.attnum
"""

_CHECKS: Final = """
SELECT pg_get_expr(c.conbin, c.conrelid)
  FROM pg_constraint AS c
  JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND c.conkey = ARRAY[a.attnum]
 WHERE c.conrelid = to_regclass('public.generations') AND c.contype = 'c' AND a.attname = 'status'
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """public.generations as it is.

    `columns` maps each writable column to its type as format_type() prints it. `statuses` is what the CHECK on status
    lets through, None = anything. `needed` are the columns that an INSERT must fill.
    """

    columns: Mapping[str, str]
    statuses: frozenset[str] | None = None
    needed: frozenset[str] = frozenset()

    def has(self, column: str) -> bool:
        """Whether the table has this column."""
        return column in self.columns

    def takes(self, status: str) -> bool:
        """Whether the CHECK on status lets this word through."""
        return self.statuses is None or status in self.statuses

    @property
    def id_type(self) -> str:
        """The type of the primary key: uuid, text, bigint."""
        return self.columns["id"]

    @property
    def kind_column(self) -> str | None:
        """The column that says image, video or audio; `type` in older tables."""
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


async def introspect(connection: asyncpg.Connection) -> Shape:
    """Read the table's shape; Config, with the SQL that mends it, where the daemon could not work on it."""
    rows = await connection.fetch(_COLUMNS)
    if not rows:
        raise Config("there is no table public.generations", hint=_MIGRATE)
    types = {row["attname"]: row["type"] for row in rows}
    _check_required(types)
    for row in rows:
        if row["attname"] in ("status", "task_id") and row["category"] != "S":
            raise Config(
                f"public.generations.{row['attname']} is {row['type']}, not text",
                hint=f"ALTER TABLE public.generations ALTER COLUMN {row['attname']} TYPE text;",
            )
    shape = Shape(
        columns=MappingProxyType(types),
        statuses=await _statuses(connection),
        needed=frozenset(row["attname"] for row in rows if row["needed"]),
    )
    _check_statuses(shape)
    return shape


def _check_required(types: Mapping[str, str]) -> None:
    missing = [name for name in REQUIRED if name not in types]
    if missing:
        additions = ", ".join(f"ADD COLUMN {name} {REQUIRED[name]}" for name in missing)
        raise Config(
            f"public.generations lacks {', '.join(missing)}",
            hint=f"ALTER TABLE public.generations {additions}; or: {_MIGRATE}",
        )


def _check_statuses(shape: Shape) -> None:
    refused = [word for word in (shape.success, "failed") if not shape.takes(word)]
    if refused:
        raise Config(f"the CHECK on public.generations.status refuses {' and '.join(refused)}", hint=_MIGRATE)


async def _statuses(connection: asyncpg.Connection) -> frozenset[str] | None:
    """Ask the CHECKs themselves about every word that they or we know."""
    checks = [row[0] for row in await connection.fetch(_CHECKS)]
    if not checks:
        return None
    condition = " AND ".join(f"({check})" for check in checks)
    known = {*OPEN, *SUCCEEDED, "failed", "cancelled", *re.findall(r"'([^']*)'", condition)}
    rows = await connection.fetch(
        f"SELECT status FROM unnest($1::text[]) AS generations (status) WHERE {condition}",
        sorted(known),
    )
    return frozenset(row[0] for row in rows)
