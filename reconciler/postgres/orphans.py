"""Stored objects that no row names any more, and their removal from storage.

`mark_orphans` of `predicates` marks them; the command `cleanup` removes them (`worker/periodic/retention.py`). A mark
is the lock of its path: a visit that will store there deletes the mark first (`ledger`), and a removal holds it until
storage has removed the object.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta

import asyncpg

from reconciler.domain.object_keys import generation_of
from reconciler.errors import Transient
from reconciler.postgres.ledger.verification import audit_soon
from reconciler.postgres.pool import Database, StatementRunner
from reconciler.postgres.records import as_key
from reconciler.postgres.schema import TableShape
from reconciler.postgres.statement import Statement
from reconciler.postgres.table_reader import PerShape, PresentTable

PAGE = 500
"""Marks that are compared with the whole table at once."""

REMOVAL = 100
"""Objects that are removed in one transaction."""

REMOVAL_SECONDS = 20.0
"""Seconds that storage gets for that: the server ends a transaction that waits for longer than 30 s."""

LATE_SECONDS = 60.0
"""Seconds from a removal that storage did not confirm to the audit: it may be carried out until then."""

WALK = 20_000
"""Rows of the application's table that one statement reads to find what they name."""

# Returns the next :limit paths behind :after that were marked as orphans longer than :older ago.
_MARKED = Statement("""
SELECT path FROM reconciler.orphans WHERE since < now() - :older::interval AND path > :after
 ORDER BY path LIMIT :limit""")

# Locks and returns those of the marks :paths that are older than :older. One that another cleanup holds, or that an
# intention is about to delete, is passed over.
_TAKE = Statement("""
SELECT path FROM reconciler.orphans WHERE path = ANY(:paths) AND since < now() - :older::interval
 ORDER BY path FOR UPDATE SKIP LOCKED""")

_INTENDED = Statement("SELECT path FROM reconciler.assets WHERE path = ANY(:paths)")


class Orphans:
    """Finds and removes what no row of the application's table and no receipt names.

    Marks are read through `marks` (None: `database`): with a CheckedDatabase nothing is removed while the database's
    clock cannot be trusted.
    """

    def __init__(self, database: Database, table: PresentTable, *, marks: StatementRunner | None = None) -> None:
        self._database = database
        self._marks = marks or database
        self._table = table
        self._named = PerShape(table, _NamedSql)

    async def page(self, older: timedelta, after: str = "") -> tuple[list[str], str | None]:
        """Return the orphans among the next PAGE marks older than this that no row names, and where to continue."""
        rows = await self._marks.fetch(*_MARKED(older=older, after=after, limit=PAGE))
        marked = [row["path"] for row in rows]
        named = await self._named_among(marked) if marked else set()
        return [path for path in marked if path not in named], marked[-1] if len(marked) == PAGE else None

    async def _named_among(self, marked: Sequence[str]) -> set[str]:
        """Return the paths among these that a row names, by a walk over the whole table in short statements."""
        named: set[str] = set()
        rows = await self._database.fetch(*self._named.present.first(paths=marked, limit=WALK))
        while True:
            *found, end = sorted(rows, key=lambda row: row["looked"] is not None)
            named |= {row["path"] for row in found}
            if end["looked"] < WALK:
                return named
            rows = await self._database.fetch(*self._named.present.behind(paths=marked, limit=WALK, after=end["path"]))

    async def remove(
        self, paths: Sequence[str], older: timedelta, remove: Callable[[Sequence[str]], Awaitable[None]]
    ) -> list[str]:
        """Remove those of these objects that are still orphans, and their marks; return their paths.

        The marks stay locked meanwhile: an intention to store at one of these paths (`ledger`) waits until the object
        is gone. Each path is looked at again under its lock. Deliveries of the generations that the paths are named
        after are audited at once, or LATE_SECONDS after a removal that failed. Raises what `remove` raises; the marks
        stay then.
        """
        tried: set[str] = set()
        again = LATE_SECONDS

        async def once() -> list[str]:
            async with self._database.transaction() as connection:
                taken = [row["path"] for row in await connection.fetch(*_TAKE(paths=list(paths), older=older))]
                named = await self._named_now(connection, taken)
                loose = [path for path in taken if path not in named]
                if loose:
                    tried.update(loose)
                    await _in_time(remove, loose)
                    # After a crash between the two, removing the object again is harmless.
                    await connection.execute("DELETE FROM reconciler.orphans WHERE path = ANY($1)", loose)
                return loose

        try:
            removed = await self._database.run(once)
            again = 0.0
        finally:
            if ids := self._generations(tried):
                await audit_soon(self._database, ids, seconds=again, wait=True)
        return removed

    def _generations(self, paths: Iterable[str]) -> list[str]:
        id_type = self._table.shape.id_type
        keys = (as_key(found, id_type) for path in paths if (found := generation_of(path)) is not None)
        return sorted({key for key in keys if key is not None})

    async def _named_now(self, connection: asyncpg.Connection, paths: Sequence[str]) -> set[str]:
        """Return the paths among these that their own generation names at this moment."""
        rows = await connection.fetch(*self._named.present.by_own(paths=list(paths), ids=self._generations(paths)))
        unknown = [path for path in paths if not self._generations([path])]
        if unknown:
            rows += await connection.fetch(*_INTENDED(paths=unknown))
        return {row["path"] for row in rows}


