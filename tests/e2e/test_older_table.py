"""The daemon on an application's older table, with and without `migrate --application`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from reconciler.simulator import MediaSpec, Simulator, never
from testkit import commands
from testkit.stage import Rig, staged
from testkit.standins.storage import SupabaseStorage
from testkit.tables import older_table, supabase_like
from testkit.waiting import until

pytestmark = pytest.mark.soak

IN_FLIGHT = {"pending", "processing", "twin", "other_twin"}
HEALED = {"unstored"}
MOVED = IN_FLIGHT | HEALED
WRITTEN = {"status", "result_urls", "asset_url", "asset_urls", "error", "updated_at"}


@pytest.fixture
async def old(empty_dsn: str, kie: Simulator, tmp_path: Path) -> AsyncIterator[tuple[Rig, dict[str, str]]]:
    """A stage over an older table as it may lie in a Supabase project, and its rows' ids by name."""
    for name in ("pending", "processing", "twin", "stored", "unstored", "echoed", "failed"):
        kie.add_task(task_id=f"older-{name}", results=[MediaSpec(), MediaSpec(ext="webp")])
    connection = await asyncpg.connect(empty_dsn)
    try:
        await supabase_like(connection)
        ids = await older_table(connection)
    finally:
        await connection.close()
    async with staged(empty_dsn, kie, tmp_path, SupabaseStorage()) as rig:
        yield rig, ids


async def migrated(rig: Rig, *options: str) -> list[str]:
    """The files that `migrate` applied."""
    ran = await commands.run(
        "migrate", "--json", *options, folder=rig.folder.parent, environment={"DATABASE_URL": rig.dsn}
    )
    assert ran.code == 0, ran.err
    applied: list[str] = ran.answer["applied"]
    return applied


async def rows(rig: Rig) -> dict[str, dict[str, Any]]:
    found = await rig.pool.fetch("SELECT g.id::text, to_jsonb(g) AS row FROM public.generations g")
    return {row["id"]: json.loads(row["row"]) for row in found}


async def run_to_rest(rig: Rig, ids: dict[str, str]) -> None:
    """Run until what can be delivered is, and until the sweep has gone over the rest."""
    replica = await rig.run()
    await rig.delivered([ids[name] for name in IN_FLIGHT])

    async def healed() -> bool:
        return bool(await rig.pool.fetchval("SELECT bool_and(asset_url IS NOT NULL) FROM public.generations"
                                            " WHERE status IN ('success', 'completed')"))  # fmt: skip

    await until(healed, what="every success to have its asset")
    await rig.prove(ids["unstored"])
    await rig.delivered([await later(rig)])
    assert replica.running


async def later(rig: Rig) -> str:
    """A row that the older application inserts while we run."""
    task_id = rig.kie.add_task()
    generation_id: str = await rig.pool.fetchval(
        "INSERT INTO public.generations (user_id, type, model_id, model_name, task_id, created_at)"
        " SELECT user_id, 'image', 'nano-banana', 'Nano Banana', $1, now() - interval '30 s'"
        " FROM public.generations LIMIT 1 RETURNING id::text",
        task_id,
    )
    return generation_id


async def only_what_was_due_has_changed(rig: Rig, ids: dict[str, str], before: dict[str, dict[str, Any]]) -> None:
    after = await rows(rig)
    for name, generation_id in ids.items():
        old, new = before[generation_id], after[generation_id]
        changed = {column for column in old if new[column] != old[column]}
        if name in MOVED:
            assert changed <= WRITTEN, name
            assert len(new["result_urls"]) == 2
        else:
            assert changed == set(), name
    assert len(rig.keys()) == 2 * len(MOVED) + 1


async def test_brought_up_to_the_specification_twice_it_is_healed_and_nothing_else_changes(
    old: tuple[Rig, dict[str, str]],
) -> None:
    rig, ids = old
    assert await migrated(rig, "--application")
    assert await migrated(rig, "--application") == []
    before = await rows(rig)
    await run_to_rest(rig, ids)
    await only_what_was_due_has_changed(rig, ids, before)
    after = await rows(rig)
    for name in MOVED:
        # A healed row keeps the word that the application knows it by.
        was = before[ids[name]]["status"]
        assert after[ids[name]]["status"] == ("completed" if was == "completed" else "success"), name


async def test_left_as_it_is_the_columns_that_are_there_are_used(old: tuple[Rig, dict[str, str]]) -> None:
    rig, ids = old
    await migrated(rig)
    before = await rows(rig)
    await run_to_rest(rig, ids)
    await only_what_was_due_has_changed(rig, ids, before)
    after = await rows(rig)
    assert {after[ids[name]]["status"] for name in MOVED} == {"completed"}
    assert "asset_urls" not in after[ids["pending"]]


async def test_a_row_of_an_older_table_is_never_called_generating(old: tuple[Rig, dict[str, str]]) -> None:
    rig, ids = old
    await migrated(rig)
    witness = await rig.witness()
    task = rig.kie.add_task(life=never("generating"))
    await rig.pool.execute(
        "UPDATE public.generations SET task_id = $2, created_at = now() - interval '30 s' WHERE id::text = $1",
        ids["untasked"],
        task,
    )
    await rig.run()
    await until(lambda: rig.kie.tasks[task].polls, what="a look")
    assert await witness.statuses(ids["untasked"]) == ["pending"]
    rig.kie.end(task)
    await rig.delivered([ids["untasked"]])
    assert await witness.statuses(ids["untasked"]) == ["pending", "completed"]
