"""The application's rows as readers ask for them: a page of the newest or the stuck, one by its id, those of a task.

Nothing here writes. Rows are hostile input: a column may hold any JSON and any length, so only what can be shown is
read of it. Every read may be narrowed to one user's rows; a row of another user then costs the same as one that does
not exist. The HTTP routes call it and decide what a reader is shown.
"""

import asyncio
import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import asyncpg

from reconciler.domain.model import DurationModel
from reconciler.domain.poll_interval import duration_model
from reconciler.errors import Permanent
from reconciler.postgres.pool import Database
from reconciler.postgres.predicates import TASK, kind_of, model_of, text_of
from reconciler.postgres.records import as_key
from reconciler.postgres.reports import report_sql
from reconciler.postgres.reports.reports import ReportScope
from reconciler.postgres.schema import TableShape
from reconciler.postgres.statement import Statement
from reconciler.postgres.table_reader import PerShape, PresentTable

OF_ONE_TASK = 20
"""The most rows with the same task that are returned, the newest."""

SEARCHED = 5000
"""The newest rows among which a result's address is searched for."""

MOST_ADDRESSES = 50
"""The most results of one row that are shown."""

LONGEST_ADDRESS = 8192
_LONGEST_LIST = 1 << 17
_LONGEST_TEXT = 20_000

_NEWEST = "g.created_at DESC, g.id DESC"
_OLDEST = "g.created_at, g.id"

# A page has few variants: with a user or without, with statuses, with a place to start from.
_statement = lru_cache(maxsize=64)(Statement)


@dataclass(frozen=True, slots=True)
class ListedGeneration:
    """One row, at the database's `now`; only stuck rows have `why`.

    `curve` is the learned or assumed duration of its model; `key_hash` names the key that KIE knows its task by;
    `since` is when it got its task, None where it had no other; `place` is where a page that ends with it continues.
    """

    id: str
    user_id: str | None
    task_id: str | None
    status: str
    kind: str | None
    model: str | None
    prompt: str | None
    error: str | None
    asset_url: str | None
    asset_urls: tuple[str, ...]
    result_urls: tuple[str, ...]
    preview_url: str | None
    created_at: datetime
    since: datetime | None
    completed_at: datetime | None
    now: datetime
    curve: DurationModel
    key_hash: str | None
    why: str | None
    place: str