class _NamedSql:
    """The statements that find what rows name: the first rows by id, those behind one, and the rows of given ids."""

    def __init__(self, table: TableShape) -> None:
        first, behind = "ORDER BY g.id LIMIT :limit", f"WHERE g.id > :after::text::{table.id_type}"
        own = f"WHERE g.id = ANY(:ids::text[]::{table.id_type}[])"
        self.first = _named_sql(table, first, receipts="true")
        self.behind = _named_sql(table, f"{behind} {first}", receipts="false")
        self.by_own = _named_sql(table, own, receipts="a.generation_id = ANY(:ids)")


def _named_sql(table: TableShape, rows: str, *, receipts: str) -> Statement:
    """Return the paths among :paths that one of these `rows` names, or an intention or receipt for which that holds.

    The last row holds the number of rows that were read and the id of the last of them.
    """
    lists = [name for name in ("asset_urls", "preview_url") if table.has(name)]
    names = ["asset_url", *lists, *(["original_path"] if table.has("original_path") else [])]
    addresses = ["SELECT s.asset_url FROM span s", *(_addresses_sql(table.columns[name], name) for name in lists)]
    if table.has("original_path"):
        addresses.append("SELECT s.original_path::text FROM span s")
    # The last three parts of an address are the path, whatever host serves it today. The last part is compared first:
    # an expression for all three costs twenty times as much.
    return Statement(f"""
WITH span AS MATERIALIZED (
    SELECT g.id, {", ".join(f"g.{name}" for name in names)} FROM public.generations g {rows}),
shown (address) AS ({" UNION ALL ".join(addresses)})
SELECT a.path, NULL::bigint AS looked FROM reconciler.assets a WHERE a.path = ANY(:paths) AND {receipts}
 UNION
SELECT substring(split_part(address, '?', 1) from '[^/]+/[^/]+/[^/]+$'), NULL FROM shown
 WHERE split_part(split_part(address, '?', 1), '/', -1)
       IN (SELECT split_part(path, '/', -1) FROM unnest(:paths::text[]) AS path)
 UNION ALL
SELECT (SELECT s.id::text FROM span s ORDER BY s.id DESC LIMIT 1), count(*) FROM span""")


async def _in_time(remove: Callable[[Sequence[str]], Awaitable[None]], paths: Sequence[str]) -> None:
    try:
        async with asyncio.timeout(REMOVAL_SECONDS):
            await remove(paths)
    except TimeoutError:
        raise Transient("storage did not remove objects in time", code="timeout") from None


def _addresses_sql(kind: str, name: str) -> str:
    text = f"to_jsonb(s.{name})::text" if kind.endswith("[]") else rf"replace(s.{name}::text, '\/', '/')"
    return f"""SELECT part FROM span s, string_to_table({text}, '"') AS part"""
