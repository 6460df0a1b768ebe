"""An audit concludes nothing from whoever answers in storage's place: a gateway, a bare mount point."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from reconciler.errors import Config
from testkit.standins.storage import Fault
from tests.worker.periodic.test_verification import audited, delivered
from tests.worker.rig import Rig, opened_rig


async def test_an_object_is_not_lost_because_a_gateway_knows_no_way_to_storage(supabase_rig: Rig) -> None:
    async with supabase_rig.instance() as parts:
        generation_id = await delivered(supabase_rig, parts)
        assert supabase_rig.storage is not None
        supabase_rig.storage.faults.add("info", Fault("no_route"))
        assert await audited(parts) == {"away": 1}
        assert len(await supabase_rig.receipts(generation_id)) == 1


@pytest.mark.parametrize("first", ["a delivery", "a look at the folder"])
async def test_what_is_done_while_the_disk_is_not_mounted_hides_nothing(
    rows_dsn: str, tmp_path: Path, first: str
) -> None:
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
