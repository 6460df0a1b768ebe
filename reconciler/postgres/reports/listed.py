"""One of the application's rows as a reader sees it: which columns are read, and what may be believed of them.

Rows are hostile input: a column may hold any JSON and any length. Which rows are read is asked in `listing.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reconciler.domain.model import DurationModel
from reconciler.domain.poll_interval import duration_model
from reconciler.postgres.schema import TableShape

MOST_ADDRESSES = 50
"""More results of one row than this are not shown."""

LONGEST_ADDRESS = 8192
_LONGEST_LIST = 1 << 17
_LONGEST_TEXT = 20_000


@dataclass(frozen=True, slots=True)
class ListedGeneration:
    """One row, at the database's `now`; `why` is told of stuck rows only.

    `curve` is what is known or believed of its model's times; `key_hash` names the key that KIE knows its task by;
    `since` is when it got its task, None where it had no other; `place` is where a page that ends with it goes on.
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


def columns(shape: TableShape) -> str:
    """What is read of a row `g`, beside `picked`, our bookkeeping `w` and the learned pace `p`."""

    def moment(column: str) -> str:
        # What the driver cannot carry, years before our era and infinities, is no time that a reader knows.
        time = f"g.{column}::timestamptz"
        return f"CASE WHEN {time} >= '0002-01-01' AND {time} < '9998-01-01' THEN {time} END"

    def bounded(column: str | None) -> str:
        return f"left({text_of(shape, column)}, {_LONGEST_TEXT})"

    completed = f"coalesce({moment('completed_at')}, w.delivered_at)" if shape.has("completed_at") else "w.delivered_at"
    return f"""g.id::text AS id, g.user_id::text AS user_id, g.task_id::text AS task_id, g.status::text AS status,
       {text_of(shape, shape.kind_column)} AS kind, {text_of(shape, shape.model_column)} AS model,
       {bounded("prompt")} AS prompt, {bounded(shape.error_column)} AS error,
       {bounded("asset_url")} AS asset_url, {bounded("preview_url")} AS preview_url,
       {_list(shape, "asset_urls")} AS asset_urls, {_list(shape, "result_urls")} AS result_urls,
       coalesce({moment("created_at")}, now()) AS created_at,
       {completed} AS completed_at, clock_timestamp() AS now, p.mu, p.sigma, picked.told AS why,
       CASE WHEN w.seen_task = g.task_id THEN w.key_hash END AS key_hash,
       CASE WHEN w.seen_task = g.task_id THEN w.task_since END AS since, g.created_at::text AS place"""


def text_of(shape: TableShape, column: str | None) -> str:
    """A column as text, NULL where the table has none of that name."""
    return f"g.{column}::text" if column and shape.has(column) else "NULL::text"


def _list(shape: TableShape, column: str) -> str:
    if not shape.has(column):
        return "NULL::text"
    text = f"to_jsonb(g.{column})::text" if shape.columns[column].endswith("[]") else f"g.{column}::text"
    return f"CASE WHEN octet_length({text}) <= {_LONGEST_LIST} THEN {text} END"


def listed(record: Mapping[str, Any], shape: TableShape) -> ListedGeneration:
    """Return the row of a record with `columns`."""
    model, kind = record["model"], record["kind"]
    learned = {model: DurationModel(record["mu"], record["sigma"])} if record["mu"] is not None else {}
    plain = {name: record[name] for name in ("id", "user_id", "task_id", "status")}
    more = {name: record[name] for name in ("created_at", "since", "completed_at", "now", "key_hash", "why")}
    return ListedGeneration(
        **plain,
        **more,
        kind=kind,
        model=model,
        prompt=_said(record["prompt"], shape.columns.get("prompt")),
        error=_said(record["error"], shape.columns.get(shape.error_column or "")),
        asset_url=_address(record["asset_url"]),
        preview_url=_address(record["preview_url"]),
        asset_urls=addresses(record["asset_urls"]),
        result_urls=addresses(record["result_urls"]),
        curve=duration_model(model, kind, learned),
        place=json.dumps([record["place"], record["id"]]),
    )


def addresses(text: str | None) -> tuple[str, ...]:
    """Return the addresses in what a column of addresses holds: JSON of any shape, or one plain address."""
    found = _json(text) if text else None
    held = found if isinstance(found, list) else [found]
    kept = [one for one in held if isinstance(one, str) and _address(one) and _sendable(one)]
    return tuple(kept[:MOST_ADDRESSES])


def _address(text: str | None) -> str | None:
    return text if text and len(text) <= LONGEST_ADDRESS else None


def _said(text: str | None, kind: str | None) -> str | None:
    """Return the words of a column that may be JSON."""
    if text is None or kind not in {"json", "jsonb"}:
        return text
    found = _json(text)
    return found if isinstance(found, str) and _sendable(found) else text


def _json(text: str) -> object:
    """Return what the JSON says; a text that is none says itself."""
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return found


def _sendable(text: str) -> bool:
    """Whether it can be told in UTF-8: a column of JSON may hold half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
