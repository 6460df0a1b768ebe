"""The systemd units: valid, sandboxed, and in step with the settings."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from reconciler.settings import Settings, _secret_attributes, variable

FOLDER = Path(__file__).resolve().parents[2] / "systemd"
UNITS = ("kie-reconciler.service", "kie-reconciler@.service")
PROGRAM = "/opt/kie-reconciler/bin/kie-reconciler"
DRAIN = Settings.model_fields["drain_seconds"].default

GROWING = ("RestartSteps", "RestartMaxDelaySec")
"""What systemd has known since 254: the pause before a restart grows."""

with_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")


def text(name: str) -> str:
    return (FOLDER / name).read_text()


def values(unit: str, key: str) -> list[str]:
    """Every value that a unit gives to a key."""
    return re.findall(rf"^{key}=(.*)$", text(unit), re.MULTILINE)


def analysed(folder: Path, unit: str, *words: str) -> subprocess.CompletedProcess[str]:
    """What systemd-analyze says of a unit; a program that is there stands for ours."""
    made = folder / unit.replace("@.", "@9465.")
    (folder / unit).write_text(text(unit).replace(PROGRAM, "/bin/true"))
    made.write_text((folder / unit).read_text())
    command = ["systemd-analyze", *words, f"./{made.name}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def version() -> int:
    """The number of the systemd that is here."""
    said = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, timeout=60, check=True)
    return int(said.stdout.split()[1])


@with_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_nothing_wrong(unit: str, tmp_path: Path) -> None:
    done = analysed(tmp_path, unit, "verify")
    said = re.sub(r"^.*:\d+: ", "", done.stderr, flags=re.MULTILINE).splitlines()
    unknown = [f"Unknown key '{key}' in section [Service], ignoring." for key in GROWING]
    # An older systemd may know all but these, and goes on without them.
    assert done.returncode == 0
    assert [line for line in said if line not in unknown] == []
    assert len(set(said)) == (0 if version() >= 254 else len(GROWING))


@pytest.mark.parametrize("unit", UNITS)
def test_it_is_started_again_without_end_after_pauses_that_grow(unit: str) -> None:
    assert values(unit, "StartLimitIntervalSec") == ["0"]
    assert values(unit, "Restart") == ["always"]
    # Also after exit code 2: once the bucket, the right or the version is there, it must go on by itself.
    assert values(unit, "RestartPreventExitStatus") == []
    least, most = (int(*values(unit, key)) for key in ("RestartSec", "RestartMaxDelaySec"))
    assert 0 < least < most <= 60
    assert int(*values(unit, "RestartSteps")) > 1


@with_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_its_exposure_is_at_most_1_2(unit: str, tmp_path: Path) -> None:
    done = analysed(tmp_path, unit, "security", "--offline=true", "--threshold=12", "--no-pager")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("unit", UNITS)
def test_every_secret_is_a_credential_that_may_be_missing(unit: str) -> None:
    secrets = sorted(variable(name) for name in _secret_attributes())
    folder = "/etc/kie-reconciler/credentials"
    assert sorted(values(unit, "LoadCredential")) == [f"{name}:{folder}/{name}" for name in secrets]
    # Not quite empty: systemd takes no empty value, and the settings take no blank one.
    assert sorted(values(unit, "SetCredential")) == [rf"{name}:\n" for name in secrets]
    assert folder in text("kie-reconciler.sh")


@pytest.mark.parametrize("unit", UNITS)
def test_a_stop_outlasts_the_drain_and_a_hang_is_not_taken_for_a_late_sweep(unit: str) -> None:
    assert int(values(unit, "TimeoutStopSec")[0]) > DRAIN
    assert int(values(unit, "WatchdogSec")[0]) > 3 * Settings.model_fields["sweep_seconds"].default
    assert values(unit, "TimeoutStartSec") == ["infinity"]


@pytest.mark.parametrize("unit", UNITS)
def test_the_spool_lies_in_a_folder_of_its_own(unit: str) -> None:
    (state,) = values(unit, "StateDirectory")
    assert f"RECONCILER_SPOOL_DIR=/var/lib/{state}/spool" in values(unit, "Environment")
    assert values(unit, "WorkingDirectory") == [f"/var/lib/{state}"]


def test_a_replica_is_the_same_but_for_its_port_and_its_folder() -> None:
    replica = text(UNITS[1]).replace("-%i", "").replace(", port %i", "")
    replica = replica.replace("/usr/bin/env RECONCILER_HTTP_PORT=%i ", "")

    def without_comments(unit: str) -> list[str]:
        return [line for line in unit.splitlines() if not line.startswith("#")]

    assert without_comments(replica) == without_comments(text(UNITS[0]))
    assert "RECONCILER_HTTP_PORT=%i" in text(UNITS[1])


def test_pm2_gives_a_stop_the_time_of_the_drain() -> None:
    (milliseconds,) = re.findall(r"kill_timeout: (\d+)", text("ecosystem.config.cjs"))
    assert int(milliseconds) > 1000 * DRAIN
    assert 'interpreter: "none"' in text("ecosystem.config.cjs")
