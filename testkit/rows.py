"""Rows as an application or the daemon writes them, for tests that begin in the middle of a generation's life."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

OURS = "https://project.supabase.co/storage/v1/object/public/generations"
THEIRS = "https://tempfile.aiquickdraw.com/r/one.png"

HOUR = timedelta(hours=1)
NO_AGE = timedelta()


async def add(pool: Any, status: str = "generating", age: timedelta = NO_AGE, **more: Any) -> str:
    """Insert a generation of this age, the way an application does; return its id."""
    values = {"task_id": "task", "model_key": "flux-2/pro", "kind": "image", **more}
    names = ", ".join(values)
    places = ", ".join(f"${n}" for n in range(3, len(values) + 3))
    sql = f"""INSERT INTO public.generations (status, created_at, {names})
              VALUES ($1, now() - $2::interval, {places}) RETURNING id::text"""
    return str(await pool.fetchval(sql, status, age, *values.values()))


async def keep(pool: Any, generation_id: str, **facts: Any) -> None:
    """Write our bookkeeping about a generation; names ending in `_in` are seconds from now."""
    times = {name.removesuffix("_in"): value for name, value in facts.items() if name.endswith("_in")}
    plain = {name: value for name, value in facts.items() if not name.endswith("_in")}
    named = {"seen_task": "task", **plain}
    places = [f"${n}" for n in range(2, len(named) + 2)]
    places += [f"now() + {seconds} * interval '1 second'" for seconds in times.values()]
    sql = f"""INSERT INTO reconciler.work (generation_id, {", ".join([*named, *times])})
              VALUES ($1, {", ".join(places)})"""
    await pool.execute(sql, generation_id, *named.values())


async def store(
    pool: Any, generation_id: str, sizes: Sequence[int], *, task_id: str = "task", proven: bool = True
) -> None:
    """Write one asset of each size, with its receipt where it is `proven`."""
    await pool.executemany(
        """INSERT INTO reconciler.assets
                  (generation_id, task_id, n, path, mime, size, sha256, md5, verified_by, stored_at)
           VALUES ($1, $6, $2, 'path', 'image/png', $3, 'sha', 'md5', $4, CASE WHEN $5 THEN now() END)""",
        [(generation_id, n, size, "etag-md5" if proven else None, proven, task_id) for n, size in enumerate(sizes)],
    )


async def state(pool: Any, generation_id: str) -> Any:
    """The row and our bookkeeping about it, side by side."""
    return await pool.fetchrow(
        """SELECT g.*, g.xmin::text AS version, w.due_at, w.why, w.lease, w.reopened, w.gave_up, w.woken
             FROM public.generations g LEFT JOIN reconciler.work w ON w.generation_id = g.id::text
            WHERE g.id::text = $1""",
        generation_id,
    )
