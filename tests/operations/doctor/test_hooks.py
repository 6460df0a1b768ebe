"""What `doctor` says about the application's hooks: which exist, whether they fit and whether they may be called."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.operations.doctor import Check
from reconciler.operations.doctor.hooks import judge_hooks, read_hooks
from tests.operations.doctor.installation import Installation, run

GOOD = (
    "reconciler.on_order(generation_id uuid, user_id uuid, model text, input jsonb)",
    "reconciler.on_failed(generation_id uuid, reason text)",
    "reconciler.on_failed(generation_id uuid, task_id text, reason text)",
    "reconciler.on_delivered(generation_id uuid, task_id text)",
)
BAD = (
    "reconciler.on_order(generation_id text, user_id uuid, model text, input jsonb)",
    "reconciler.on_order(generation_id uuid, user_id uuid)",
    "reconciler.on_failed(generation_id uuid)",
    "reconciler.on_delivered(generation_id uuid)",
)


async def define(owner: Any, signature: str) -> None:
    await owner.execute(f"CREATE FUNCTION {signature} RETURNS void LANGUAGE sql AS ''")


async def as_daemon(owner: Any, *, users_order: bool = False) -> Check:
    """Check the hooks as a login of the role reconciler."""
    await owner.execute("SET LOCAL ROLE reconciler")
    check = judge_hooks(await read_hooks(owner), users_order=users_order)
    await owner.execute("RESET ROLE")
    return check


async def test_without_hooks_it_says_so(owner: Any) -> None:
    check = await as_daemon(owner)
    assert (check.word, check.says) == ("ok", "the application has defined none")


async def test_it_names_every_hook_that_is_called(owner: Any) -> None:
    for signature in GOOD:
        await define(owner, signature)
    check = await as_daemon(owner, users_order=True)
    assert check.word == "ok"
    assert check.says == (
        "called: reconciler.on_delivered(uuid, text), reconciler.on_failed(uuid, text), "
        "reconciler.on_failed(uuid, text, text), reconciler.on_order(uuid, uuid, text, jsonb)"
    )


@pytest.mark.parametrize("signature", BAD)
async def test_a_hook_that_would_never_be_called_is_found(owner: Any, signature: str) -> None:
    await define(owner, signature)
    check = await as_daemon(owner)
    assert check.word == "FAIL"
    name = signature.partition("(")[0]
    assert name in check.says
    assert f"{name}(uuid" in check.do


async def test_an_overload_of_the_applications_own_does_no_harm(owner: Any) -> None:
    await define(owner, GOOD[1])
    await define(owner, "reconciler.on_failed(generation_id uuid)")
    assert (await as_daemon(owner)).word == "ok"


@pytest.mark.parametrize("signature", GOOD)
async def test_a_hook_that_may_not_be_called_is_found_and_the_sql_grants_it(owner: Any, signature: str) -> None:
    await define(owner, signature)
    await owner.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
    check = await as_daemon(owner)
    assert check.word == "FAIL"
    await run(owner, check.do)
    assert (await as_daemon(owner)).word == "ok"


async def test_end_users_who_order_without_a_hook_that_charges_are_a_warning(shared: Installation) -> None:
    checks = await shared.examine(RECONCILER_ORDERS="users")
    assert (checks["hooks"].word, "on_order" in checks["hooks"].says) == ("warn", True)
