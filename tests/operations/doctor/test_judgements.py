"""How `doctor` judges facts that could not be read, and facts that no server in the tests has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from reconciler.operations.doctor import Check, NotKnown, fail, failed, judged, not_looked, ok, warn
from reconciler.operations.doctor.privileges import judge_privileges, judge_row_security
from reconciler.operations.doctor.table import (
    judge_indexes,
    judge_orders,
    judge_schema,
    judge_statuses,
    judge_table,
    judge_triggers,
)
from reconciler.postgres.migrations.migration_files import MigrationFile
from reconciler.postgres.migrations.missing_files import MissingFiles
from reconciler.postgres.migrations.schema_level import OlderDaemon
from reconciler.postgres.schema import TableShape

NOT_READ = NotKnown("the database is away", "start it")


@pytest.mark.parametrize("judge", [judge_statuses, judge_triggers, judge_indexes, judge_privileges, judge_row_security])
def test_facts_that_could_not_be_read_are_a_warning_and_not_judged(judge: Callable[[Any], Check]) -> None:
    check = judged("a check", NOT_READ, judge)
    assert (check.word, check.says) == ("warn", "not looked at: the database is away")


def test_files_that_wait_for_older_daemons_are_named_and_not_missing() -> None:
    after = MigrationFile("071_next.sql", "-- @after 1 0.2.0\nSELECT 1;")
    check = judge_schema(MissingFiles((), (after,), (OlderDaemon("web-1", 7, "0.1.0"),)))
    assert (check.word, check.do) == ("ok", "")
    assert check.says == "every migration is applied; 071_next.sql waits for the end of 0.1.0 on web-1 (pid 7)"


@pytest.mark.parametrize("judge", [judge_schema, judge_table])
def test_a_table_that_could_not_be_read_fails_with_what_to_do(judge: Callable[[NotKnown], Check]) -> None:
    check = judge(NOT_READ)
    assert (check.word, check.says, check.do) == ("FAIL", "the database is away", "start it")


def test_a_table_without_a_check_on_status_allows_every_status() -> None:
    assert judge_statuses(None).word == "ok"


@pytest.mark.parametrize(
    ("allowed", "word", "says"),
    [
        ({"queued", "generating"}, "FAIL", "the CHECK on status forbids success and failed"),
        ({"success", "failed"}, "FAIL", "the CHECK on status allows no status of a row in flight"),
        ({"generating", "success", "failed", "cancelled"}, "warn", "forbids queued: the daemon does not write them"),
        ({"pending", "processing", "completed", "failed"}, "ok", "allows completed, failed, pending, processing"),
    ],
)
def test_a_check_on_status_is_judged_by_the_words_that_it_forbids(allowed: set[str], word: str, says: str) -> None:
    check = judge_statuses(allowed)
    assert check.word == word
    assert says in check.says


def test_only_a_fail_is_a_failure() -> None:
    assert not failed((ok("one", "well"), warn("two", "slow"), not_looked("three", "away")))
    assert failed((ok("one", "well"), fail("two", "broken")))


def test_columns_that_a_row_must_fill_and_an_order_cannot_are_named_with_the_sql() -> None:
    columns = {"id": "uuid", "status": "text", "shop_id": "uuid"}
    check = judge_orders(TableShape(columns, needed=frozenset({"shop_id"})))
    assert (check.word, "shop_id" in check.says) == ("warn", True)
    assert 'ALTER TABLE public.generations ALTER COLUMN "shop_id" DROP NOT NULL;' in check.do
    assert judge_orders(TableShape(columns)).word == "ok"
