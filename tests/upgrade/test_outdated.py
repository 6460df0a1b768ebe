"""A program that is older than the database allows says so in one line and ends with exit code 2."""

from __future__ import annotations

import signal

import pytest

from reconciler.postgres.migrations.migrate import migrate
from testkit import commands
from testkit.stage import Rig

pytestmark = pytest.mark.soak

SAYS = "kie-reconciler: this database needs kie-reconciler 9.0.0 or newer; install it"


@pytest.fixture
async def rig(rig: Rig) -> Rig:
    """A stage whose database this version has migrated."""
    rig.folder.mkdir()
    await migrate(rig.dsn, application=True)
    return rig


async def newer_version_migrates(rig: Rig) -> None:
    """Record what a newer version's file of phase `after` requires."""
    await rig.pool.execute(
        "INSERT INTO reconciler.schema_version (file, sha256, requires_level, requires_version)"
        " VALUES ('900_next.sql', '', 2, '0.9.0'), ('990_last.sql', '', 99, '9.0.0')"
    )


async def test_a_daemon_ends_while_it_runs_and_gives_its_rows_back(rig: Rig) -> None:
    replica = await rig.run(RECONCILER_DRAIN_SECONDS="60")
    task_id = rig.kie.add_task()
    rig.kie.strike("file.hang", task=task_id)
    held = await rig.insert(task_id)
    await rig.struck("file.hang", 1)
    await newer_version_migrates(rig)
    ended = await replica.ended(within=90)
    assert (ended.code, ended.lines) == (2, [SAYS])
    assert [line for line in replica.log if line["level"] == "error"] == []
    assert (await rig.work(held))["lease"] is None
    assert await rig.pool.fetchval("SELECT count(*) FROM reconciler.instances") == 0


async def test_a_daemon_does_not_start_and_makes_nothing(rig: Rig) -> None:
    await newer_version_migrates(rig)
    untouched = await rig.insert(rig.kie.add_task())
    replica = await rig.begin()
    ended = await replica.ended(within=90)
    assert (ended.code, ended.lines) == (2, [SAYS])
    assert await rig.work(untouched) is None


async def test_every_command_says_the_same_and_migrate_writes_nothing(rig: Rig) -> None:
    await newer_version_migrates(rig)
    before = await applied(rig)
    for words in (("migrate",), ("migrate", "--check"), ("status",)):
        ran = await commands.run(*words, folder=rig.folder, environment=rig.environment())
        assert (ran.code, ran.out, ran.told) == (2, "", SAYS), words
    assert await applied(rig) == before


async def applied(rig: Rig) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await rig.pool.fetch("SELECT * FROM reconciler.schema_version ORDER BY file")]


async def test_doctor_fails_with_it(rig: Rig) -> None:
    await newer_version_migrates(rig)
    ran = await commands.run("doctor", "--json", folder=rig.folder, environment=rig.environment())
    (check,) = [check for check in ran.answer if check["name"] == "schema"]
    assert (ran.code, check["word"]) == (1, "FAIL")
    assert (check["says"], check["do"]) == ("this database needs kie-reconciler 9.0.0 or newer", "install it")


async def test_a_daemon_that_slept_through_the_upgrade_ends_when_it_wakes(rig: Rig) -> None:
    sleeper = await rig.run()
    sleeper.signal(signal.SIGSTOP)
    await newer_version_migrates(rig)
    sleeper.signal(signal.SIGCONT)
    ended = await sleeper.ended(within=90)
    assert (ended.code, ended.lines) == (2, [SAYS])
