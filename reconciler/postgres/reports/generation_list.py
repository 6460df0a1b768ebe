"""The application's rows as readers ask for them: a page of the newest, a page of the stuck, one by its id, a task's.

Only read here; what is read of a row is told in `listed.py`, what a reader is shown of it is the doors' affair. Every
question may be narrowed to one user's rows; then a row of somebody else takes the same way as one that is not there.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence

import asyncpg

from reconciler.errors import Permanent
from reconciler.postgres.pool import Database
from reconciler.postgres.reports import report_sql
from reconciler.postgres.reports.generation_details import as_key
from reconciler.postgres.reports.listed import LONGEST_ADDRESS, ListedGeneration, columns, listed, text_of
from reconciler.postgres.reports.reports import ReportScope
from reconciler.postgres.schema import TableShape

OF_ONE_TASK = 20
"""Rows that may share a task and are still told of, the newest."""

SEARCHED = 5000
"""The newest rows among which a result's address is looked for."""

_NEWEST = "g.created_at DESC, g.id DESC"
_OLDEST = "g.created_at, g.id"


class _Values(list[object]):
    """The parameters of a statement in the making."""

    def put(self, value: object) -> str:
        """Add one, and return its name."""
        self.append(value)
        return f"${len(self)}"


class GenerationList:
    """Read-only questions about the application's rows; `scope` tells which of them count as stuck."""

    def __init__(self, database: Database, shape: TableShape, scope: ReportScope) -> None:
        self._database = database
        self._shape = shape
        self._scope = scope
        self._user_type, self._id_type = _compared(shape.columns["user_id"]), _compared(shape.id_type)
        self._read = f"""
SELECT {columns(shape)} FROM picked JOIN public.generations g ON g.id = picked.id
  LEFT JOIN reconciler.work w ON w.generation_id = g.id::text
  LEFT JOIN reconciler.pace p ON p.model = {text_of(shape, shape.model_column)} AND p.mu IS NOT NULL"""

    async def page(
        self, user_id: str | None, *, statuses: Sequence[str] | None = None, after: str | None = None, limit: int = 50
    ) -> tuple[ListedGeneration, ...]:
        """Return this user's rows (None: everybody's), the newest first, from the row whose `place` is `after` on.

        Permanent (code "bad_cursor") for a place that is none.
        """
        values = _Values()
        where = self._where(values, user_id, statuses, self._behind(values, "<", after))
        return await self._page(_picked(f"public.generations g {where}", _NEWEST, values.put(limit)), values, after)

    async def stuck(
        self, user_id: str | None, *, statuses: Sequence[str] | None = None, after: str | None = None, limit: int = 50
    ) -> tuple[ListedGeneration, ...]:
        """Return those that are in flight for too long, the oldest first, each with `why`; else like `page`."""
        scope = self._scope
        values = _Values([list(scope.providers), scope.task_pattern, scope.stuck_after])
        where = self._where(values, user_id, statuses, self._behind(values, ">", after))
        source = f"late JOIN public.generations g ON g.id = late.id::{self._shape.id_type} {where}"
        late = f"late AS MATERIALIZED ({report_sql.stuck(self._shape)}),"
        picked = _picked(source, _OLDEST, values.put(limit), told="late.why")
        return await self._page(f"{late} {picked}", values, after, order=_OLDEST)

    async def one(self, generation_id: str, user_id: str | None = None) -> ListedGeneration | None:
        """Return this row, None where there is none or it is not this user's (None: anybody's)."""
        found = await self.these([generation_id], user_id)
        return found[0] if found else None

    async def these(self, ids: Sequence[str], user_id: str | None = None) -> tuple[ListedGeneration, ...]:
        """Return those of these rows that are there and this user's (None: anybody's), the newest first."""
        keys = [key for key in (as_key(name, self._shape.id_type) for name in ids) if key is not None]
        values = _Values()
        where = self._where(values, user_id, None, f"g.id = ANY({values.put(keys)}::text[]::{self._id_type}[])")
        return await self._listed(_picked(f"public.generations g {where}", _NEWEST, values.put(len(keys))), values)

    async def of_task(self, task_id: str, user_id: str) -> tuple[ListedGeneration, ...]:
        """Return this user's rows of a task, the newest first."""
        values = _Values()
        # No task has such a name, and PostgreSQL takes no NUL; the question is put all the same, as for any other.
        name = values.put(task_id if task_id.isprintable() else "")
        where = self._where(values, user_id, None, f"g.task_id = {name}")
        return await self._listed(_picked(f"public.generations g {where}", _NEWEST, values.put(OF_ONE_TASK)), values)

    async def with_result(self, url: str, user_id: str | None) -> tuple[ListedGeneration, ...]:
        """Return the newest of this user's rows (None: anybody's) that have this address among their results."""
        if not self._shape.has("result_urls") or not url.isprintable() or len(url) > LONGEST_ADDRESS:
            return ()
        values = _Values([url])
        recent = f"""recent AS MATERIALIZED (
    SELECT g.id, g.created_at, g.result_urls FROM public.generations g {self._where(values, user_id, None, "true")}
     ORDER BY {_NEWEST} LIMIT {values.put(SEARCHED)}),"""
        picked = _picked(f"recent g WHERE {_mentions(self._shape)}", _NEWEST, values.put(OF_ONE_TASK))
        found = await self._listed(f"{recent} {picked}", values)
        return tuple(row for row in found if url in row.result_urls)

    async def _page(
        self, picked: str, values: _Values, after: str | None, *, order: str = _NEWEST
    ) -> tuple[ListedGeneration, ...]:
        try:
            return await self._listed(picked, values, order=order)
        except asyncpg.DataError as error:
            if after is None:
                raise
            # Only the time of a place is no name that was checked before.
            raise _bad_cursor() from error

    async def _listed(self, picked: str, values: _Values, *, order: str = _NEWEST) -> tuple[ListedGeneration, ...]:
        records = await self._database.fetch(f"WITH {picked} {self._read} ORDER BY {order}", *values)
        return tuple(listed(record, self._shape) for record in records)

    def _where(self, values: _Values, user_id: str | None, statuses: Sequence[str] | None, condition: str) -> str:
        conditions = [condition]
        if statuses is not None:
            conditions.append(f"g.status = ANY({values.put(list(statuses))})")
        if user_id is not None:
            key = as_key(user_id, self._shape.columns["user_id"])
            conditions.append("false" if key is None else f"g.user_id = {values.put(key)}::text::{self._user_type}")
        return f"WHERE {' AND '.join(conditions)}"

    def _behind(self, values: _Values, than: str, after: str | None) -> str:
        if after is None:
            return "true"
        time, generation_id = _place(after)
        key = as_key(generation_id, self._shape.id_type)
        if key is None:
            raise _bad_cursor()
        name = f"{values.put(key)}::text::{self._id_type}"
        if time is None:
            # Rows without a time come before all others.
            return f"(g.created_at IS NOT NULL OR g.id {than} {name})"
        return f"(g.created_at, g.id) {than} ({values.put(time)}::text::{self._shape.columns['created_at']}, {name})"


