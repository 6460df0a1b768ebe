"""The command `doctor`: on the demo's parts, and on an installation with faults."""

from __future__ import annotations

from pathlib import Path

from reconciler.demo import run as demo_run
from reconciler.operations.doctor import NAMES
from reconciler.settings import load
from testkit.commands import run
from tests.operations.doctor.installation import installation


async def test_on_the_parts_of_the_demo_every_check_is_ok(tmp_path: Path) -> None:
    async with demo_run._stage(faults=False) as stage:
        settings = stage.parts[-1].settings
        same = ("http_port", "public_url", "storage_local_dir", "spool_dir")
        named = {name: getattr(settings, name) for name in same}
        ran = await run("doctor", "--json", folder=tmp_path, environment={
            "DATABASE_URL": settings.database_url.get_secret_value(),
            "KIE_API_KEY": settings.kie_api_key.get_secret_value(),
            "KIE_MARKET_BASE_URL": settings.kie_market_base_url,
            "RECONCILER_ALLOW_PRIVATE_HOSTS": "true",
            "RECONCILER_RESULT_HOSTS": ",".join(settings.result_hosts),
            "RECONCILER_STORAGE_BACKEND": "local",
            **{f"RECONCILER_{name.upper()}": str(value) for name, value in named.items()},
        })  # fmt: skip
    assert [(one["name"], one["word"]) for one in ran.answer if one["word"] != "ok"] == []
    assert [one["name"] for one in ran.answer] == list(NAMES)
    assert ran.code == 0


async def test_each_check_is_a_line_with_what_to_do_below_it_and_no_secret(rows_dsn: str, tmp_path: Path) -> None:
    async with installation(rows_dsn, tmp_path) as built:
        built.storage.buckets["generations"].public = False
        environment = built.environment(KIE_APIKEY="misspelt-secret")
        ran = await run("doctor", folder=tmp_path, environment=environment)
    assert ran.code == 1
    lines = ran.out.splitlines()
    assert [line.split()[1] for line in lines if line.split()[0] in ("ok", "warn", "FAIL")] == list(NAMES)
    at = next(n for n, line in enumerate(lines) if line.startswith("FAIL  bucket "))
    assert lines[at + 1].strip() == "UPDATE storage.buckets SET public = true WHERE id = 'generations';"
    assert lines[-1] == f"{len(NAMES)} checks: 2 FAIL, 1 warn"
    secrets = (*load(environment, tmp_path).secrets(), "misspelt-secret")
    assert not [secret for secret in secrets if secret in ran.out + ran.err]


async def test_a_missing_setting_is_exit_2(tmp_path: Path) -> None:
    ran = await run("doctor", folder=tmp_path, environment={"DATABASE_URL": "postgresql://me:word@host/db"})
    assert (ran.code, ran.out, "KIE_API_KEY" in ran.told) == (2, "", True)
