"""The demo verifies every object, and names a generation with a missing byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from reconciler.demo import run
from reconciler.demo.proof import prove_all
from reconciler.demo.shop import order, wishes
from reconciler.demo.view import DemoView


def test_twenty_four_wishes_are_sixteen_images_six_videos_and_two_sounds() -> None:
    ordered = wishes(24)
    kinds = [wish.kind for wish in ordered]
    assert (kinds.count("image"), kinds.count("video"), kinds.count("audio")) == (16, 6, 2)
    assert [len(wish.results) for wish in ordered].count(6) == 1
    assert sum(wish.fails for wish in ordered) == 1


@pytest.mark.soak
async def test_one_missing_byte_is_found_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    async with run._stage(faults=False) as stage:
        orders = [await order(wish, stage.kie, stage.client, stage.pool) for wish in wishes(4)]
        await run._watch(orders, stage, DemoView(Console()))
        assert (await prove_all(orders, stage.kie, stage.client, stage.pool)).faults == ()

        delivered = orders[2]
        [stored] = (stage.log.parent / "files").rglob(f"{delivered.generation_id}_0.*")
        _shorten(stored)
        proof = await prove_all(orders, stage.kie, stage.client, stage.pool)

    assert len(proof.faults) == 1
    assert delivered.generation_id in proof.faults[0]
    assert "success" in capsys.readouterr().out


async def test_the_printed_address_opens_the_page_with_live_rows() -> None:
    async with run._stage(faults=False) as stage:
        await order(wishes(1)[0], stage.kie, stage.client, stage.pool)
        address, _, token = stage.page.partition("#token=")
        assert "<title>" in (await stage.client.get(address)).text
        headers = {"Authorization": f"Bearer {token}"}
        listed = (await stage.client.get(f"{stage.address}/api/generations", headers=headers)).json()
        assert len(listed["generations"]) == 1
        assert (await stage.client.get(f"{stage.address}/api/generations")).status_code == 401


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