class GenerationList:
    """Reads the application's rows; `scope` tells which of them count as stuck."""

    def __init__(self, database: Database, table: PresentTable, scope: ReportScope) -> None:
        self._database = database
        self._scope = scope
        self._sql = PerShape(table, _ListSql)

    async def page(
        self, user_id: str | None, *, statuses: Sequence[str] | None = None, after: str | None = None, limit: int = 50
    ) -> tuple[ListedGeneration, ...]:
        """Return this user's rows (None: all users'), the newest first, behind the place `after`.

        Permanent (code "bad_cursor") for a place that is none.
        """
        sql = self._sql.present
        values: dict[str, object] = {"limit": limit}
        where = sql.where(values, user_id, statuses, sql.behind(values, "<", after))
        return await self._page(sql, _picked(f"public.generations g {where}", _NEWEST), values, after)

    async def stuck(
        self, user_id: str | None, *, statuses: Sequence[str] | None = None, after: str | None = None, limit: int = 50
    ) -> tuple[ListedGeneration, ...]:
        """Return the rows that are in flight for too long, the oldest first, each with `why`; else like `page`."""
        sql = self._sql.present
        values: dict[str, object] = {"limit": limit, "stuck_after": self._scope.stuck_after, **self._scope.owned}
        where = sql.where(values, user_id, statuses, sql.behind(values, ">", after))
        source = f"late JOIN public.generations g ON g.id = late.id::{sql.table.id_type} {where}"
        picked = f"late AS MATERIALIZED ({sql.stuck}), {_picked(source, _OLDEST, why='late.why')}"
        return await self._page(sql, picked, values, after, order=_OLDEST)

    async def one(self, generation_id: str, user_id: str | None = None) -> ListedGeneration | None:
        """Return this row, None where there is none or it belongs to another user (None: any user)."""
        found = await self.these([generation_id], user_id)
        return found[0] if found else None

    async def these(self, ids: Sequence[str], user_id: str | None = None) -> tuple[ListedGeneration, ...]:
        """Return those of these rows that exist and belong to this user (None: any user), the newest first."""
        sql = self._sql.present
        keys = [key for key in (as_key(name, sql.table.id_type) for name in ids) if key is not None]
        values: dict[str, object] = {"ids": keys, "limit": len(keys)}
        where = sql.where(values, user_id, None, f"g.id = ANY(:ids::text[]::{sql.id_type}[])")
        return await self._fetch(sql, _picked(f"public.generations g {where}", _NEWEST), values)

    async def of_task(self, task_id: str, user_id: str) -> tuple[ListedGeneration, ...]:
        """Return this user's rows of a task, the newest first."""
        # PostgreSQL takes no NUL in a name. No task has such a name; the statement runs all the same, so that the
        # answer takes as long as any other.
        values: dict[str, object] = {"task_id": task_id if task_id.isprintable() else "", "limit": OF_ONE_TASK}
        sql = self._sql.present
        where = sql.where(values, user_id, None, "g.task_id = :task_id")
        return await self._fetch(sql, _picked(f"public.generations g {where}", _NEWEST), values)

    async def with_result(self, url: str, user_id: str | None) -> tuple[ListedGeneration, ...]:
        """Return the newest of this user's rows (None: all users') that have this address among their results."""
        sql = self._sql.present
        if not sql.table.has("result_urls") or not url.isprintable() or len(url) > LONGEST_ADDRESS:
            return ()
        values: dict[str, object] = {"url": url, "searched": SEARCHED, "limit": OF_ONE_TASK}
        recent = f"""recent AS MATERIALIZED (
    SELECT g.id, g.created_at, g.result_urls FROM public.generations g {sql.where(values, user_id, None, "true")}
     ORDER BY {_NEWEST} LIMIT :searched),"""
        picked = _picked(f"recent g WHERE {_may_hold_url(sql.table)}", _NEWEST)
        found = await self._fetch(sql, f"{recent} {picked}", values)
        return tuple(row for row in found if url in row.result_urls)

    async def _page(
        self, sql: "_ListSql", picked: str, values: Mapping[str, object], after: str | None, *, order: str = _NEWEST
    ) -> tuple[ListedGeneration, ...]:
        try:
            return await self._fetch(sql, picked, values, order=order)
        except asyncpg.DataError as error:
            if after is None:
                raise
            # Of all values only the time in the place was not checked before.
            raise _bad_cursor() from error

    async def _fetch(
        self, sql: "_ListSql", picked: str, values: Mapping[str, object], *, order: str = _NEWEST
    ) -> tuple[ListedGeneration, ...]:
        statement = _statement(f"WITH {picked} {sql.select} ORDER BY {order}")
        records = await self._database.fetch(*statement(**values))
        listed = []
        for record in records:
            listed.append(_listed(record, sql.table))
            # A row's lists may take a millisecond, and a page has a hundred rows.
            await asyncio.sleep(0)
        return tuple(listed)


class _ListSql:
    """The parts of the list's statements for one shape of the application's table."""

    def __init__(self, table: TableShape) -> None:
        self.table = table
        self.id_type = _comparable(table.id_type)
        self.stuck = report_sql.stuck(table)
        self.select = f"""
SELECT {_columns(table)} FROM picked JOIN public.generations g ON g.id = picked.id
  LEFT JOIN reconciler.work w ON w.generation_id = g.id::text
  LEFT JOIN reconciler.pace p ON p.model = {model_of(table)} AND p.mu IS NOT NULL"""

    def where(
        self, values: dict[str, object], user_id: str | None, statuses: Sequence[str] | None, condition: str
    ) -> str:
        """Return the WHERE clause of these conditions, and put its values into `values`."""
        conditions = [condition]
        if statuses is not None:
            values["statuses"] = list(statuses)
            conditions.append("g.status = ANY(:statuses)")
        if user_id is not None:
            user_type = self.table.columns["user_id"]
            key = as_key(user_id, user_type)
            if key is not None:
                values["user_id"] = key
            conditions.append("false" if key is None else f"g.user_id = :user_id::text::{_comparable(user_type)}")
        return f"WHERE {' AND '.join(conditions)}"

    def behind(self, values: dict[str, object], than: str, after: str | None) -> str:
        """Return the condition for rows behind a place, and put its values into `values`."""
        if after is None:
            return "true"
        time, generation_id = _place(after)
        key = as_key(generation_id, self.table.id_type)
        if key is None:
            raise _bad_cursor()
        values["after_id"] = key
        place = f":after_id::text::{self.id_type}"
        if time is None:
            # Rows without a time come before all others.
            return f"(g.created_at IS NOT NULL OR g.id {than} {place})"
        values["after_time"] = time
        return f"(g.created_at, g.id) {than} (:after_time::text::{self.table.columns['created_at']}, {place})"


def cursor(row: ListedGeneration) -> str:
    """Return the `after` of a page that continues behind this row."""
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
    return Permanent("this cursor does not come from a page of this list", code="bad_cursor")


