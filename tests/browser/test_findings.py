"""The banner of open findings: the operator sees what is wrong and what to do, an end user never does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import expect

from tests.browser.playable import picture
from tests.browser.stage import OPERATOR, Stage, Visit

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.soak]

Visits = Callable[..., Awaitable[Visit]]


async def cancel(stage: Stage, generation_id: str) -> None:
    await stage.rig.pool.execute(
        "UPDATE public.generations SET status = 'cancelled' WHERE id::text = $1", generation_id
    )


async def test_the_operator_sees_the_open_findings_until_they_are_gone(stage: Stage, visits: Visits, user: str) -> None:
    late = await stage.order(user, picture(), ends=False, age=3600)
    visit = await visits()
    # On the list the operator sees the rows of all tests, also those whose pictures are gone.
    await visit.go(OPERATOR, f"/?id={late}")
    banner = visit.page.locator("#findings")
    await expect(banner).to_contain_text("in flight for longer than 10 min", timeout=20_000)
    await expect(banner).to_contain_text("kie-reconciler stuck")
    await cancel(stage, late)
    await expect(banner).not_to_contain_text("in flight for longer", timeout=40_000)


async def test_an_end_user_sees_no_finding_and_asks_for_none(stage: Stage, visits: Visits, user: str) -> None:
    late = await stage.order(user, picture(), ends=False, age=3600)
    visit = await visits()
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url))
    await visit.go_as(user)
    await expect(visit.card(late)).to_be_visible(timeout=20_000)
    await expect(visit.page.locator("#findings")).to_be_hidden()
    assert not [address for address in asked if "/api/status" in address]
    await cancel(stage, late)
