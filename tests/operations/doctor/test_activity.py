"""What `doctor` says about what really happens: rows left alone, replicas, deliveries, failures, findings."""

from __future__ import annotations

import re
from typing import Any

import pytest

from reconciler.domain.findings.findings import Finding
from reconciler.operations.doctor import NotKnown
from reconciler.operations.doctor.activity import (
    RecentActivity,
    judge_deliveries,
    judge_findings,
    judge_ignored_rows,
    judge_preflight,
    judge_replicas,
)
from reconciler.postgres.reports.recent_rows import EndedCounts, FailingStage, IgnoredRows
from testkit.rows import HOUR, add, keep
from tests.operations.doctor.installation import Installation, not_ok, pooled

STORE = "store: storage_busy, storage answers 503: upstream is down"


async def failing(pool: Any, count: int, why: str = STORE, **more: Any) -> None:
    """Rows in flight whose last attempt failed."""
    for number in range(count):
        row = await add(pool, task_id=f"task-{number}")
        facts = {"seen_task": f"task-{number}", "misses": 2, "why": why, **more}
        await keep(pool, row, due_at_in=60, failing_since_in=-240, **facts)


async def ended(pool: Any, kind: str, seconds_ago: float) -> None:
    await pool.execute(
        """INSERT INTO reconciler.events (key, generation_id, kind, payload, at)
           VALUES (gen_random_uuid()::text, 'one', $1, '{}', now() - $2 * interval '1 second')""",
        kind,
        seconds_ago,
    )


async def test_stores_that_fail_while_nothing_is_delivered_are_no_clean_bill(shared: Installation) -> None:
    async with pooled(shared.dsn) as pool:
        await failing(pool, 3)
        await ended(pool, "succeeded", 700)
        check = (await shared.examine())["deliveries"]
        assert check.word == "FAIL"
        assert "0 delivered" in check.says
        assert re.search(r"3 rows are failing at stage store for [0-9.]+ min ", check.says)
        assert "storage answers 503: upstream is down" in check.says
        await ended(pool, "healed", 60)
        check = (await shared.examine())["deliveries"]
        assert (check.word, "1 delivered, 0 failed" in check.says) == ("warn", True)


async def test_failures_are_told_by_stage_and_only_of_rows_that_still_fail(shared: Installation) -> None:
    async with pooled(shared.dsn) as pool:
        await failing(pool, 2)
        await failing(pool, 1, "KIE: timeout")
        await ended(pool, "gave_up", 60)
        # Their last attempt did not fail, or they wait no more, or have another task since.
        await failing(pool, 1, "fetch: cut", misses=0)
        await keep(pool, await add(pool, "cancelled"), misses=2, due_at_in=60, why="fetch: cut")
        await keep(pool, await add(pool), misses=2, due_at_in=60, why="fetch: cut", seen_task="former")
        check = (await shared.examine())["deliveries"]
    assert check.word == "warn"
    assert "0 delivered, 1 failed for good" in check.says
    assert "2 rows are failing at stage store" in check.says
    assert "1 row is failing at stage KIE" in check.says
    assert "fetch" not in check.says


async def test_rows_in_flight_without_a_daemon_fail_with_the_command_that_starts_one(shared: Installation) -> None:
    async with pooled(shared.dsn) as pool:
        await pool.execute("DELETE FROM reconciler.instances")
        check = (await shared.examine())["replicas"]
        assert (check.word, "no daemon is alive" in check.says) == ("warn", True)
        await add(pool)
        check = (await shared.examine())["replicas"]
    assert (check.word, "1 row is in flight" in check.says) == ("FAIL", True)
    assert "kie-reconciler run" in check.do


async def test_rows_of_a_provider_that_is_not_configured_are_told_with_the_setting(shared: Installation) -> None:
    async with pooled(shared.dsn) as pool:
        await add(pool, provider="upstream")
        await add(pool, provider="upstream", task_id="other")
        await add(pool, "success", provider="elsewhere")
        await add(pool, provider="kie", task_id="ours")
        checks = await shared.examine()
        assert not_ok(checks) == {"ignored_rows": "warn"}
        assert "2 rows are in flight with provider upstream" in checks["ignored_rows"].says
        assert "RECONCILER_PROVIDERS=kie,upstream" in checks["ignored_rows"].do
        assert "elsewhere" not in checks["ignored_rows"].says
        assert not_ok(await shared.examine(RECONCILER_PROVIDERS="kie,upstream")) == {}