def cursor(row: ListedGeneration) -> str:
    """Return what `after` takes to go on behind this row."""
    return base64.urlsafe_b64encode(row.place.encode()).decode().rstrip("=")


def _place(after: str) -> tuple[str | None, str]:
    try:
        found = json.loads(base64.b64decode(after + "=" * (-len(after) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise _bad_cursor() from None
    match found:
        case [(None | str()) as time, str() as generation_id] if time is None or time.isprintable():
            return time, generation_id
    raise _bad_cursor()


def _bad_cursor() -> Permanent:
    return Permanent("this is not a place where a page ended", code="bad_cursor")


def _picked(source: str, order: str, limit: str, *, told: str = "NULL::text") -> str:
    # Picked before anything is joined, so that the order comes from an index and stops at the limit.
    return f"""picked AS MATERIALIZED (
    SELECT g.id, {told} AS told FROM {source} ORDER BY {order} LIMIT {limit})"""


def _compared(kind: str) -> str:
    """Return the type in which a name is compared: a cast to varchar(n) would cut it, and find another's row."""
    return "text" if kind.startswith("character") else kind


def _mentions(shape: TableShape) -> str:
    """Whether result_urls may hold the address $1; a row that only looks so is dropped when it is read."""
    kind = shape.columns["result_urls"]
    if kind == "jsonb":
        return "g.result_urls @> to_jsonb($1::text)"
    if kind.endswith("[]"):
        return "$1 = ANY(g.result_urls)"
    return r"strpos(replace(g.result_urls::text, '\/', '/'), $1) > 0"
