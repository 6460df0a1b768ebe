"""Records every change of public.generations by a trigger that the daemon does not know."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import asyncpg

TERMINAL = ("success", "completed", "failed", "cancelled")

_WITNESS = """
CREATE SCHEMA witness;
CREATE TABLE witness.changes (id bigint GENERATED ALWAYS AS IDENTITY, op text, before jsonb, after jsonb, by text);
CREATE FUNCTION witness.saw() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO witness.changes (op, before, after, by)
    VALUES (TG_OP, CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END,
            CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END, current_setting('application_name'));
    RETURN NULL;
END
$$;
CREATE TRIGGER witness AFTER INSERT OR UPDATE OR DELETE ON public.generations
    FOR EACH ROW EXECUTE FUNCTION witness.saw();
"""


@dataclass(frozen=True)
class Change:
    """One change of one row; `by` is the connection's application_name."""

    op: str
    before: dict[str, Any]
    after: dict[str, Any]
    by: str

    @property
    def id(self) -> str:
        return str((self.after or self.before)["id"])

    @property
    def status(self) -> str:
        return str(self.after["status"])

    @property
    def moves_an_end(self) -> bool:
        return self.op == "DELETE" or (self.op == "UPDATE" and self.before["status"] in TERMINAL)


class Witness:
    """Everything that happened to the application's table since it was called."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @classmethod
    async def call(cls, pool: asyncpg.Pool) -> Witness:
        await pool.execute(_WITNESS)
        return cls(pool)

    async def changes(self) -> list[Change]:
        """Every update and delete, in order."""
        rows = await self._pool.fetch(
            "SELECT op, coalesce(before, '{}') AS before, coalesce(after, '{}') AS after, by"
            "  FROM witness.changes WHERE op <> 'INSERT' ORDER BY id"
        )
        return [Change(row["op"], json.loads(row["before"]), json.loads(row["after"]), row["by"]) for row in rows]

    async def statuses(self, generation_id: str) -> list[str]:
        """The statuses that updates gave to one row, in order."""
        return [change.status for change in await self.changes() if change.id == generation_id]
