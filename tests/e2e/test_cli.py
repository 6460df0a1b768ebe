"""The command line: help, exit codes, one line for an error, and the commands that only ask."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from reconciler import __version__
from testkit.commands import begin, run
from testkit.rows import HOUR, OURS, add, keep, store

COMMANDS = (
    "run", "migrate", "doctor", "status", "stuck", "explain", "top", "sync", "retry", "backfill", "audit", "cleanup",
    "simulate", "demo",
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]
LOADED = """
import atexit, sys
atexit.register(lambda: print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr))
sys.argv = ["kie-reconciler", "--help"]
from reconciler.cli import main
main()
"""
SECRET = "do-not-tell-this"


async def test_help_names_every_command(tmp_path: Path) -> None:
    helped = await run("--help", folder=tmp_path)

    assert helped.code == 0
    assert all(re.search(rf"^  {command} ", helped.out, re.MULTILINE) for command in COMMANDS)


def test_help_is_quick_because_it_imports_no_library_that_only_commands_need() -> None:
    loaded = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(loaded.stderr.split()) >= {"reconciler", "typer"}
    assert set(loaded.stderr.split()) & {"aiohttp", "asyncpg", "fastapi", "httpx", "pydantic", "storage3"} == set()


async def test_the_help_of_every_command_has_an_example(tmp_path: Path) -> None:
    helps = await asyncio.gather(*(run(command, "--help", folder=tmp_path) for command in COMMANDS))

    for command, helped in zip(COMMANDS, helps, strict=True):
        assert helped.code == 0
        assert f"Example: kie-reconciler {command}" in helped.out


async def test_version_is_printed(tmp_path: Path) -> None:
    ran = await run("--version", folder=tmp_path)

    assert (ran.code, ran.out) == (0, f"kie-reconciler {__version__}\n")


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["status", "--nonsense"],
        ["sync"],
        ["simulate", "--port", "70000"],
        ["migrate", "--print", "--strict-statuses"],
        ["migrate", "--print", "--check"],
        ["audit", "--since", "9999999d"],
        ["cleanup", "--failed-older-than", "9999999d"],
    ],
)
async def test_wrong_usage_is_exit_2(tmp_path: Path, words: list[str]) -> None:
    ran = await run(*words, folder=tmp_path)

    assert (ran.code, ran.out) == (2, "")
    assert "Usage:" in ran.err


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("environment", "words", "message"),
    [
        ({}, ["status"], "DATABASE_URL"),
        ({"DATABASE_URL": f"mysql://me:{SECRET}@host/db"}, ["stuck"], "DATABASE_URL"),
        ({"DATABASE_URL": f"postgresql://me:{SECRET}@127.0.0.1:1/db"}, ["run"], "KIE_API_KEY"),
        ({"RECONCILER_ENV_FILE": "missing.env"}, ["status"], "missing.env"),
    ],
)
async def test_wrong_configuration_is_exit_2_with_one_line_and_no_secret(
    tmp_path: Path, environment: dict[str, str], words: list[str], message: str
) -> None:
    ran = await run(*words, folder=tmp_path, environment=environment)

    assert (ran.code, ran.out) == (2, "")
    assert message in ran.told
    assert SECRET not in ran.err


async def test_several_wrong_settings_are_exit_2_with_a_line_each(tmp_path: Path) -> None:
    environment = {"RECONCILER_CONCURRENCY": "many", "LOG_LEVEL": "loud", "DATABASE_URL": f"mysql://me:{SECRET}@h/d"}

    ran = await run("status", folder=tmp_path, environment=environment)

    database, concurrency, level = ran.err.splitlines()
    assert (ran.code, ran.out) == (2, "")
    assert database.startswith("kie-reconciler: DATABASE_URL: this value is not an address")
    assert concurrency == "kie-reconciler: RECONCILER_CONCURRENCY: 'many' is not a whole number"
    assert level == "kie-reconciler: LOG_LEVEL: 'loud' is none of these words: debug, info, warning, error"
    assert SECRET not in ran.err


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["migrate"],
        *(
            pytest.param(words, marks=pytest.mark.soak)
            for words in (["stuck"], ["explain", "x"], ["top"], ["backfill", "--dry-run"])
        ),
    ],
)
async def test_a_database_that_is_away_is_exit_1(tmp_path: Path, words: list[str]) -> None:
    environment = {"DATABASE_URL": f"postgresql://me:{SECRET}@127.0.0.1:1/db"}

    ran = await run(*words, folder=tmp_path, environment=environment)

    assert (ran.code, ran.out) == (1, "")
    assert "the database is away" in ran.told
    assert SECRET not in ran.err


async def test_without_our_tables_the_error_says_what_to_run(tmp_path: Path, empty_dsn: str) -> None:
    ran = await run("status", folder=tmp_path, environment={"DATABASE_URL": empty_dsn})

    assert ran.code == 2
    assert "kie-reconciler migrate" in ran.told


async def test_migrate_brings_an_empty_database_up_to_date(tmp_path: Path, empty_dsn: str) -> None:
    environment = {"DATABASE_URL": empty_dsn}

    behind = await run("migrate", "--check", folder=tmp_path, environment=environment)
    bare = await run("migrate", folder=tmp_path, environment=environment)
    whole = await run("migrate", "--application", "--json", folder=tmp_path, environment=environment)
    again = await run("migrate", "--application", folder=tmp_path, environment=environment)
    checked = await run("migrate", "--check", "--json", folder=tmp_path, environment=environment)

    assert behind.code == 1
    assert "missing 010_reconciler_schema.sql" in behind.out
    assert bare.code == 0
    assert "there is no table public.generations" in bare.err
    assert whole.code == 0
    assert "application/110_table.sql" in whole.answer["applied"]
    assert (again.code, again.out) == (0, "the database is up to date\n")
    assert (checked.code, checked.answer) == (0, {"missing": [], "later": [], "phases": {}, "older": []})


async def test_migrate_prints_the_sql_without_a_database(tmp_path: Path) -> None:
    ran = await run("migrate", "--print", folder=tmp_path)

    assert ran.code == 0
    assert "CREATE SCHEMA IF NOT EXISTS reconciler" in ran.out


async def test_status_prints_figures_and_json(tmp_path: Path, dsn: str, pool: Any) -> None:
    done = await add(pool, "success", HOUR, asset_url=f"{OURS}/one.png")
    await keep(pool, done, delivered_at_in=-3540)
    await store(pool, done, [2_000_000])
    await add(pool, "failed", HOUR)
    environment = {"DATABASE_URL": dsn}

    read = await run("status", folder=tmp_path, environment=environment)
    answered = await run("status", "--json", folder=tmp_path, environment=environment)

    assert (read.code, read.err, answered.code, answered.err) == (0, "", 0, "")
    assert "1 (50.0 %)" in read.out
    assert "2.0 MB in 1 files" in read.out
    assert answered.answer["success_percent"] == 50.0
    assert answered.answer["stored_bytes"] == 2_000_000
    assert answered.answer["mean_seconds"] == pytest.approx(60, abs=1)


async def test_status_begins_with_what_is_amiss_and_what_to_do(tmp_path: Path, dsn: str, pool: Any) -> None:
    said = {"count": 3, "since": "2026-01-01T00:00:00+00:00", "reason": "store: storage_5xx, storage failed: 544"}
    await keep(pool, await add(pool), failing=json.dumps({"storage": said}), due_at_in=60)
    environment = {"DATABASE_URL": dsn}
    nobody = await run("status", folder=tmp_path, environment=environment)
    await pool.execute(
        "INSERT INTO reconciler.instances (id, host, pid, version) VALUES (gen_random_uuid(), 'shop', 7, '1.0.0')"
    )

    read = await run("status", folder=tmp_path, environment=environment)
    answered = await run("status", "--json", folder=tmp_path, environment=environment)

    assert (read.code, answered.code) == (0, 0)
    assert nobody.out.startswith(
        "no_replica (page): No replica of the daemon is alive, and 1 generations are in flight."
    )
    assert read.out.startswith("storage_failing (warn): Our storage fails 1 generations, for ")
    assert "storage failed: 544. Run `kie-reconciler doctor`" in read.out.splitlines()[0]
    assert [one["name"] for one in answered.answer["findings"]] == ["storage_failing"]


async def test_stuck_lists_rows_and_is_exit_0(tmp_path: Path, dsn: str, pool: Any) -> None:
    row = await add(pool, "generating", HOUR, task_id="a-task")
    await keep(pool, row, seen_task="a-task", why="KIE: unauthorized")

    environment = {"DATABASE_URL": dsn, "RECONCILER_STUCK_AFTER": "30m"}
    read = await run("stuck", folder=tmp_path, environment=environment)
    answered = await run("stuck", "--json", folder=tmp_path, environment=environment)
    none = await run("stuck", folder=tmp_path, environment={**environment, "RECONCILER_STUCK_AFTER": "2h"})

    assert (read.code, answered.code, none.code) == (0, 0, 0)
    assert read.out.startswith(f"{row}  generating for 60 min\n")
    assert re.search(r"a-task\n.* image by flux-2/pro\n", read.out)
    assert [(one["id"], one["why"]) for one in answered.answer] == [(row, "KIE: unauthorized")]
    assert none.out.startswith("no generation has been in flight for longer than 2 h; 1 is in flight, for ")


@pytest.mark.soak
async def test_what_a_row_holds_cannot_move_the_cursor_nor_be_markup(tmp_path: Path, dsn: str, pool: Any) -> None:
    row = await add(pool, "generating", HOUR, task_id="a\x1b[2Jb\r\nc[red]d", model_key="\x9b31m")
    await keep(pool, row, seen_task="other")
    environment = {"DATABASE_URL": dsn}

    for words in (["stuck"], ["explain", row], ["explain", row, "--json"]):
        ran = await run(*words, folder=tmp_path, environment=environment)
        assert not [letter for letter in ran.out if not letter.isprintable() and letter != "\n"]
        assert "c[red]d" in ran.out


async def test_explain_takes_the_id_of_a_generation_or_of_a_task(tmp_path: Path, dsn: str, pool: Any) -> None:
    row = await add(pool, "generating", HOUR, task_id="a-task")
    twin = await add(pool, "failed", HOUR, task_id="a-task", error="their words")
    environment = {"DATABASE_URL": dsn}

    one = await run("explain", row, folder=tmp_path, environment=environment)
    both = await run("explain", "a-task", "--json", folder=tmp_path, environment=environment)

    assert one.code == 0
    assert f"generation {row}" in one.out
    assert "Start one: `kie-reconciler run`" in one.out
    assert {answer["generation"]["id"] for answer in both.answer} == {row, twin}
    assert any("their words" in answer["story"]["row"] for answer in both.answer)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["nobody", os.fsdecode(b"nobody\xff"), "nobody\n"])
async def test_an_unknown_id_is_exit_1(tmp_path: Path, dsn: str, name: str) -> None:
    ran = await run("explain", name, folder=tmp_path, environment={"DATABASE_URL": dsn})

    assert (ran.code, ran.out) == (1, "")
    assert "nobody" in ran.err
    assert "Traceback" not in ran.err


async def test_simulate_prints_its_address_and_stops_on_sigterm(tmp_path: Path) -> None:
    process = await begin("simulate", "--seed", "7", folder=tmp_path)
    assert process.stdout is not None
    address = (await process.stdout.readline()).decode().strip()
    async with httpx.AsyncClient(trust_env=False, base_url=address) as client:
        key = {"Authorization": "Bearer any"}
        answer = await client.get("/api/v1/jobs/recordInfo", params={"taskId": "x"}, headers=key)
    busy = await run("simulate", "--port", address.rpartition(":")[2], folder=tmp_path)
    process.send_signal(signal.SIGTERM)

    assert answer.status_code == 200
    assert json.loads(answer.content)["code"] != 200
    assert busy.code == 2
    assert "cannot listen on port" in busy.told
    assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_a_command_that_is_interrupted_ends_without_a_traceback(tmp_path: Path) -> None:
    reached = asyncio.Event()

    writers = []

    def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        reached.set()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        process = await begin("status", folder=tmp_path, DATABASE_URL=f"postgresql://me@127.0.0.1:{port}/db")
        await asyncio.wait_for(reached.wait(), 20)
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), 10)
        writers[0].close()

    assert (process.returncode, out) == (128 + signal.SIGINT, b"")
    assert b"Traceback" not in err
