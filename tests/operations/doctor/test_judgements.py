"""What `doctor` makes of facts that it could not have, and of those that no server here has."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from reconciler.operations.doctor import Check, NotKnown, callback, fail, failed, not_looked, ok, table, warn

UNSEEN = NotKnown("the database is away", "start it")


@pytest.mark.parametrize(
    "judge",
    [
        table.statuses,
        table.triggers,
        lambda unseen: table.indexes(unseen, {}),
        table.privileges,
        table.row_security,
    ],
)
def test_what_could_not_be_seen_is_told_and_neither_praised_nor_blamed(judge: Callable[[NotKnown], Check]) -> None:
    check = judge(UNSEEN)
    assert (check.word, check.says) == ("warn", "not looked at: the database is away")


@pytest.mark.parametrize("judge", [table.schema, lambda unseen: table.table(unseen, {})])
def test_a_table_that_could_not_be_seen_fails_with_what_to_do(judge: Callable[[NotKnown], Check]) -> None:
    check = judge(UNSEEN)
    assert (check.word, check.says, check.do) == ("FAIL", "the database is away", "start it")


def test_a_table_without_limits_takes_every_status() -> None:
    assert table.statuses(None).word == "ok"


@pytest.mark.parametrize(
    ("allowed", "word", "says"),
    [
        ({"queued", "generating"}, "FAIL", "the CHECK on status forbids success and failed"),
        ({"success", "failed"}, "FAIL", "the CHECK on status takes no row in flight"),
        ({"generating", "success", "failed", "cancelled"}, "warn", "forbids queued, which are not written then"),
        ({"pending", "processing", "completed", "failed"}, "ok", "takes completed, failed, pending, processing"),
    ],
)
def test_a_check_is_judged_by_what_it_forbids(allowed: set[str], word: str, says: str) -> None:
    check = table.statuses(allowed)
    assert check.word == word
    assert says in check.says


def test_only_a_fail_is_a_failure() -> None:
    assert not failed((ok("one", "well"), warn("two", "slow"), not_looked("three", "away")))
    assert failed((ok("one", "well"), fail("two", "broken")))


def test_an_address_at_which_nobody_was_asked_is_not_judged_by_its_answer() -> None:
    address = callback.CallbackAddress(
        "https://shop.example/api/kie/callback", proven=True, private=False, by_design=False
    )
    assert callback.callback(address, None).says == "not looked at: nobody was asked"
