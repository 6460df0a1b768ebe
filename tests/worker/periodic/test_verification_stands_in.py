"""An audit concludes nothing from what answers in place of storage: a gateway, a bare mount point."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from reconciler.errors import Config
from testkit.standins.storage import Fault
from tests.worker.periodic.test_verification import audited, delivered
from tests.worker.rig import Rig, opened_rig


async def test_a_gateway_without_a_route_to_storage_makes_no_object_lost(supabase_rig: Rig) -> None:
    async with supabase_rig.instance() as parts:
        generation_id = await delivered(supabase_rig, parts)
        assert supabase_rig.storage is not None
        supabase_rig.storage.faults.add("info", Fault("no_route"))
        assert await audited(parts) == {"away": 1}
        assert len(await supabase_rig.receipts(generation_id)) == 1


@pytest.mark.parametrize("first", ["a delivery", "a look at the folder"])
async def test_a_bare_mount_point_makes_no_object_lost(rows_dsn: str, tmp_path: Path, first: str) -> None:
    async with opened_rig(rows_dsn, tmp_path) as rig, rig.instance() as parts:
        stored = await delivered(rig, parts)
        (rig.folder / "stored").rename(rig.folder / "disk")
        (rig.folder / "stored").mkdir()
        if first == "a delivery":
            generation_id = await rig.order()
            await rig.visit(parts, generation_id)
            assert (await rig.books.generation(generation_id))["status"] != "success"
        else:
            with contextlib.suppress(Config):
                await parts.store.check()
        assert await audited(parts) == {"away": 1}
        assert len(await rig.receipts(stored)) == 1