async def test_rows_that_wait_with_an_unknown_status_or_an_empty_task_are_told(own: Installation) -> None:
    await own.sql("ALTER TABLE public.generations DROP CONSTRAINT generations_status_check")
    async with pooled(own.dsn) as pool:
        await add(pool, "rendering")
        await add(pool, "draft", task_id=None)
        await add(pool, "archived", asset_url="https://ours/old.png")
        await add(pool, "abandoned", age=25 * HOUR)
        await add(pool, task_id="")
        check = (await own.examine())["ignored_rows"]
    assert check.word == "warn"
    assert "1 row is left alone with a status that the daemon does not know: rendering;" in check.says
    assert "1 row is in flight with an empty task_id" in check.says
    assert "queued, generating" in check.do


async def test_an_open_finding_is_a_warning_and_one_that_pages_a_failure(shared: Installation) -> None:
    async with pooled(shared.dsn) as pool:
        row = await add(pool)
        await keep(pool, row, due_at_in=60, finding="host_unlisted", sources=["https://odd.example/1.png"])
        check = (await shared.examine())["findings"]
        assert (check.word, check.says.startswith("host_unlisted: ")) == ("warn", True)
        assert "odd.example" in check.do
        await pool.execute("UPDATE reconciler.work SET finding = 'storage_refuses'")
        check = (await shared.examine())["findings"]
    assert (check.word, check.says.startswith("storage_refuses: ")) == ("FAIL", True)


async def test_what_stops_run_at_its_start_fails_with_its_words(own: Installation) -> None:
    await own.sql("ALTER TABLE reconciler.work DROP COLUMN refused")
    checks = await own.examine()
    assert checks["preflight"].word == "FAIL"
    assert "reconciler.work has no column refused" in checks["preflight"].says
    assert checks["preflight"].do == "run: kie-reconciler migrate"
    assert checks["deliveries"].says == "not looked at: the rows cannot be read"
    assert checks["replicas"].word == "ok"


async def test_a_task_column_that_is_no_text_stops_run_and_fails_here_too_N11(own: Installation) -> None:
    await own.sql(
        "DROP TRIGGER reconciler_updated_2 ON public.generations",
        "ALTER TABLE public.generations ALTER COLUMN task_id TYPE bigint USING NULL",
    )
    assert (await own.examine())["preflight"].word == "FAIL"


def test_a_database_that_is_away_for_a_moment_is_no_reason_to_stop() -> None:
    away = judge_preflight(NotKnown("the database is away", code="database_away"))
    assert (away.word, away.says) == ("warn", "not looked at: the database is away")
    assert judge_preflight(NotKnown("no table", "make one", lasting=True)).word == "FAIL"


@pytest.mark.parametrize(("in_flight", "word"), [(None, "warn"), (0, "warn"), (2, "FAIL")])
def test_no_daemon_is_never_ok(in_flight: int | None, word: str) -> None:
    assert judge_replicas({}, "1", in_flight).word == word


def test_a_word_of_a_row_never_reaches_a_line_to_copy_unless_it_is_plain() -> None:
    check = judge_ignored_rows([IgnoredRows("provider", "x\n$(id)", 2), IgnoredRows("provider", "up", 1)], ("kie",))
    assert "x\\n$(id)" in check.says
    assert check.do.endswith("RECONCILER_PROVIDERS=kie,up")


@pytest.mark.parametrize(
    ("delivered", "rows", "word"), [(0, 2, "warn"), (0, 3, "FAIL"), (1, 3, "warn"), (0, 0, "ok"), (5, 0, "ok")]
)
def test_failing_rows_fail_the_check_only_where_nothing_is_delivered(delivered: int, rows: int, word: str) -> None:
    stages = [FailingStage("store", rows, 60.0, STORE)] if rows else []
    assert judge_deliveries(RecentActivity(EndedCounts(delivered, 0), stages)).word == word


def test_each_finding_is_told_with_what_to_do() -> None:
    found = (Finding("lost", 2, "page", "2 are gone.", "Restore them."), Finding("stuck", 1, "warn", "1.", "Look."))
    check = judge_findings(found)
    assert (check.word, check.says) == ("FAIL", "lost: 2 are gone. stuck: 1.")
    assert check.do == "lost: Restore them.\nstuck: Look."
    assert judge_findings(found[1:]).word == "warn"
    assert judge_findings(()).word == "ok"
