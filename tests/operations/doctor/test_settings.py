"""What `doctor` says about the settings, and about names that only look like settings."""

from __future__ import annotations

from pathlib import Path

from reconciler import settings
from tests.operations.doctor.installation import Installation, not_ok


async def test_names_that_are_no_settings_are_listed_with_the_nearest_setting(
    shared: Installation, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("RECONCILER_POL_RATE=3\n")
    environment = shared.environment(KIE_APIKEY="x", RECONCILER_ENV_FILE=".env", KIE_API_KEY_PHOTO="y")
    assert settings.strangers(environment, tmp_path) == ("KIE_APIKEY", "RECONCILER_POL_RATE")
    checks = await shared.examine(unknown_names=("KIE_APIKEY", "RECONCILER_POL_RATE", "RECONCILER_"))
    assert not_ok(checks) == {"spelling": "warn"}
    assert "KIE_APIKEY (did you mean KIE_API_KEY?)" in checks["spelling"].says
    assert "RECONCILER_POL_RATE (did you mean RECONCILER_POLL_RATE?)" in checks["spelling"].says


async def test_a_task_pattern_that_only_python_can_read_fails(shared: Installation) -> None:
    checks = await shared.examine(RECONCILER_TASK_PATTERN="(?P<id>[0-9a-f]+)")
    unread = dict.fromkeys(("ignored_rows", "deliveries", "findings"), "warn")
    assert not_ok(checks) == {"settings": "FAIL", "preflight": "FAIL", **unread}
    assert "RECONCILER_TASK_PATTERN" in checks["settings"].says
    assert "PostgreSQL" in checks["settings"].do


async def test_settings_that_defeat_each_other_are_a_warning(shared: Installation) -> None:
    checks = await shared.examine(RECONCILER_GIVE_UP_AFTER="5m", RECONCILER_API_TOKEN="short")
    assert checks["settings"].word == "warn"
    assert "RECONCILER_GIVE_UP_AFTER" in checks["settings"].says
    assert "RECONCILER_API_TOKEN" in checks["settings"].says
    assert "short" not in checks["settings"].says.replace("shorter", "")


async def test_results_from_every_private_host_are_a_warning(shared: Installation) -> None:
    checks = await shared.examine(RECONCILER_ALLOW_PRIVATE_HOSTS="true", RECONCILER_RESULT_HOSTS="*")
    assert not_ok(checks) == {"settings": "warn"}
    assert "RECONCILER_RESULT_HOSTS" in checks["settings"].says
