"""Signing in: a token from the form or the address, kept for the tab alone, and refused when it is invalid."""

from __future__ import annotations

import time

import pytest
from playwright.async_api import expect

from tests.browser.stage import OPERATOR, Stage, Visit
from tests.http.tokens import shared

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_token_is_entered_once_and_kept_for_the_tab(stage: Stage, visit: Visit, user: str) -> None:
    row = await stage.row(user, status="cancelled")
    page = await visit.go()
    await page.get_by_label("Access token").fill(f"  Bearer {shared(user)} ")
    await page.keyboard.press("Enter")
    await expect(visit.card(row)).to_be_visible()
    await page.reload()
    await expect(visit.card(row)).to_be_visible()
    assert await page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


async def test_a_token_in_the_address_is_used_and_removed_at_once(stage: Stage, visit: Visit, user: str) -> None:
    row = await stage.row(user, status="cancelled")
    page = await visit.go_as(user, f"/?id={row}")
    await expect(visit.card(row)).to_be_visible()
    assert page.url == f"{stage.url}/?id={row}"
    assert await page.evaluate("history.length") <= 2


async def test_a_token_pasted_into_the_address_of_an_open_page_is_used(stage: Stage, visit: Visit, user: str) -> None:
    row = await stage.row(user, status="cancelled")
    page = await visit.go()
    await page.evaluate("token => { location.hash = `token=${token}`; }", shared(user))
    await expect(visit.card(row)).to_be_visible()
    assert page.url == f"{stage.url}/"


async def test_a_refused_token_shows_an_error_and_another_can_be_entered(stage: Stage, visit: Visit, user: str) -> None:
    visit.allow("status of 401")
    page = await visit.go()
    field = page.get_by_label("Access token")
    for wrong in ("a-wrong-one", shared(user, exp=int(time.time()) - 60), "ключ"):
        await field.fill(wrong)
        await page.get_by_role("button", name="Show my generations").click()
        await expect(page.get_by_role("alert")).to_contain_text("This token is not accepted.")
        await expect(field).to_be_focused()
        await expect(field).to_have_value("")
        await expect(field).to_have_attribute("aria-invalid", "true")
    await field.fill(OPERATOR)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="History")).to_be_visible()


async def test_when_the_token_expires_the_page_asks_for_another_and_goes_on_with_it(
    stage: Stage, visit: Visit, user: str
) -> None:
    visit.allow("status of 401")
    row = await stage.row(user, status="cancelled")
    page = await visit.go(shared(user, exp=int(time.time()) + 5))
    await visit.connection("live")
    await expect(page.get_by_role("alert")).to_contain_text("It may be mistyped or have expired.", timeout=20_000)
    await expect(visit.card(row)).to_have_count(0)
    await page.evaluate("token => { location.hash = `token=${token}`; }", shared(user))
    await expect(visit.card(row)).to_be_visible()
    await visit.connection("live")


async def test_an_empty_form_shows_an_error(visit: Visit) -> None:
    page = await visit.go()
    await page.get_by_role("button", name="Show my generations").click()
    await expect(page.get_by_role("alert")).to_have_text("Enter a token.")


async def test_signing_out_removes_the_token_and_the_cards(stage: Stage, visit: Visit, user: str) -> None:
    row = await stage.row(user, status="cancelled")
    page = await visit.go_as(user)
    await expect(visit.card(row)).to_be_visible()
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_label("Access token")).to_be_focused()
    await expect(visit.card(row)).to_have_count(0)
    assert await page.evaluate("sessionStorage.getItem('token')") is None
    await page.reload()
    await expect(page.get_by_label("Access token")).to_be_visible()
