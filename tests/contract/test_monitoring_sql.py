"""The alerts in SQL: each is silent on a healthy database, and fires on the fault that is planted for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from testkit.tables import member

FOLDER = Path(__file__).resolve().parents[2] / "monitoring" / "sql"
FILES = sorted(path.stem for path in FOLDER.glob("*.sql"))

HEALTHY = """
INSERT INTO reconciler.instances (id, host, pid, version) VALUES ('00000000-0000-4000-8000-000000000001', 'a', 1, '1');
INSERT INTO reconciler.leader (instance, until)
VALUES ('00000000-0000-4000-8000-000000000001', now() + interval '30 seconds');
INSERT INTO public.generations (user_id, kind, model_key, task_id, status, created_at)
SELECT gen_random_uuid(), 'video', 'veo', 'task-' || n, 'generating', now() - interval '9 minutes'
  FROM generate_series(1, 40) AS n;
INSERT INTO reconciler.work (generation_id, seen_status, seen_task, due_at, why, misses, media_deadline)
SELECT id::text, status, task_id, now() + interval '1 minute', 'KIE says generating', 0, now() + interval '23 hours'
  FROM public.generations;
INSERT INTO reconciler.work (generation_id, completed_at, delivered_at)
SELECT 'in time ' || n, now() - interval '100 seconds', now() - interval '90 seconds' FROM generate_series(1, 100) AS n;
INSERT INTO reconciler.events (key, generation_id, kind, payload, at, tries, announced_at)
VALUES ('told', 'a', 'succeeded', '{}', now() - interval '1 hour', 2, now());
INSERT INTO reconciler.events (key, generation_id, kind, payload, at)
VALUES ('for nobody', 'b', 'succeeded', '{}', now() - interval '1 hour')
"""
"""Young work, deliveries in time, and events where nobody is to be told. The queue of a test's server is empty."""

AGED = "UPDATE public.generations SET created_at = now() - interval '{}' WHERE task_id = 'task-1'"
SEVERAL = "SELECT generation_id FROM reconciler.work WHERE due_at IS NOT NULL ORDER BY generation_id LIMIT {}"
RESTING = f"UPDATE reconciler.work SET {{}} WHERE generation_id IN ({SEVERAL})"
FAILING = """jsonb_build_object('{}', jsonb_build_object(
                 'count', {}, 'since', now() - interval '{}', 'reason', 'what was said'))"""
"""Failures in a row at one side: its word, how many, and since when."""
LATE = """INSERT INTO reconciler.work (generation_id, completed_at, delivered_at)
          SELECT 'late ' || n, now() - interval '{0}' - interval '301 seconds', now() - interval '{0}'
            FROM generate_series(1, {1}) AS n"""
UNTOLD = """INSERT INTO reconciler.events (key, generation_id, kind, payload, at, tries, trouble, dead_at)
            VALUES ('k', 'g', 'failed', '{{}}', now() - interval '{}', 3, 'http_503', {})"""
CRASHED = """INSERT INTO reconciler.instances (id, host, pid, version, started_at, seen_at)
             VALUES (gen_random_uuid(), '{}', 2, '1', now() - interval '9 hours', now() - interval '6 minutes')"""

PLANTED = [
    ("GenerationsStuck", AGED.format("11 minutes"), [("page", 1)]),
    ("OldestGenerationTooOld", AGED.format("61 minutes"), [("ticket", 3660)]),
    ("MediaExpiring", RESTING.format("media_deadline = now() + interval '11 hours'", 2), [("page", 2)]),
    ("MediaExpiring", RESTING.format("media_deadline = now() - interval '145 hours'", 1), [("page", 1), ("page", 1)]),
    # 12 of 112: all four windows burn. 5 of 105 burn less than 14.4 times too fast.
    ("DeliverySLOBurn", LATE.format("1 minute", 12), [("page", 10.71), ("page", 10.71), *[("ticket", 10.71)] * 2]),
    ("DeliverySLOBurn", LATE.format("1 minute", 5), [("page", 4.76), *[("ticket", 4.76)] * 2]),
    ("DaemonDown", "UPDATE reconciler.instances SET seen_at = now() - interval '121 seconds'", [("page", 0)]),
    ("DaemonDown", "DELETE FROM reconciler.instances", [("page", 0)]),
    ("FiguresMissing", "UPDATE reconciler.leader SET until = now() - interval '181 seconds'", [("page", 0)]),
    ("LoopStalled", f"DELETE FROM reconciler.work WHERE generation_id IN ({SEVERAL.format(4)})", [("page", 4)]),
    ("ReplicaMissing", CRASHED.format("b"), [("ticket", 1)]),
    ("FindingOpen", RESTING.format("finding = 'parked'", 3), [("ticket", 3)]),
    ("EventsUnannounced", UNTOLD.format("11 minutes", "NULL"), [("ticket", 1)]),
    ("EventsUnannounced", UNTOLD.format("1 minute", "now()"), [("ticket", 1)]),
    ("KieUnauthorized", RESTING.format("finding = 'key_rejected', why = 'KIE: unauthorized'", 2), [("page", 2)]),
    ("KieOutOfCredits", RESTING.format("finding = 'unpaid_account', why = 'KIE: no_credits'", 2), [("page", 2)]),
    (
        "KieErrorRate",
        RESTING.format(f"why = 'KIE: timeout', failing = {FAILING.format('kie', 3, '1 minute')}", 21),
        [("ticket", 21)],
    ),
    ("PollBudgetExhausted", RESTING.format("due_at = now() - interval '2 seconds'", 26), [("ticket", 26)]),
    ("StorageRejecting", RESTING.format("finding = 'storage_refuses', why = 'store: bad_path'", 2), [("page", 2)]),
    ("FindingOpen", RESTING.format(f"failing = {FAILING.format('storage', 3, '1 minute')}", 3), [("ticket", 3)]),
    ("FindingOpen", RESTING.format(f"failing = {FAILING.format('storage', 3, '6 minutes')}", 1), [("ticket", 1)]),
    ("AuditFoundLoss", "UPDATE reconciler.work SET lost_at = now() WHERE generation_id = 'in time 1'", [("page", 1)]),
    ("StorageErrorRate", RESTING.format("misses = 1, why = 'store: storage_5xx'", 3), [("ticket", 3)]),
]