def _picked(source: str, order: str, *, why: str = "NULL::text") -> str:
    # Picked before anything is joined, so that the order comes from an index and stops at the limit.
    return f"""picked AS MATERIALIZED (
    SELECT g.id, {why} AS why FROM {source} ORDER BY {order} LIMIT :limit)"""


def _comparable(kind: str) -> str:
    """Return the type in which a name is compared: a cast to varchar(n) would cut it, and find another row."""
    return "text" if kind.startswith("character") else kind


def _may_hold_url(table: TableShape) -> str:
    """Return the condition that result_urls may hold :url; a row that only looks so is dropped after it is read."""
    kind = table.columns["result_urls"]
    if kind == "jsonb":
        return "g.result_urls @> to_jsonb(:url::text)"
    if kind.endswith("[]"):
        return ":url = ANY(g.result_urls)"
    return r"strpos(replace(g.result_urls::text, '\/', '/'), :url) > 0"


def _columns(table: TableShape) -> str:
    """Return the columns that are read of a row `g`, its bookkeeping `w`, its model's learned duration `p`."""

    def moment(column: str) -> str:
        # Python cannot hold years before our era and infinities: they count as no time.
        time = f"g.{column}::timestamptz"
        return f"CASE WHEN {time} >= '0002-01-01' AND {time} < '9998-01-01' THEN {time} END"

    def bounded(column: str | None) -> str:
        return f"left({text_of(table, column)}, {_LONGEST_TEXT})"

    def addresses(column: str) -> str:
        if not table.has(column):
            return "NULL::text"
        text = f"to_jsonb(g.{column})::text" if table.columns[column].endswith("[]") else f"g.{column}::text"
        return f"CASE WHEN octet_length({text}) <= {_LONGEST_LIST} THEN {text} END"

    completed = f"coalesce({moment('completed_at')}, w.delivered_at)" if table.has("completed_at") else "w.delivered_at"
    return f"""g.id::text AS id, g.user_id::text AS user_id, {TASK} AS task_id, g.status::text AS status,
       {kind_of(table)} AS kind, {model_of(table)} AS model,
       {bounded("prompt")} AS prompt, {bounded(table.error_column)} AS error,
       {bounded("asset_url")} AS asset_url, {bounded("preview_url")} AS preview_url,
       {addresses("asset_urls")} AS asset_urls, {addresses("result_urls")} AS result_urls,
       coalesce({moment("created_at")}, now()) AS created_at,
       {completed} AS completed_at, clock_timestamp() AS now, p.mu, p.sigma, picked.why,
       CASE WHEN w.seen_task = g.task_id THEN w.key_hash END AS key_hash,
       CASE WHEN w.seen_task = g.task_id THEN w.task_since END AS since, g.created_at::text AS place"""


def _listed(record: Mapping[str, Any], table: TableShape) -> ListedGeneration:
    model, kind = record["model"], record["kind"]
    learned = {model: DurationModel(record["mu"], record["sigma"])} if record["mu"] is not None else {}
    plain = ("id", "user_id", "task_id", "status", "created_at", "since", "completed_at", "now", "key_hash", "why")
    return ListedGeneration(
        **{name: record[name] for name in plain},
        kind=kind,
        model=model,
        prompt=_plain_text(record["prompt"], table.columns.get("prompt")),
        error=_plain_text(record["error"], table.columns.get(table.error_column or "")),
        asset_url=_address(record["asset_url"]),
        preview_url=_address(record["preview_url"]),
        asset_urls=addresses(record["asset_urls"]),
        result_urls=addresses(record["result_urls"]),
        curve=duration_model(model, kind, learned),
        place=json.dumps([record["place"], record["id"]]),
    )


def addresses(text: str | None) -> tuple[str, ...]:
    """Return the addresses in a column of addresses: JSON of any shape, or one plain address."""
    found = _json(text) if text else None
    listed = found if isinstance(found, list) else [found]
    usable = [one for one in listed if isinstance(one, str) and _address(one) and _is_utf8(one)]
    return tuple(usable[:MOST_ADDRESSES])


def _address(text: str | None) -> str | None:
    return text if text and len(text) <= LONGEST_ADDRESS else None


def _plain_text(text: str | None, kind: str | None) -> str | None:
    """Return the text of a column that may be JSON."""
    if text is None or kind not in {"json", "jsonb"}:
        return text
    found = _json(text)
    return found if isinstance(found, str) and _is_utf8(found) else text


def _json(text: str) -> object:
    """Return the value of the JSON; a text that is no JSON is returned itself."""
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return found


def _is_utf8(text: str) -> bool:
    """Whether the text can be sent as UTF-8: a column of JSON may hold half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
