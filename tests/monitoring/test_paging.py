"""The daemon, Debian's Prometheus and Alertmanager with the shipped files: a stuck generation pages a person."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.simulator import Simulator, never
from testkit.stage import KEY, Rig, staged
from testkit.standins.monitoring import ALERTMANAGER, PROMETHEUS, alertmanager, prometheus
from testkit.standins.pager import Pager
from testkit.standins.storage import SupabaseStorage
from testkit.waiting import until

pytestmark = pytest.mark.skipif(
    None in (PROMETHEUS, ALERTMANAGER), reason="apt-get install prometheus prometheus-alertmanager"
)

STUCK_AFTER = 5
CREDENTIALS = "what-the-pager-knows-us-by"


async def test_a_stuck_generation_pages_a_person_and_its_delivery_resolves_the_page(
    dsn: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    async with staged(dsn, Simulator(keys=(KEY,), limits=False), tmp_path, SupabaseStorage()) as rig:
        replica = await rig.run(RECONCILER_STUCK_AFTER=f"{STUCK_AFTER}s")
        async with (
            Pager(CREDENTIALS) as pager,
            alertmanager(tmp_path / "alertmanager", pager=pager.url, credentials=CREDENTIALS) as desk,
            prometheus(tmp_path / "prometheus", [await replica.port()], alerts_to=desk, hurry="GenerationsStuck"),
        ):
            await rig.delivered([await rig.order()])
            hanging = rig.kie.add_task(life=never("generating"))
            generation_id = await rig.insert(hanging, age=0)
            waited = await _pages(rig, pager, generation_id)
            request.node.user_properties.append(("seconds from stuck to page", waited))
            rig.kie.end(hanging)
            await rig.delivered([generation_id])
            await until(lambda: pager.of("GenerationsStuck", "resolved"), 60, "the notice that it is over")
            assert {one.labels["alertname"] for one in pager.told} == {"GenerationsStuck"}
            assert pager.refused == 0


async def _pages(rig: Rig, pager: Pager, generation_id: str) -> float:
    """The page comes within a minute, and its reader knows what it is about and what to do; the seconds it took."""
    created = "SELECT extract(epoch FROM created_at)::float8 FROM public.generations WHERE id::text = $1"
    stuck_at = await rig.pool.fetchval(created, generation_id) + STUCK_AFTER
    page, *_ = await until(lambda: pager.of("GenerationsStuck", "firing"), 60, "a page")
    assert page.at > stuck_at
    assert page.receiver == "page"
    assert page.labels == {"alertname": "GenerationsStuck", "severity": "page", "cluster": "production"}
    assert page.annotations["summary"].startswith("1 ")
    assert "kie-reconciler stuck" in page.annotations["description"]
    assert page.annotations["runbook_url"].endswith("GenerationsStuck.md")
    return round(page.at - float(stuck_at), 1)
