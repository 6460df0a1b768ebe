"""A running replica's metrics: promtool accepts them; alerts, dashboards and runbooks find what they name."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from testkit.stage import Rig
from testkit.waiting import until

MONITORING = Path(__file__).resolve().parents[2] / "monitoring"
COMES_WITH_FAILURES = {"kie_reconciler_attempt_failures_total"}
GREP = re.compile(r"/metrics \| (grep .*)$", re.MULTILINE)


async def exposed(rig: Rig) -> str:
    """The metrics of a lone replica, which leads, after a delivery."""
    replica = await rig.run()
    await rig.delivered([await rig.order()])

    async def drawn() -> bool:
        return await replica.figure("instances") == 1 and await replica.figure("deliveries_total") == 1

    await until(drawn, within=30, what="the figures of a leader that has delivered")
    return (await replica.get("/metrics")).text


def read(command: list[str], text: str) -> subprocess.CompletedProcess[str]:
    """Run a program with this text on its standard input."""
    return subprocess.run(command, input=text, text=True, capture_output=True, check=False)


@pytest.mark.parametrize("rig", ["folder"], indirect=True)
async def test_promtool_accepts_the_metrics_and_monitoring_finds_all_it_names(rig: Rig) -> None:
    text = await exposed(rig)
    shown = set(re.findall(r"^(kie_reconciler_\w+)[ {]", text, re.MULTILINE))
    shipped = [path.read_text() for kind in ("rules/*.yml", "dashboards/*.json") for path in MONITORING.glob(kind)]
    assert set(re.findall(r"(?<!:)\bkie_reconciler_\w+", "".join(shipped))) - shown <= COMES_WITH_FAILURES
    looks = {each for path in MONITORING.glob("runbooks/*.md") for each in GREP.findall(path.read_text())}
    found = {look for look in looks if read(shlex.split(look), text).stdout}
    assert len(found) > 5
    assert all(any(name in look for name in COMES_WITH_FAILURES) for look in looks - found)
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("there is no promtool (Debian: prometheus)")
    judged = read([promtool, "check", "metrics"], text)
    assert judged.returncode == 0, judged.stdout + judged.stderr
