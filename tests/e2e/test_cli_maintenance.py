"""The commands audit and cleanup, with a local KIE and a folder as storage."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.bootstrap import parts
from reconciler.domain.model import Trigger
from reconciler.settings import load
from testkit.commands import Ran, run
from testkit.stage import Rig

pytestmark = pytest.mark.parametrize("rig", ["folder"], indirect=True)


async def command(rig: Rig, *words: str) -> Ran:
    rig.folder.mkdir(exist_ok=True)
    return await run(*words, folder=rig.folder, environment=rig.environment())


async def delivered(rig: Rig) -> tuple[str, Path]:
    """A delivered row and the file of its result."""
    row = await rig.order()
    async with parts(load(rig.environment(), rig.folder)) as built:
        assert await built.worker.once(row, Trigger.SYNC) is not None
    path = await rig.pool.fetchval("SELECT path FROM reconciler.assets WHERE generation_id = $1", row)
    return row, rig.folder / "stored" / path


async def test_audit_reports_and_repairs_what_is_broken(rig: Rig) -> None:
    row, file = await delivered(rig)
    size = file.stat().st_size
    file.write_bytes(bytes(size))

    found = await command(rig, "audit", "--since", "1h")

    assert found.code == 1
    line, totals = found.out.splitlines()
    assert line.startswith(f"{row}  repaired  ")
    assert totals.startswith(f"1 deliveries, 1 objects, {size} bytes read back: 1 broken, 1 of them repaired")
    await rig.prove(row)


async def test_cleanup_deletes_old_failures_and_orphans(rig: Rig) -> None:
    key = "user/image/orphan_0.png"
    file = rig.folder / "stored" / key
    file.parent.mkdir(parents=True)
    file.write_bytes(b"nobody's")
    sql = "INSERT INTO reconciler.orphans (path, why, since) VALUES ($1, 'a test', now() - interval '2 hours')"
    await rig.pool.execute(sql, key)
    await rig.insert(None, status="failed", age=31 * 86_400.0)
    young = await rig.insert(None, status="failed", age=29 * 86_400.0)
    await rig.pool.execute("UPDATE public.generations SET updated_at = created_at")

    done = await command(rig, "cleanup", "--json")

    assert (done.code, done.answer) == (0, {"failed": 1, "orphans": [key], "dry_run": False})
    assert (file.exists(), await ids(rig)) == (False, {young})


async def ids(rig: Rig) -> set[str]:
    return {one["id"] for one in await rig.pool.fetch("SELECT id::text FROM public.generations")}
