"""The specification's monitoring queries as views: their figures over rows made for them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from reconciler.postgres.migrations.migrate import migrate
from testkit.tables import older_table, supabase_like
from tests.contract.life import VIEWS

STUCK = "SELECT * FROM reconciler.stuck_over_10_minutes"


async def insert(connection: Any, name: str, status: str, minutes: float, **values: str) -> str:
    """A row made so many minutes ago; a preview has just moved its updated_at."""
    row = {"task_id": f"'{name}'", "status": f"'{status}'", "kind": "'image'", "model_key": "'flux'", **values}
    made: str = await connection.fetchval(
        f"INSERT INTO public.generations ({', '.join(row)}, created_at, updated_at)"
        f" VALUES ({', '.join(row.values())}, now() - interval '{minutes} minutes', now()) RETURNING id::text"
    )
    return made


async def delivered(connection: Any, generation_id: str, after: int) -> None:
    """Our receipt, so many seconds after the row was made."""
    await connection.execute(
        "INSERT INTO reconciler.work (generation_id, delivered_at)"
        " SELECT id::text, created_at + $1 * interval '1 second' FROM public.generations WHERE id::text = $2",
        after,
        generation_id,
    )


async def failed_at(connection: Any, generation_id: str, minutes: int, kind: str = "failed") -> None:
    """Our word that it failed, so many minutes ago."""
    await connection.execute(
        "INSERT INTO reconciler.events (key, generation_id, kind, payload, at)"
        f" VALUES (gen_random_uuid(), '{generation_id}', '{kind}', '{{}}', now() - interval '{minutes} minutes')"
    )


async def row(connection: Any, view: str) -> dict[str, Any]:
    return dict(await connection.fetchrow(f"SELECT * FROM reconciler.{view}"))


async def tasks(connection: Any, view: str) -> list[str]:
    return [found["task_id"] for found in await connection.fetch(f"SELECT * FROM reconciler.{view}")]


async def test_the_success_rate_counts_the_last_24_hours_of_our_provider(undone: Any) -> None:
    for name, status in enumerate(["success", "success", "failed", "queued", "generating", "cancelled"]):
        await insert(undone, str(name), status, 60)
    await insert(undone, "yesterday", "success", 25 * 60)
    await insert(undone, "elsewhere", "success", 60, provider="'another'")
    assert await row(undone, "success_rate_24h") == {
        "total": 6, "success": 2, "failed": 1, "in_flight": 2, "success_percent": Decimal("33.3"),
    }  # fmt: skip


async def test_the_success_rate_has_one_decimal_and_none_of_nothing(undone: Any) -> None:
    assert (await row(undone, "success_rate_24h"))["success_percent"] is None
    for name in range(3):
        await insert(undone, str(name), "failed" if name else "success", 1)
    assert str((await row(undone, "success_rate_24h"))["success_percent"]) == "33.3"


async def test_the_time_to_completion_comes_from_our_receipts(undone: Any) -> None:
    for name, seconds in (("a", 30), ("b", 90)):
        await delivered(undone, await insert(undone, name, "success", 60), seconds)
    undelivered = await insert(undone, "without a receipt", "success", 60)
    await undone.execute("INSERT INTO reconciler.work (generation_id) VALUES ($1)", undelivered)
    await delivered(undone, await insert(undone, "yesterday", "success", 25 * 60), 5000)
    await delivered(undone, await insert(undone, "elsewhere", "success", 60, provider="'another'"), 5000)
    figures = await row(undone, "time_to_completion")
    # The 95th percentile of 30 and 90 lies 95 % of the way between them.
    assert {name: float(value) for name, value in figures.items()} == {
        "delivered": 2, "mean_seconds": 60, "p95_seconds": 87,
    }  # fmt: skip


async def test_storage_is_counted_where_storage_keeps_its_books(undone: Any) -> None:
    await supabase_like(undone)
    await undone.execute(
        "INSERT INTO storage.buckets (id, name) VALUES ('generations', 'generations'), ('avatars', 'avatars');"
        "INSERT INTO storage.objects (bucket_id, name, metadata) VALUES"
        """ ('generations', 'a', '{"size": 1000}'), ('generations', 'b', '{"size": 1048576}'),"""
        """ ('generations', 'unfinished', NULL), ('avatars', 'c', '{"size": 7}')"""
    )
    assert await row(undone, "storage_usage") == {"files": 3, "bytes": 1_049_576, "size": "1025 kB"}


async def test_without_storage_beside_us_our_receipts_are_counted(undone: Any) -> None:
    await undone.execute(
        "INSERT INTO reconciler.assets (generation_id, task_id, n, path, mime, size, sha256, md5, verified_by)"
        " SELECT 'g', 't', n, 'p', 'image/png', 500, '', '', verified"
        "   FROM (VALUES (0, 'etag-md5'), (1, 'etag-md5'), (2, NULL)) AS v (n, verified)"
    )
    assert await row(undone, "storage_usage") == {"files": 2, "bytes": 1000, "size": "1000 bytes"}


async def test_stuck_is_told_by_age_from_creation_oldest_first(undone: Any) -> None:
    await insert(undone, "young", "generating", 9.9)
    stuck = await insert(undone, "stuck", "generating", 10.1)
    await insert(undone, "older", "queued", 60)
    for status in ("success", "failed", "cancelled"):
        await insert(undone, status, status, 60)
    await insert(undone, "elsewhere", "generating", 60, provider="'another'")
    await undone.execute("INSERT INTO reconciler.work (generation_id, why) VALUES ($1, 'KIE says 433')", stuck)
    assert await tasks(undone, "stuck_over_10_minutes") == ["older", "stuck"]
    _, found = await undone.fetch("SELECT * FROM reconciler.stuck_over_10_minutes")
    assert (found["id"], found["kind"], found["model_key"], found["why"]) == (stuck, "image", "flux", "KIE says 433")
    assert found["seconds"] == 606


async def test_a_row_that_got_another_task_is_stuck_by_the_age_of_that_one(undone: Any) -> None:
    for name, since in (("anew", 9.9), ("stuck anew", 10.1)):
        await undone.execute(
            "INSERT INTO reconciler.work (generation_id, seen_task, task_since)"
            " VALUES ($1, $2, now() - $3 * interval '1 minute')",
            *(await insert(undone, name, "queued", 600), name, since),
        )
    assert await tasks(undone, "stuck_over_10_minutes") == ["stuck anew"]
    assert (await row(undone, "stuck_over_10_minutes"))["seconds"] == 606


async def test_failed_in_the_last_hour_goes_by_when_it_failed_newest_first(undone: Any) -> None:
    long_ago = await insert(undone, "made long ago", "failed", 600, error="'timeout (501)'")
    await failed_at(undone, long_ago, 10)
    await insert(undone, "failed by others", "failed", 30)
    await failed_at(undone, await insert(undone, "given up", "failed", 600), 20, "gave_up")
    await failed_at(undone, await insert(undone, "failed long ago", "failed", 600), 61)
    await failed_at(undone, await insert(undone, "delivered since", "success", 600), 10)
    await insert(undone, "old and by others", "failed", 61)
    await failed_at(undone, await insert(undone, "elsewhere", "failed", 5, provider="'another'"), 5)
    assert await tasks(undone, "failed_last_hour") == ["made long ago", "given up", "failed by others"]
    found = await undone.fetchrow("SELECT * FROM reconciler.failed_last_hour")
    assert (found["id"], found["error"], found["kind"], found["model_key"]) == (
        long_ago, "timeout (501)", "image", "flux",
    )  # fmt: skip


async def test_an_older_table_is_read_by_its_own_names(empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    ids = await older_table(connection)
    await migrate(empty_dsn)
    await connection.execute("UPDATE public.generations SET created_at = now() - interval '20 minutes'")
    stuck = await connection.fetch("SELECT * FROM reconciler.stuck_over_10_minutes")
    (failed,) = await connection.fetch("SELECT * FROM reconciler.failed_last_hour")
    rate = await row(connection, "success_rate_24h")
    await connection.close()
    in_flight = {ids[name] for name in ("pending", "untasked", "processing", "twin", "other_twin")}
    assert {found["id"] for found in stuck} == in_flight
    assert {(found["kind"], found["model_key"]) for found in stuck} == {("image", "nano-banana")}
    assert (failed["id"], failed["error"]) == (ids["failed"], "Internal error (500)")
    assert (rate["total"], rate["success"], rate["failed"], rate["in_flight"]) == (9, 3, 1, 5)


async def test_without_a_table_there_is_nothing_to_tell(empty_dsn: str) -> None:
    await migrate(empty_dsn)
    connection = await asyncpg.connect(empty_dsn)
    figures = {view: await connection.fetch(f"SELECT * FROM reconciler.{view}") for view in VIEWS}
    await connection.close()
    assert figures["success_rate_24h"][0]["total"] == 0
    assert figures["stuck_over_10_minutes"] == figures["failed_last_hour"] == []


async def test_the_views_keep_nobody_from_changing_the_table(undone: Any) -> None:
    await undone.execute(
        "ALTER TABLE public.generations DROP COLUMN error, DROP COLUMN provider, ALTER COLUMN kind TYPE varchar(20)"
    )
    await insert(undone, "stuck", "generating", 11)
    assert await tasks(undone, "stuck_over_10_minutes") == ["stuck"]
    await undone.execute("DROP TABLE public.generations")
    assert await tasks(undone, "stuck_over_10_minutes") == []


@pytest.mark.parametrize("at", ["infinity", "-infinity", "12000-01-01", "4000-01-01 BC"])
async def test_a_time_of_creation_that_nobody_can_count_with_breaks_no_view(undone: Any, at: str) -> None:
    odd = await insert(undone, "odd", "queued", 60)
    await insert(undone, "plain", "queued", 60)
    await undone.execute(
        "UPDATE public.generations SET created_at = $1::text::timestamptz WHERE id::text = $2", at, odd
    )
    await delivered(undone, odd, 5)
    for view in VIEWS:
        await undone.fetch(f"SELECT * FROM reconciler.{view}")
    stuck = {found["task_id"]: found["seconds"] for found in await undone.fetch(STUCK)}
    assert stuck.pop("plain") == 3600
    assert all(0 <= seconds < 10**10 for seconds in stuck.values())
