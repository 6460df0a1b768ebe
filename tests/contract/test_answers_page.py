"""docs/OPERATIONS.md lists exactly the fields that `--json` prints."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

import asyncpg
import pytest

from reconciler.bootstrap import reports
from reconciler.cli.render.console import show_json
from reconciler.cli.render.reports import explanation_as_json
from reconciler.domain.findings.findings import Finding
from reconciler.domain.transfer import Transfer
from reconciler.operations.diagnosis import State
from reconciler.operations.stuck import DiagnosedGeneration
from reconciler.operations.throughput import ReplicaRates, Throughput
from reconciler.postgres.reports.activity import KeyBacklog, WaitingGeneration
from reconciler.postgres.reports.reports import StatusReport
from reconciler.settings import load
from testkit.rows import HOUR, add, keep, store
from tests.contract.test_operations_page import rows, section, words

RESULTS = json.dumps([{"key": "a", "n": 0, "addresses": ["https://kie.ai/1"]}, {"key": "b", "n": 1, "addresses": []}])
TOLD = {words(row[0])[0]: words(row[1]) for row in rows(section("Answers for programs"))}


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("status", StatusReport),
        ("status.findings[]", Finding),
        ("stuck[]", DiagnosedGeneration),
        ("top", Throughput),
        ("top.replicas[]", ReplicaRates),
        ("top.transfers[]", Transfer),
        ("top.keys[]", KeyBacklog),
        ("top.waiting[]", WaitingGeneration),
    ],
)
def test_what_a_command_answers_with_is_what_the_page_says(what: str, kind: Any) -> None:
    assert TOLD[what] == tuple(field.name for field in fields(kind))


def test_the_lists_within_a_look_are_of_what_the_page_says() -> None:
    hints = get_type_hints(Throughput)
    lists = {name: hint.__args__[0] for name, hint in hints.items() if getattr(hint, "__origin__", None) is tuple}
    assert lists == {
        "replicas": ReplicaRates,
        "transfers": Transfer,
        "keys": KeyBacklog,
        "waiting": WaitingGeneration,
    }


@pytest.fixture
async def answered(rows_dsn: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> Mapping[str, Any]:
    """What `explain --json` prints about a generation of which everything is known."""
    instance = "0b7d3c1e-5a42-4f0e-9f5d-3a8f5a0c9e11"
    connection = await asyncpg.connect(rows_dsn)
    row = await add(connection, "generating", HOUR)
    await keep(connection, row, why="storage: http_5xx", sources=["https://kie.ai/1"], results=RESULTS, looks=2,
               lease_until_in=20, instance=instance, looked_at_in=-5, acknowledged_at_in=-60,
               answered_at_in=-5)  # fmt: skip
    await store(connection, row, [100])
    moving = Transfer(generation_id=row, n=1, stage="fetch", done=7, total=9, seconds=2.0).to_json()
    await connection.execute(
        "INSERT INTO reconciler.instances (id, host, pid, version, doing) VALUES ($1, 'here', 7, '0', $2)",
        instance, json.dumps({"transfers": [moving]}),
    )  # fmt: skip
    await connection.execute(
        "INSERT INTO reconciler.events (key, generation_id, kind, payload) VALUES ('key', $1, 'failed', '{}')", row
    )
    await connection.execute("INSERT INTO reconciler.callbacks (task_id, body) VALUES ('task', '{}')")
    await connection.close()
    settings = load({"DATABASE_URL": rows_dsn}, tmp_path)
    async with reports(settings) as asked:
        show_json([explanation_as_json(details, settings) for details in await asked.explain(row)])
    (answer,) = json.loads(capsys.readouterr().out)
    return dict(answer)


async def test_everything_that_explain_prints_is_on_the_page(answered: Mapping[str, Any]) -> None:
    assert tuple(answered) == TOLD["explain[]"]
    for name in ("generation", "work", "holder", "transfer", "results", "story"):
        assert tuple(answered[name]) == TOLD[f"explain[].{name}"], name
    for name in ("assets", "events"):
        assert [tuple(one) for one in answered[name]] == [TOLD[f"explain[].{name}[]"]], name

    assert {tuple(one) for one in answered["work"]["results"]} == {TOLD["explain[].work.results[]"]}


def test_every_state_of_a_generation_is_on_the_page() -> None:
    assert [words(row[0])[0] for row in rows(section("Where a generation is"))] == [str(state) for state in State]


async def test_times_are_iso_and_what_happened_is_told_in_order(answered: Mapping[str, Any]) -> None:
    times = [answered["now"], answered["generation"]["created_at"], *answered["callbacks"]]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00", time) for time in times)
    happened = [line[: len("2026-01-01 12:00:00")] for line in answered["happened"]]
    assert len(happened) == 3
    assert sorted(happened) == happened
    assert isinstance(answered["replicas"], int)
