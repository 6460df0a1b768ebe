"""Which alerts Alertmanager suppresses while a wider one fires, with the shipped routes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import httpx
import pytest

from testkit.standins.monitoring import ALERTMANAGER, alertmanager
from testkit.waiting import until

pytestmark = pytest.mark.skipif(ALERTMANAGER is None, reason="apt-get install prometheus-alertmanager")

Alert = tuple[str, str, str]
"""Name, severity, cluster."""

STUCK = ("GenerationsStuck", "page", "shop")
OLDEST = ("OldestGenerationTooOld", "ticket", "shop")
BURN = ("DeliverySLOBurn", "page", "shop")
SLOW_BURN = ("DeliverySLOBurn", "ticket", "shop")
DEAF = ("ListenerDeaf", "ticket", "shop")
ELSEWHERE = ("LeasesLost", "ticket", "other")


async def holds_back(folder: Path, firing: Iterable[Alert], expected: set[Alert]) -> None:
    """Send these alerts to Alertmanager, and wait until it suppresses exactly the expected ones."""
    posted = [
        {"labels": {"alertname": name, "severity": severity, "cluster": cluster}} for name, severity, cluster in firing
    ]
    async with (
        alertmanager(folder / "alertmanager", pager="http://127.0.0.1:9/", credentials="none") as address,
        httpx.AsyncClient(trust_env=False, timeout=10, base_url=f"{address}/api/v2") as client,
    ):
        (await client.post("/alerts", json=posted)).raise_for_status()

        async def held() -> bool:
            alerts = (await client.get("/alerts")).json()
            labels = [one["labels"] for one in alerts if one["status"]["inhibitedBy"]]
            found = {(one["alertname"], one["severity"], one["cluster"]) for one in labels}
            return len(alerts) == len(posted) and found == expected

        await until(held, 30, f"{sorted(expected)} and nothing else held back")


@pytest.mark.parametrize("cause", ["DatabaseUnreachable", "DaemonDown", "DaemonAbsent"])
async def test_what_explains_everything_holds_all_else_of_its_cluster_back(tmp_path: Path, cause: str) -> None:
    others = {STUCK, OLDEST, BURN, DEAF}
    await holds_back(tmp_path, [(cause, "page", "shop"), ELSEWHERE, *others], others)


async def test_an_alert_that_another_one_contains_is_not_told_twice(tmp_path: Path) -> None:
    await holds_back(tmp_path, [STUCK, OLDEST, BURN, SLOW_BURN, DEAF, ELSEWHERE], {OLDEST, SLOW_BURN})


async def test_a_cause_of_another_cluster_holds_nothing_back(tmp_path: Path) -> None:
    away = ("DatabaseUnreachable", "page", "other")
    await holds_back(tmp_path, [away, ELSEWHERE, STUCK, SLOW_BURN], {ELSEWHERE})