HARMLESS = [
    ("FindingOpen", RESTING.format(f"failing = {FAILING.format('storage', 2, '6 minutes')}", 5)),
    ("FindingOpen", RESTING.format(f"failing = {FAILING.format('storage', 3, '4 minutes')}", 2)),
    ("FindingOpen", RESTING.format(f"failing = {FAILING.format('kie', 3, '6 minutes')}", 5)),
    ("AuditFoundLoss", "UPDATE reconciler.work SET lost_at = now() - interval '25 hours'"),
    ("MediaExpiring", LATE.format("1 minute", 1)),
    ("DeliverySLOBurn", LATE.format("1 minute", 2)),
    ("DeliverySLOBurn", LATE.format("7 hours", 1)),
    ("ReplicaMissing", CRASHED.format("a")),
    ("EventsUnannounced", UNTOLD.format("9 minutes", "NULL")),
    ("KieErrorRate", RESTING.format(f"why = 'KIE: timeout', failing = {FAILING.format('kie', 3, '1 minute')}", 20)),
    ("KieErrorRate", RESTING.format("why = 'KIE: timeout', misses = 9", 40)),
    ("PollBudgetExhausted", RESTING.format("due_at = now() - interval '2 seconds'", 25)),
]


async def told(connection: Any, alert: str) -> list[tuple[Any, ...]]:
    """What a file says, each row as alert, severity, value, sentence."""
    rows = [tuple(row.items()) for row in await connection.fetch((FOLDER / f"{alert}.sql").read_text())]
    assert all([name for name, _ in row] == ["alert", "severity", "value", "says"] for row in rows)
    return [tuple(value for _, value in row) for row in rows]


async def firing(connection: Any, alert: str) -> list[tuple[str, float]]:
    """The severities and values that a file tells, which must name its own alert and say something."""
    rows = await told(connection, alert)
    assert all(name == alert and says for name, _, _, says in rows)
    return sorted((severity, value) for _, severity, value, _ in rows)


@pytest.fixture
async def healthy(undone: Any) -> Any:
    """A session in a database on which everything is well."""
    await undone.execute(HEALTHY)
    return undone


async def test_a_healthy_database_is_told_nothing_of(healthy: Any) -> None:
    # Of who listens only a running daemon tells.
    assert {alert: await told(healthy, alert) for alert in FILES if alert != "ListenerDeaf"} == {
        alert: [] for alert in FILES if alert != "ListenerDeaf"
    }


@pytest.mark.parametrize(("alert", "fault", "expected"), PLANTED)
async def test_what_is_amiss_is_told(healthy: Any, alert: str, fault: str, expected: list[tuple[str, float]]) -> None:
    await healthy.execute(fault)
    assert await firing(healthy, alert) == sorted(expected)


@pytest.mark.parametrize(("alert", "change"), HARMLESS)
async def test_what_is_only_nearly_amiss_is_not_told(healthy: Any, alert: str, change: str) -> None:
    await healthy.execute(change)
    assert await firing(healthy, alert) == []


async def test_a_queue_above_the_bound_is_told(undone: Any) -> None:
    # Filling the queue takes gigabytes: the bound is lowered instead.
    text = (FOLDER / "NotificationQueueFilling.sql").read_text()
    assert await undone.fetch(text) == []
    (row,) = await undone.fetch(text.replace("> 0.5", ">= 0"))
    assert (row["alert"], row["severity"]) == ("NotificationQueueFilling", "page")


async def test_replicas_that_nobody_hears_for_are_told_as_the_daemons_own_login_sees_them(dsn: str) -> None:
    async with member(dsn, "reconciler") as address:
        connection = await asyncpg.connect(address)
        listener = await asyncpg.connect(address)
        await connection.execute(HEALTHY.split(";", maxsplit=1)[0])
        assert await firing(connection, "ListenerDeaf") == [("ticket", 0)]
        await listener.add_listener("reconciler_generations", lambda *_: None)
        assert await firing(connection, "ListenerDeaf") == []
        await listener.close()
        await connection.close()


async def test_every_file_can_be_read_by_the_daemons_own_login(dsn: str) -> None:
    async with member(dsn, "reconciler") as address:
        connection = await asyncpg.connect(address)
        for alert in FILES:
            await told(connection, alert)
        await connection.close()


def test_every_file_is_planted_against() -> None:
    assert {alert for alert, *_ in PLANTED} | {"ListenerDeaf", "NotificationQueueFilling"} == set(FILES)
