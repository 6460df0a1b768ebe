"""The two phases of a migration: what waits for older daemons, what `--check` and the finding say meanwhile."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from reconciler.postgres.migrations.migrate import behind, migrate, printed
from reconciler.postgres.migrations.migration_files import scripts
from reconciler.postgres.migrations.missing_files import missing_files
from reconciler.postgres.migrations.schema_level import ALIVE, LEVEL, alive_within
from reconciler.settings import Settings
from testkit import commands
from testkit.stage import Rig
from testkit.waiting import until

AFTER = ["070_former_announce.sql", "078_delete_right.sql"]
FORMER_FUNCTION = "SELECT to_regprocedure('reconciler.announce_generation()') IS NOT NULL"
TRIGGERS = "SELECT tgname, tgenabled::text FROM pg_trigger WHERE tgname LIKE 'reconciler%' ORDER BY 1"


async def command(rig: Rig, *words: str) -> commands.Ran:
    rig.folder.mkdir(exist_ok=True)
    return await commands.run(*words, folder=rig.folder, environment=rig.environment())


@pytest.mark.soak
async def test_a_file_of_phase_after_waits_for_the_older_daemon_and_one_line_names_it(filled: Rig) -> None:
    checked = await command(filled, "migrate", "--check")
    assert checked.code == 1
    assert "missing 031_triggers.sql (phase before)\n" in checked.out
    names = ", ".join(AFTER)
    assert f"later   {names} (phase after), because older daemons still run: 0.1.0 on web-1 (pid 4711)\n" in checked.out

    ran = await command(filled, "migrate", "--application")
    assert ran.code == 0
    assert not any(name in ran.out for name in AFTER)
    assert ran.told.startswith(f"warning: {names} left for later, because older daemons still run: 0.1.0 on web-1 (pid")
    assert await filled.pool.fetchval(FORMER_FUNCTION)

    checked = await command(filled, "migrate", "--check", "--json")
    assert (checked.code, checked.answer) == (
        0,
        {
            "missing": [],
            "later": AFTER,
            "phases": dict.fromkeys(AFTER, "after"),
            "older": [{"host": "web-1", "pid": 4711, "version": "0.1.0"}],
        },
    )

    await filled.pool.execute("DELETE FROM reconciler.instances WHERE host = 'web-1'")
    checked = await command(filled, "migrate", "--check")
    assert (checked.code, checked.out) == (1, "".join(f"missing {name} (phase after)\n" for name in AFTER))
    ran = await command(filled, "migrate", "--application")
    assert (ran.code, ran.out, ran.err) == (0, "".join(f"applied {name}\n" for name in AFTER), "")
    assert not await filled.pool.fetchval(FORMER_FUNCTION)
    assert (await command(filled, "migrate", "--check")).code == 0


def test_a_daemon_counts_as_alive_for_four_leases() -> None:
    assert alive_within(Settings.model_fields["lease_seconds"].default) == ALIVE == timedelta(seconds=4 * 30)


@pytest.mark.parametrize(("age", "waits"), [("30 s", True), ("90 s", False)])
async def test_a_daemon_that_has_died_is_waited_for_as_long_as_it_counts_as_alive(
    filled_dsn: str, age: str, waits: bool
) -> None:
    connection = await asyncpg.connect(filled_dsn)
    await connection.execute(f"UPDATE reconciler.instances SET seen_at = now() - interval '{age}' WHERE host = 'web-1'")
    applied = await migrate(filled_dsn, application=True, alive=timedelta(minutes=1))
    assert [name in applied for name in AFTER] == [not waits, not waits]
    assert (await behind(connection, timedelta(seconds=5)) == AFTER) is waits
    await connection.close()


async def test_a_daemon_of_this_version_is_not_waited_for(filled_dsn: str) -> None:
    connection = await asyncpg.connect(filled_dsn)
    assert not {*AFTER} & {*await migrate(filled_dsn, application=True)}
    await connection.execute("UPDATE reconciler.instances SET level = $1", LEVEL)
    assert await migrate(filled_dsn, application=True) == AFTER
    await connection.close()


@pytest.mark.soak
async def test_the_finding_opens_when_the_last_older_daemon_has_ended(rig: Rig) -> None:
    await rig.pool.execute(
        "INSERT INTO reconciler.instances (id, host, pid, version, seen_at)"
        " VALUES (gen_random_uuid(), 'web-1', 1, '0.1.0', now() + interval '1 hour')"
    )
    await migrate(rig.dsn, application=True)
    replica = await rig.run()

    async def figure(behind: int) -> bool:
        return await replica.figure("schema_behind") == behind

    def found() -> bool:
        return any(line["finding"] == "schema_behind" for line in replica.said("finding.open"))

    await until(lambda: figure(0), what="the leader's figures")
    assert replica.said("schema.behind") == []
    assert not found()
    await rig.pool.execute("UPDATE reconciler.instances SET seen_at = now() - interval '1 hour' WHERE host = 'web-1'")
    await until(lambda: figure(len(AFTER)), what="the figure")
    await until(found, what="the finding")
    assert (await replica.get("/readyz")).status_code == 200
    assert await migrate(rig.dsn, application=True) == AFTER
    await until(lambda: figure(0), what="the end of the finding")


@pytest.fixture
async def connection(released_dsn: str) -> Any:
    connection = await asyncpg.connect(released_dsn)
    yield connection
    await connection.close()


async def test_the_former_triggers_are_replaced(released_dsn: str, connection: Any) -> None:
    await migrate(released_dsn, application=True)
    triggers = [tuple(row) for row in await connection.fetch(TRIGGERS)]
    assert triggers == [("reconciler_inserted_3", "O"), ("reconciler_updated_2", "O")]
    assert await behind(connection) == []


@pytest.mark.parametrize(
    ("change", "state"), [("DISABLE", "D"), ("ENABLE REPLICA", "R"), ("ENABLE ALWAYS", "A"), ("ENABLE", "O")]
)
async def test_a_trigger_that_was_disabled_stays_so(
    released_dsn: str, connection: Any, change: str, state: str
) -> None:
    await connection.execute(f"ALTER TABLE public.generations {change} TRIGGER reconciler_updated")
    await migrate(released_dsn, application=True)
    triggers = [tuple(row) for row in await connection.fetch(TRIGGERS)]
    assert triggers == [("reconciler_inserted_3", "O"), ("reconciler_updated_2", state)]


async def test_triggers_that_a_migration_of_0_1_0_has_made_again_go_with_the_next_one(
    rig: Rig, released: str, connection: Any
) -> None:
    await migrate(rig.dsn, application=True)
    await connection.execute("ALTER TABLE public.generations DISABLE TRIGGER reconciler_updated_2")
    rig.folder.mkdir()
    old = await commands.run("migrate", folder=rig.folder, environment=rig.environment(PYTHONPATH=released))
    assert old.code == 0, old.err
    assert len(await connection.fetch(TRIGGERS)) == 4
    await migrate(rig.dsn, application=True)
    triggers = [tuple(row) for row in await connection.fetch(TRIGGERS)]
    assert triggers == [("reconciler_inserted_3", "O"), ("reconciler_updated_2", "D")]


async def test_the_printed_sql_has_both_phases_and_its_second_one_fails_while_an_older_daemon_is_alive(
    filled_dsn: str,
) -> None:
    connection = await asyncpg.connect(filled_dsn)
    text = printed(application=True, strict_statuses=False)
    before, _, after = text.partition("-- ==================== After the new version has started everywhere")
    assert "031_triggers.sql" in before
    assert not any(name in before for name in AFTER)
    await connection.execute(before)
    with pytest.raises(asyncpg.RaiseError, match=rf"{AFTER[0]}: a daemon older than 0\.2\.0 is alive"):
        await connection.execute(after.partition("\n-- Where")[0].partition("\n")[2])
    await connection.execute("ROLLBACK; DELETE FROM reconciler.instances")
    await connection.execute(text)
    found = await missing_files(connection)
    assert (found.due, found.later) == ((), ())
    record = "SELECT requires_level, requires_version FROM reconciler.schema_version WHERE file = $1"
    assert [tuple(await connection.fetchrow(record, name)) for name in AFTER] == [(1, "0.2.0"), (1, "0.2.0")]
    await connection.close()


def test_no_file_requires_more_than_this_version_has() -> None:
    required = [script.requires for script in scripts(application=True, strict_statuses=True) if script.requires]
    assert max(one.level for one in required) == LEVEL
