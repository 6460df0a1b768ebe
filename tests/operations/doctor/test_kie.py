"""What `doctor` says about KIE: keys, credits and models."""

from __future__ import annotations

import pytest

from reconciler.operations.doctor import NotKnown, kie
from reconciler.operations.doctor.kie import KeyAccount, judge_credits
from testkit.rows import add, keep
from tests.operations.doctor.installation import KEY, Installation, not_ok, pooled


async def test_every_key_is_tried_and_a_rejected_one_is_named_by_its_setting(shared: Installation) -> None:
    checks = await shared.examine(KIE_API_KEY_VIDEO="no-longer-valid")
    assert not_ok(checks) == {"kie_keys": "FAIL"}
    assert checks["kie_keys"].says == "KIE rejects KIE_API_KEY_VIDEO"
    assert "no-longer-valid" not in repr(checks)
    assert KEY not in repr(checks)


async def test_when_kie_is_away_one_check_fails_and_the_others_are_not_looked_at(shared: Installation) -> None:
    checks = await shared.examine(KIE_MARKET_BASE_URL="http://127.0.0.1:1")
    assert not_ok(checks) == {
        "kie_keys": "FAIL", "kie_credits": "warn", "kie_models": "warn", "kie_clock": "warn"
    }  # fmt: skip
    assert checks["kie_credits"].says.startswith("not looked at: ")
    assert checks["kie_keys"].says.startswith("not known: KIE is away")


async def test_low_credits_are_a_warning_and_none_are_a_failure(shared: Installation) -> None:
    shared.kie.credits = 99.5
    assert not_ok(await shared.examine()) == {"kie_credits": "warn"}
    judged = [judge_credits([KeyAccount("KIE_API_KEY", amount)]) for amount in (100.0, 99.5, 0.0, -3.0)]
    assert [check.word for check in judged] == ["ok", "warn", "FAIL", "FAIL"]
    assert judged[1].says == "credits are low: 99.5 with KIE_API_KEY"


@pytest.mark.parametrize("fault", ["record.body_401", "record.http_403"])
async def test_a_key_that_may_not_ask_about_a_model_in_use_fails(
    shared: Installation, rows_dsn: str, fault: str
) -> None:
    async with pooled(rows_dsn) as pool:
        for model, faults in (("flux-2/pro", ()), ("kling-3.0/video", (fault,))):
            task = shared.kie.add_task(model=model, key=KEY)
            for name in faults:
                shared.kie.strike(name, task=task)
            row = await add(pool, model_key=model, task_id=task)
            await keep(pool, row, due_at_in=60, seen_task=task)
        check = (await shared.examine())["kie_models"]
        assert check.word == "FAIL"
        assert check.says == "KIE refuses to answer about kling-3.0/video with KIE_API_KEY"
        check = (await shared.examine())["kie_models"]
        assert (check.word, check.says) == ("ok", "KIE answers about the newest tasks of flux-2/pro, kling-3.0/video")


async def test_tasks_that_kie_does_not_know_say_nothing_about_permissions(shared: Installation, rows_dsn: str) -> None:
    async with pooled(rows_dsn) as pool:
        await keep(pool, await add(pool, task_id="unknown-to-kie"), due_at_in=60)
        check = (await shared.examine())["kie_models"]
    assert check.word == "ok"
    assert check.says == "no row has a task that KIE still knows, so permissions are not known"


def test_an_answer_that_did_not_come_says_nothing_about_permissions() -> None:
    assert kie._word(NotKnown("no answer within 10 s")) == "unknown"


@pytest.mark.parametrize(
    ("date", "seconds"),
    [("Sun, 01 Mar 2026 03:00:00 GMT", 1772334000.0), ("yesterday", None), ("", None), (None, None)],
)
def test_a_date_that_cannot_be_read_is_no_date(date: str | None, seconds: float | None) -> None:
    assert kie._timestamp(date) == seconds
